"""The exchange's frames: payloads with Binance's fields in Binance's order, and payloads as bytes for a socket."""

from collections.abc import Sequence
from decimal import Decimal, localcontext

import msgspec

from app.market.model import EXACT, plain
from ingest.simulator.listing import PLACES
from ingest.simulator.tape import Tape, Trade

SECOND = 1_000_000
DAY = 86_400 * SECOND
SAMPLE = 300 * SECOND
ZERO = "0.00000000"


def trade_frame(symbol: str, trade: Trade, event_us: int) -> bytes:
    return (
        f'{{"e":"trade","E":{event_us // 1000},"s":"{symbol}","t":{trade.id},"p":"{trade.price}","q":"{trade.size}",'
        f'"T":{trade.time_us // 1000},"m":{"true" if trade.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def aggregate_frame(symbol: str, trade: Trade, event_us: int) -> bytes:
    """Each trade is its own aggregate."""
    return (
        f'{{"e":"aggTrade","E":{event_us // 1000},"s":"{symbol}","a":{trade.id},"p":"{trade.price}","q":"{trade.size}",'
        f'"f":{trade.id},"l":{trade.id},"T":{trade.time_us // 1000},'
        f'"m":{"true" if trade.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def kline_frame(tape: Tape, start_us: int, event_us: int) -> bytes:
    """The closed candle of the second that starts at `start_us`; without trades it is flat at the last close."""
    end_us = start_us + SECOND
    from_id = tape.id_at(start_us)
    trades = tape.trades(from_id, max(0, tape.id_at(end_us) - from_id), end_us - 1)
    before = tape.latest(1, start_us - 1)
    shape = trades or before
    prices = [Decimal(trade.price) for trade in shape]
    taken = [trade for trade in trades if not trade.buyer_is_maker]
    candle = {
        "t": start_us // 1000,
        "T": end_us // 1000 - 1,
        "s": tape.listing.symbol,
        "i": "1s",
        "f": trades[0].id if trades else -1,
        "L": trades[-1].id if trades else -1,
        "o": shape[0].price if shape else ZERO,
        "c": shape[-1].price if shape else ZERO,
        "h": plain(max(prices, default=Decimal(ZERO))),
        "l": plain(min(prices, default=Decimal(ZERO))),
        "v": volume(trades),
        "n": len(trades),
        "x": True,
        "q": quote_volume(trades),
        "V": volume(taken),
        "Q": quote_volume(taken),
        "B": "0",
    }
    return msgspec.json.encode({"e": "kline", "E": event_us // 1000, "s": tape.listing.symbol, "k": candle})


def volume(trades: Sequence[Trade]) -> str:
    return _places(sum((Decimal(trade.size) for trade in trades), Decimal(0)))


def quote_volume(trades: Sequence[Trade]) -> str:
    """The sum of price times size, rounded once, at the end."""
    with localcontext(EXACT):
        return _places(sum((Decimal(trade.price) * Decimal(trade.size) for trade in trades), Decimal(0)))


class Day:
    """The last 24 hours of a tape as a small ticker.

    Last and first price are exact; the rest is estimated from a trade every five minutes, so any rate costs the same.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._samples: dict[int, Trade] = {}

    def frame(self, now_us: int) -> bytes | None:
        """The miniTicker of the 24 hours to `now_us`, or None while nothing has been traded."""
        if not (newest := self._tape.latest(1, now_us)):
            return None
        oldest = self._first(now_us - DAY, now_us)
        places = range((oldest.time_us // SAMPLE + 1) * SAMPLE, now_us + 1, SAMPLE)
        self._samples = {place: self._samples.get(place) or self._first(place, now_us) for place in places}
        seen = [oldest, *self._samples.values(), newest[0]]
        prices = [Decimal(trade.price) for trade in seen]
        with localcontext(EXACT):
            share = Decimal(newest[0].id - oldest.id + 1) / len(seen)
            base = share * sum(Decimal(trade.size) for trade in seen)
            quote = share * sum(Decimal(trade.size) * price for trade, price in zip(seen, prices, strict=True))
            return msgspec.json.encode(
                {
                    "e": "24hrMiniTicker",
                    "E": now_us // 1000,
                    "s": self._tape.listing.symbol,
                    "c": newest[0].price,
                    "o": oldest.price,
                    "h": plain(max(prices)),
                    "l": plain(min(prices)),
                    "v": _places(base),
                    "q": _places(quote),
                }
            )

    def _first(self, time_us: int, now_us: int) -> Trade:
        """The first trade at or after a time, or the newest where none has followed yet."""
        return (self._tape.trades(self._tape.id_at(time_us), 1, now_us) or self._tape.latest(1, now_us))[0]


def shutdown_frame(now_us: int) -> bytes:
    """The notice before the exchange closes a connection; never wrapped in a stream."""
    return b'{"e":"serverShutdown","E":%d}' % (now_us // 1000)


def combined(stream: str, payload: bytes) -> bytes:
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def text(payload: bytes) -> bytes:
    """A payload as an unmasked text frame of RFC 6455, ready for the socket."""
    return _header(0x81, len(payload)) + payload


def ping(payload: bytes) -> bytes:
    return _header(0x89, len(payload)) + payload


def pong(payload: bytes) -> bytes:
    return _header(0x8A, len(payload)) + payload


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2)
    return bytes((first, 127)) + length.to_bytes(8)


def _places(value: Decimal) -> str:
    with localcontext(EXACT):
        return plain(round(value, PLACES))
