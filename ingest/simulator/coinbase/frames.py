"""Coinbase Exchange's feed messages: `match`, `last_match` and `heartbeat`, their fields in the real ones' order."""

import functools
import time
from functools import partial

from ingest.simulator.listing import Listing
from ingest.simulator.market import SECOND, mix
from ingest.simulator.tape import Tape, Trade
from ingest.simulator.wire import SecondForm, Topic, TradeForm

FORM = "coinbase"
MATCHES = "matches"
HEARTBEAT = "heartbeat"
CHANNELS = (MATCHES, HEARTBEAT)

GARBAGE = (
    b"not json at all",
    b'{"type":"match","trade_id":17',
    b"[]",
    b"null",
    b'{"type":"match"}',
    b'{"type":"match","trade_id":1,"side":"buy","size":"1","price":"1","product_id":"NO-SUCH","sequence":1,'
    b'"time":"2024-01-01T00:00:00.000000Z"}',
    b'{"type":"match","trade_id":"x","side":"buy","size":"1","price":"1","product_id":"%s","sequence":1,'
    b'"time":"2024-01-01T00:00:00.000000Z"}',
    b'{"type":"match","trade_id":1,"side":"buy","size":"1","price":"NaN","product_id":"%s","sequence":1,'
    b'"time":"2024-01-01T00:00:00.000000Z"}',
    b'{"type":"match","trade_id":1,"side":"buy","size":"1e400","price":"1","product_id":"%s","sequence":1,'
    b'"time":"2024-01-01T00:00:00.000000Z"}',
    b'{"type":"match","trade_id":1,"side":"neither","size":"1","price":"1","product_id":"%s","sequence":1,'
    b'"time":"2024-01-01T00:00:00.000000Z"}',
    b'{"type":"match","trade_id":1,"side":"buy","size":"1","price":"1","product_id":"%s","sequence":1,"time":"noon"}',
)
"""Frames no parser may take for a trade: broken JSON, wrong shapes, an unknown product, impossible values."""


def product_id(listing: Listing) -> str:
    return f"{listing.base}-{listing.quote}"


def topic(channel: str, product: str) -> Topic:
    return Topic(FORM, f"{channel}:{product}")


def trade_forms(listing: Listing) -> dict[Topic, TradeForm]:
    """The topic that tells a product's trades one by one."""
    product = product_id(listing)
    garbage = [frame.replace(b"%s", product.encode()) for frame in GARBAGE]
    return {topic(MATCHES, product): TradeForm(partial(_match_of, product), garbage)}


def second_forms(tape: Tape) -> dict[Topic, SecondForm]:
    """The topic that tells each second how far a product has come."""
    return {topic(HEARTBEAT, product_id(tape.listing)): partial(_heartbeats, tape)}


def match_frame(kind: str, product: str, trade: Trade) -> bytes:
    """`side` is the maker's; the digits are trimmed, as in Coinbase's feed (but not in its REST)."""
    return (
        f'{{"type":"{kind}","trade_id":{trade.id},"maker_order_id":"{_order(2 * trade.id)}",'
        f'"taker_order_id":"{_order(2 * trade.id + 1)}","side":"{side(trade)}","size":"{_trimmed(trade.size)}",'
        f'"price":"{_trimmed(trade.price)}","product_id":"{product}","sequence":{sequence(trade.id)},'
        f'"time":"{iso(trade.time_us)}"}}'
    ).encode()


def heartbeat_frame(product: str, last_id: int, now_us: int) -> bytes:
    return (
        f'{{"type":"heartbeat","last_trade_id":{last_id},"product_id":"{product}",'
        f'"sequence":{sequence(last_id)},"time":"{iso(now_us)}"}}'
    ).encode()


def side(trade: Trade) -> str:
    return "buy" if trade.buyer_is_maker else "sell"


def sequence(trade_id: int) -> int:
    """The place of a trade among all messages of its product: it rises with ids, with the book's messages between."""
    return trade_id * 16 + (mix(trade_id) & 7)


def iso(time_us: int) -> str:
    """A time as Coinbase writes it: UTC, six decimals, Z."""
    return f"{_second(time_us // SECOND)}.{time_us % SECOND:06d}Z"


def _match_of(product: str, trade: Trade, event_us: int) -> bytes:
    return match_frame("match", product, trade)


def _heartbeats(tape: Tape, since_us: int, now_us: int) -> list[bytes]:
    last = tape.latest(1, now_us)
    return [heartbeat_frame(product_id(tape.listing), last[0].id if last else 0, now_us)]


def _order(number: int) -> str:
    """An order id: a UUID of version 4 that follows from the number."""
    digits = f"{mix(number):016x}{mix(~number):016x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _trimmed(digits: str) -> str:
    return digits.rstrip("0").removesuffix(".") if "." in digits else digits


@functools.lru_cache(maxsize=64)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
