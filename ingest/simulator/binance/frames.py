"""Binance's stream events: its fields in its order, times in milliseconds or, for who asks for them, microseconds."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import partial

import msgspec

from app.market.model import EXACT, plain
from ingest.simulator.binance.figures import ZERO, places, quote_volume, volume
from ingest.simulator.listing import Listing
from ingest.simulator.market import SECOND
from ingest.simulator.tape import Tape, Trade
from ingest.simulator.wire import SecondForm, Topic, TradeForm

DAY = 86_400 * SECOND
SAMPLE = 300 * SECOND
UNITS = {"binance": 1000, "binance microseconds": 1}
"""The forms, and how many microseconds a unit of their times has."""

GARBAGE = (
    b"not json at all",
    b'{"e":"trade","E":17',
    b"[]",
    b"null",
    b'{"e":"trade"}',
    b'{"e":"trade","E":0,"s":"NOSUCHSYMBOL","t":1,"p":"1","q":"1","T":0,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":"x","p":"1","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"NaN","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"1e400","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"-1","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"1","q":"1","T":99999999999999999999,"m":true,"M":true}',
)
"""Frames no parser may take for a trade: broken JSON, wrong shapes, an unknown symbol, impossible numbers."""


def trade_forms(listing: Listing) -> dict[Topic, TradeForm]:
    """The topics that tell a symbol's trades one by one."""
    symbol = listing.symbol
    garbage = [frame.replace(b"%s", symbol.encode()) for frame in GARBAGE]
    encoders: dict[str, Callable[[str, int, Trade, int], bytes]] = {"trade": trade_frame, "aggTrade": aggregate_frame}
    return {
        Topic(form, f"{symbol.lower()}@{kind}"): TradeForm(partial(encode, symbol, unit), garbage)
        for form, unit in UNITS.items()
        for kind, encode in encoders.items()
    }


def second_forms(tape: Tape) -> dict[Topic, SecondForm]:
    """The topics that tell what a symbol's seconds brought: candles, and the ticker."""
    symbol, day = tape.listing.symbol.lower(), Day(tape)
    forms: dict[Topic, SecondForm] = {}
    for form, unit in UNITS.items():
        forms[Topic(form, f"{symbol}@kline_1s")] = partial(_candles, tape, unit)
        forms[Topic(form, f"{symbol}@miniTicker")] = partial(_tickers, day, unit)
    return forms


def trade_frame(symbol: str, unit: int, trade: Trade, event_us: int) -> bytes:
    return (
        f'{{"e":"trade","E":{event_us // unit},"s":"{symbol}","t":{trade.id},"p":"{trade.price}","q":"{trade.size}",'
        f'"T":{trade.time_us // unit},"m":{"true" if trade.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def aggregate_frame(symbol: str, unit: int, trade: Trade, event_us: int) -> bytes:
    """Each trade is its own aggregate."""
    return (
        f'{{"e":"aggTrade","E":{event_us // unit},"s":"{symbol}","a":{trade.id},"p":"{trade.price}","q":"{trade.size}",'
        f'"f":{trade.id},"l":{trade.id},"T":{trade.time_us // unit},'
        f'"m":{"true" if trade.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def kline_frame(tape: Tape, unit: int, start_us: int, event_us: int) -> bytes:
    """The closed candle of the second that starts at `start_us`; without trades it is flat at the last close."""
    end_us = start_us + SECOND
    from_id = tape.id_at(start_us)
    trades = tape.trades(from_id, max(0, tape.id_at(end_us) - from_id), end_us - 1)
    before = tape.latest(1, start_us - 1)
    shape = trades or before
    prices = [Decimal(trade.price) for trade in shape]
    taken = [trade for trade in trades if not trade.buyer_is_maker]
    candle = {
        "t": start_us // unit,
        "T": end_us // unit - 1,
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
    return msgspec.json.encode({"e": "kline", "E": event_us // unit, "s": tape.listing.symbol, "k": candle})


class Day:
    """The last 24 hours of a tape as a small ticker.

    Last and first price are exact; the rest is estimated from a trade every five minutes, so any rate costs the same.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._samples: dict[int, Trade] = {}

    def frame(self, unit: int, now_us: int) -> bytes | None:
        """The miniTicker of the 24 hours to `now_us`, or None while nothing has been traded."""
        if not (newest := self._tape.latest(1, now_us)):
            return None
        oldest = self._first(now_us - DAY, now_us)
        marks = range((oldest.time_us // SAMPLE + 1) * SAMPLE, now_us + 1, SAMPLE)
        self._samples = {mark: self._samples.get(mark) or self._first(mark, now_us) for mark in marks}
        seen = [oldest, *self._samples.values(), newest[0]]
        prices = [Decimal(trade.price) for trade in seen]
        with localcontext(EXACT):
            share = Decimal(newest[0].id - oldest.id + 1) / len(seen)
            base = share * sum(Decimal(trade.size) for trade in seen)
            quote = share * sum(Decimal(trade.size) * price for trade, price in zip(seen, prices, strict=True))
            return msgspec.json.encode(
                {
                    "e": "24hrMiniTicker",
                    "E": now_us // unit,
                    "s": self._tape.listing.symbol,
                    "c": newest[0].price,
                    "o": oldest.price,
                    "h": plain(max(prices)),
                    "l": plain(min(prices)),
                    "v": places(base),
                    "q": places(quote),
                }
            )

    def _first(self, time_us: int, now_us: int) -> Trade:
        """The first trade at or after a time, or the newest where none has followed yet."""
        return (self._tape.trades(self._tape.id_at(time_us), 1, now_us) or self._tape.latest(1, now_us))[0]


def shutdown_frame(unit: int, now_us: int) -> bytes:
    """The notice before the exchange closes a connection; never wrapped in a stream."""
    return b'{"e":"serverShutdown","E":%d}' % (now_us // unit)


def combined(stream: str, payload: bytes) -> bytes:
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def _candles(tape: Tape, unit: int, since_us: int, now_us: int) -> list[bytes]:
    starts = range(since_us // SECOND * SECOND, now_us // SECOND * SECOND, SECOND)
    return [kline_frame(tape, unit, start, now_us) for start in starts]


def _tickers(day: Day, unit: int, since_us: int, now_us: int) -> list[bytes]:
    ticker = day.frame(unit, now_us)
    return [ticker] if ticker else []
