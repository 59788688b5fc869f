"""Kraken's spot trades (https://docs.kraken.com/api/docs/websocket-v2/trade), without a key.

A subscription begins with a snapshot of the last 50 trades, some of which may be known already. `trade_id` counts the
trades of a pair. Prices and sizes are JSON numbers and are taken digit by digit. `side` is the taker's. The symbol
BTC/USD is our ticker BTC-USD: a slash would not fit into an address.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Final, Literal

import msgspec

from app.market.model import Feed, InstrumentId, Tick
from ingest.sources import GarbageFrame, Request, RequestRefused, Source
from ingest.sources.exact import UNDECODABLE, UNSTORABLE, Id, Time, micros_of, tick_of

BASE_URL: Final = "wss://ws.kraken.com/v2"


class _Trade(msgspec.Struct, gc=False):
    symbol: str
    side: Literal["buy", "sell"]
    qty: Decimal
    price: Decimal
    trade_id: Id
    timestamp: Time


class _Trades(msgspec.Struct):
    channel: Literal["trade"]
    type: Literal["snapshot", "update"]
    data: list[_Trade]


class _Other(msgspec.Struct):
    """A frame of another channel, or the answer to a request."""

    channel: str | None = None
    method: str | None = None
    success: bool | None = None
    error: str | None = None
    symbol: str | None = None
    req_id: int | None = None


_trades = msgspec.json.Decoder(_Trades)
_other = msgspec.json.Decoder(_Other)


def kraken(feed: Feed, base_url: str = BASE_URL) -> Source:
    """Kraken's trades; raises ValueError for another feed than trade."""
    if feed != "trade":
        raise ValueError(f"Kraken has no feed {feed!r}; there is trade")
    return Source(
        name="KRAKEN",
        feed="trade",
        url=base_url,
        contiguous_ids=True,
        parse=parse,
        subscribe=_request("subscribe", snapshot=True),
        unsubscribe=_request("unsubscribe"),
        tickers_per_request=50,
        requests_per_second=2,  # the limit follows the load and is not published
        tickers_per_connection=200,  # no limit is published; this spreads the load
        connections_per_window=100,  # about 150 in ten minutes are allowed to an address
        connection_window=600.0,
        max_age=24 * 3600.0,  # no limit is published
        silence=15.0,  # a heartbeat comes every second without a trade
    )


def symbol_of(ticker: str) -> str:
    return ticker.replace("-", "/")


def ticker_of(symbol: str) -> str:
    return symbol.replace("/", "-")


def _request(method: str, **options: bool) -> Request:
    def frame(tickers: Sequence[str], request: int) -> str:
        params = {"channel": "trade", "symbol": [symbol_of(ticker) for ticker in tickers], **options}
        return msgspec.json.encode({"method": method, "params": params, "req_id": request}).decode()

    return frame


def parse(frame: bytes | str, ids: Mapping[str, InstrumentId]) -> Sequence[Tick]:
    """A frame with one trade that cannot be true is garbage as a whole: its ids will be missing, and be repaired."""
    try:
        trades = _trades.decode(frame)
    except UNDECODABLE as error:
        _understand(frame, error)
        return ()
    try:
        ticks = [_tick(trade, ids[ticker]) for trade in trades.data if (ticker := ticker_of(trade.symbol)) in ids]
    except ArithmeticError:
        raise GarbageFrame(UNSTORABLE) from None
    if trades.type == "snapshot":
        ticks.sort(key=attrgetter("trade_id"))  # its order is not documented
    return ticks


def _tick(trade: _Trade, instrument: InstrumentId) -> Tick:
    time_us = micros_of(trade.timestamp)
    return tick_of(instrument, trade.trade_id, time_us, trade.price, trade.qty, trade.side == "sell")


def _understand(frame: bytes | str, error: Exception) -> None:
    """Returns for a frame that rightly carries no trade; raises what a parser raises for all others."""
    try:
        other = _other.decode(frame)
    except UNDECODABLE:
        raise GarbageFrame(str(error)) from None
    if other.error is not None or other.success is False:
        about = f" ({other.symbol})" if other.symbol else ""
        raise RequestRefused(f"{other.error or 'no reason given'}{about}", other.req_id)
    if other.channel == "trade" or (other.channel is None and other.method is None):
        raise GarbageFrame(str(error))
