"""Binance Spot market streams, on the combined socket (https://developers.binance.com/docs/binance-spot-api-docs).

Ids: `trade` and `aggTrade` count without holes and are numbered by the exchange; `kline_1s` and `miniTicker` have no
ids, so the event's time in microseconds stands in. Times come in milliseconds, or in microseconds where the connection
asks for them, and are told apart by their magnitude.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Generic, Literal, TypeVar

import msgspec

from app.market.model import Feed, InstrumentId, Tick
from ingest.sources import ClosingSoon, GarbageFrame, Parse, Request, RequestRefused, Source
from ingest.sources.exact import UNDECODABLE, UNSTORABLE, ZERO, Id, micros, tick_of

BASE_URL = "wss://stream.binance.com:9443"

HOUR = 3600.0

OTHER_EVENTS = frozenset(
    {"trade", "aggTrade", "kline", "24hrMiniTicker", "24hrTicker", "1hTicker", "4hTicker", "1dTicker", "avgPrice"}
    | {"blockTrade", "depthUpdate", "executionReport", "outboundAccountPosition"}
)


class _Event(msgspec.Struct, gc=False):
    symbol: str = msgspec.field(name="s")


class _Trade(_Event, gc=False):
    event: Literal["trade"] = msgspec.field(name="e")
    id: Id = msgspec.field(name="t")
    price: Decimal = msgspec.field(name="p")
    size: Decimal = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")


class _AggregateTrade(_Event, gc=False):
    event: Literal["aggTrade"] = msgspec.field(name="e")
    id: Id = msgspec.field(name="a")
    price: Decimal = msgspec.field(name="p")
    size: Decimal = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")


class _Candle(msgspec.Struct, gc=False):
    close_time: int = msgspec.field(name="T")
    interval: str = msgspec.field(name="i")
    close: Decimal = msgspec.field(name="c")
    volume: Decimal = msgspec.field(name="v")
    closed: bool = msgspec.field(name="x")


class _Kline(_Event, gc=False):
    event: Literal["kline"] = msgspec.field(name="e")
    candle: _Candle = msgspec.field(name="k")


class _MiniTicker(_Event, gc=False):
    event: Literal["24hrMiniTicker"] = msgspec.field(name="e")
    time: int = msgspec.field(name="E")
    close: Decimal = msgspec.field(name="c")


_E = TypeVar("_E", bound=_Event)


class _Combined(msgspec.Struct, Generic[_E], gc=False):
    data: _E


class _Unnamed(msgspec.Struct):
    name: str | None = msgspec.field(name="e", default=None)


class _Refusal(msgspec.Struct):
    code: int
    message: str = msgspec.field(name="msg")


class _Other(msgspec.Struct):
    """Every shape of a frame that is not the event that was subscribed to."""

    name: str | None = msgspec.field(name="e", default=None)
    data: _Unnamed | None = None
    event: _Unnamed | None = None
    error: _Refusal | None = None
    code: int | None = None
    message: str | None = msgspec.field(name="msg", default=None)
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: int | str | None = None


_other = msgspec.json.Decoder(_Other)


def binance(feed: Feed, base_url: str = BASE_URL) -> Source:
    """Binance's streams of one kind; `base_url` serves Binance.US, the data-only host, or a simulated exchange.

    Raises ValueError for a feed that Binance does not have.
    """
    if feed not in PARSERS:
        raise ValueError(f"Binance has no feed {feed!r}; there are {', '.join(PARSERS)}")
    return Source(
        name="BINANCE",
        feed=feed,
        url=f"{base_url.rstrip('/')}/stream?timeUnit=MICROSECOND",  # as in the daily dumps: a tick has one key
        contiguous_ids=feed in {"trade", "aggTrade"},
        parse=PARSERS[feed],
        subscribe=_request("SUBSCRIBE", feed),
        unsubscribe=_request("UNSUBSCRIBE", feed),
        tickers_per_request=100,  # frames of more than 4,096 bytes have been refused
        requests_per_second=4,  # 5 messages are allowed, and a pong is one
        tickers_per_connection=1024,
        connections_per_window=300,
        connection_window=300.0,
        max_age=23.5 * HOUR,  # cut at 24 h
        silence=60.0,
    )


def _request(method: str, feed: Feed) -> Request:
    def frame(tickers: Sequence[str], request: int) -> str:
        streams = [f"{ticker.lower()}@{feed}" for ticker in tickers]
        return msgspec.json.encode({"method": method, "params": streams, "id": request}).decode()

    return frame


def _parser(
    name: str,
    combined_type: type[_Combined[_E]],
    raw_type: type[_E],
    ticks_of: Callable[[_E, InstrumentId], Sequence[Tick]],
) -> Parse:
    combined = msgspec.json.Decoder(combined_type).decode
    raw = msgspec.json.Decoder(raw_type).decode

    def parse(frame: bytes | str, ids: Mapping[str, InstrumentId]) -> Sequence[Tick]:
        try:
            event = combined(frame).data
        except UNDECODABLE as error:
            try:
                event = raw(frame)
            except UNDECODABLE:
                _understand(frame, name, error)
                return ()
        instrument = ids.get(event.symbol)
        if instrument is None:
            return ()
        try:
            return ticks_of(event, instrument)
        except ArithmeticError:
            raise GarbageFrame(UNSTORABLE) from None

    return parse


def _understand(frame: bytes | str, expected: str, error: Exception) -> None:
    """Returns for a frame that rightly carries no tick; raises what a parser raises for all others."""
    try:
        other = _other.decode(frame)
    except UNDECODABLE:
        raise GarbageFrame(str(error)) from None
    names = {part.name for part in (other, other.data, other.event) if part} - {None}
    if "serverShutdown" in names:
        raise ClosingSoon("the server is about to shut down")
    request = other.id if isinstance(other.id, int) else None
    if other.error:
        raise RequestRefused(f"{other.error.message} (code {other.error.code})", request)
    if other.code is not None and other.message is not None:
        raise RequestRefused(f"{other.message} (code {other.code})", request)
    if other.result is msgspec.UNSET and not names & (OTHER_EVENTS - {expected}):
        raise GarbageFrame(str(error))


def _trade(trade: _Trade | _AggregateTrade, instrument: InstrumentId) -> Sequence[Tick]:
    return (tick_of(instrument, trade.id, micros(trade.time), trade.price, trade.size, trade.buyer_is_maker),)


def _closed_second(kline: _Kline, instrument: InstrumentId) -> Sequence[Tick]:
    candle = kline.candle
    if not candle.closed or candle.interval != "1s":
        return ()
    time_us = micros(candle.close_time)
    return (tick_of(instrument, time_us, time_us, candle.close, candle.volume, None),)


def _quote(ticker: _MiniTicker, instrument: InstrumentId) -> Sequence[Tick]:
    time_us = micros(ticker.time)
    return (tick_of(instrument, time_us, time_us, ticker.close, ZERO, None),)


PARSERS: Mapping[Feed, Parse] = {
    "trade": _parser("trade", _Combined[_Trade], _Trade, _trade),
    "aggTrade": _parser("aggTrade", _Combined[_AggregateTrade], _AggregateTrade, _trade),
    "kline_1s": _parser("kline", _Combined[_Kline], _Kline, _closed_second),
    "miniTicker": _parser("24hrMiniTicker", _Combined[_MiniTicker], _MiniTicker, _quote),
}
