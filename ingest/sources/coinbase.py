"""Coinbase Exchange's market feed (https://docs.cdp.coinbase.com/exchange/websocket-feed/channels), without a key.

A tick is a `match`, or the `last_match` that a subscription begins with: the newest trade before it, which may be known
already. `trade_id` counts a product's trades without holes and gives ticks their order. `sequence` numbers all messages
about a product, orders among them, so that in this channel it rises with holes: it proves nothing missing, and is only
checked to be a whole number. `side` is the maker's. Tickers are product ids, as in BTC-USD.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal

import msgspec

from app.market.model import Feed, InstrumentId, Tick
from ingest.sources import GarbageFrame, Request, RequestRefused, Source
from ingest.sources.exact import UNDECODABLE, UNSTORABLE, Id, Time, micros_of, tick_of

BASE_URL: Final = "wss://ws-feed.exchange.coinbase.com"
CHANNELS: Final = ("matches", "heartbeat")


class _Match(msgspec.Struct, gc=False):
    type: Literal["match", "last_match"]
    trade_id: Id
    sequence: int
    product: str = msgspec.field(name="product_id")
    price: Decimal
    size: Decimal
    side: Literal["buy", "sell"]
    time: Time


class _Other(msgspec.Struct):
    type: str
    message: str = ""
    reason: str = ""


_match = msgspec.json.Decoder(_Match)
_other = msgspec.json.Decoder(_Other)


def coinbase(feed: Feed, base_url: str = BASE_URL) -> Source:
    """Coinbase's matches; raises ValueError for another feed than trade."""
    if feed != "trade":
        raise ValueError(f"Coinbase has no feed {feed!r}; there is trade")
    return Source(
        name="COINBASE",
        feed="trade",
        url=base_url,
        contiguous_ids=True,
        parse=parse,
        subscribe=_request("subscribe"),
        unsubscribe=_request("unsubscribe"),
        tickers_per_request=100,
        requests_per_second=4,  # 8 are allowed to an address
        tickers_per_connection=100,  # no limit is published; this spreads the load
        connections_per_window=4,
        connection_window=1.0,
        max_age=24 * 3600.0,  # no limit is published
        silence=15.0,  # each product's heartbeat comes once a second
    )


def _request(kind: str) -> Request:
    def frame(tickers: Sequence[str], _: int) -> str:
        return msgspec.json.encode({"type": kind, "product_ids": list(tickers), "channels": CHANNELS}).decode()

    return frame


def parse(frame: bytes | str, ids: Mapping[str, InstrumentId]) -> Sequence[Tick]:
    try:
        match = _match.decode(frame)
    except UNDECODABLE as error:
        _understand(frame, error)
        return ()
    instrument = ids.get(match.product)
    if instrument is None:
        return ()
    try:
        time_us = micros_of(match.time)
        return (tick_of(instrument, match.trade_id, time_us, match.price, match.size, match.side == "buy"),)
    except ArithmeticError:
        raise GarbageFrame(UNSTORABLE) from None


def _understand(frame: bytes | str, error: Exception) -> None:
    """Returns for a message that is no match, known or not, as the exchange asks; raises for all others."""
    try:
        other = _other.decode(frame)
    except UNDECODABLE:
        raise GarbageFrame(str(error)) from None
    if other.type == "error":
        raise RequestRefused(": ".join(filter(None, (other.message, other.reason))) or "error without a message")
    if other.type in {"match", "last_match"}:
        raise GarbageFrame(str(error))
