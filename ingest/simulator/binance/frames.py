"""What Binance's streams tell of a tape: trades, candles of a second, small tickers, as bytes for the socket.

Each topic comes in two forms: times in milliseconds, or in microseconds for who asks for them.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import partial

from app.binance.wire import events
from app.binance.wire.parameters import MILLISECOND
from app.market.intervals import Interval
from app.market.model import EXACT, Candle, Ticker, change_of, from_micros, plain
from ingest.simulator.binance.figures import ZERO, places, quote_volume, volume
from ingest.simulator.listing import Listing
from ingest.simulator.market import SECOND
from ingest.simulator.tape import Tape, Trade
from ingest.simulator.wire import SecondForm, Topic, TradeForm

DAY = 86_400 * SECOND
SAMPLE = 300 * SECOND
FORMS = {MILLISECOND: "binance", 1: "binance microseconds"}
"""The forms by the microseconds that a unit of their times has."""

Write = Callable[[str, int, str, str, int, bool, int, int], str]
"""How an event of a trade is written: `events.trade`, `events.aggregate_trade`."""

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
    writers: dict[str, Write] = {"trade": events.trade, "aggTrade": events.aggregate_trade}
    return {
        Topic(form, f"{symbol.lower()}@{kind}"): TradeForm(partial(_trade, write, symbol, unit), garbage)
        for unit, form in FORMS.items()
        for kind, write in writers.items()
    }


def second_forms(tape: Tape) -> dict[Topic, SecondForm]:
    """The topics that tell what a symbol's seconds brought: candles, and the ticker."""
    symbol, day = tape.listing.symbol.lower(), Day(tape)
    forms: dict[Topic, SecondForm] = {}
    for unit, form in FORMS.items():
        forms[Topic(form, f"{symbol}@kline_1s")] = partial(_candles, tape, unit)
        forms[Topic(form, f"{symbol}@miniTicker")] = partial(_tickers, day, unit)
    return forms


def second_candle(tape: Tape, start_us: int) -> Candle:
    """The closed candle of the second that starts at `start_us`; without trades it is flat at the last close."""
    end_us = start_us + SECOND
    from_id = tape.id_at(start_us)
    trades = tape.trades(from_id, max(0, tape.id_at(end_us) - from_id), end_us - 1)
    shape = trades or tape.latest(1, start_us - 1)
    prices = [Decimal(trade.price) for trade in shape]
    taken = [trade for trade in trades if not trade.buyer_is_maker]
    return Candle(
        time=from_micros(start_us),
        open=shape[0].price if shape else ZERO,
        high=plain(max(prices, default=Decimal(ZERO))),
        low=plain(min(prices, default=Decimal(ZERO))),
        close=shape[-1].price if shape else ZERO,
        volume=volume(trades),
        quote_volume=quote_volume(trades),
        trades=len(trades),
        taker_buy_volume=volume(taken),
        taker_buy_quote_volume=quote_volume(taken),
        first_id=trades[0].id if trades else None,
        last_id=trades[-1].id if trades else None,
        closed=True,
    )


class Day:
    """The last 24 hours of a tape as a ticker.

    Last and first price are exact; the rest is estimated from a trade every five minutes, so any rate costs the same.
    """

    def __init__(self, tape: Tape) -> None:
        self.symbol = tape.listing.symbol
        self._tape = tape
        self._samples: dict[int, Trade] = {}

    def ticker(self, now_us: int) -> Ticker | None:
        """The ticker of the 24 hours to `now_us`, or None while nothing has been traded."""
        if not (newest := self._tape.latest(1, now_us)):
            return None
        oldest = self._first(now_us - DAY, now_us)
        marks = range((oldest.time_us // SAMPLE + 1) * SAMPLE, now_us + 1, SAMPLE)
        self._samples = {mark: self._samples.get(mark) or self._first(mark, now_us) for mark in marks}
        return _ticker([oldest, *self._samples.values(), newest[0]], now_us)

    def _first(self, time_us: int, now_us: int) -> Trade:
        """The first trade at or after a time, or the newest where none has followed yet."""
        return (self._tape.trades(self._tape.id_at(time_us), 1, now_us) or self._tape.latest(1, now_us))[0]


def _ticker(seen: Sequence[Trade], now_us: int) -> Ticker:
    """The ticker of a window of which some trades were seen, the first and the last among them."""
    first, last = seen[0], seen[-1]
    prices = [Decimal(trade.price) for trade in seen]
    change, percent = change_of(prices[0], prices[-1])
    trades = last.id - first.id + 1
    with localcontext(EXACT):
        share = Decimal(trades) / len(seen)
        base = share * sum(Decimal(trade.size) for trade in seen)
        quote = share * sum(Decimal(trade.size) * price for trade, price in zip(seen, prices, strict=True))
    return Ticker(
        time=from_micros(now_us),
        last=last.price,
        open=first.price,
        high=plain(max(prices)),
        low=plain(min(prices)),
        change=change,
        change_percent=percent,
        volume=places(base),
        quote_volume=places(quote),
        trades=trades,
        last_size=last.size,
        previous=None,
        first_id=first.id,
        last_id=last.id,
    )


def combined(stream: str, payload: bytes) -> bytes:
    return events.combined(stream, payload.decode()).encode()


def _trade(write: Write, symbol: str, unit: int, trade: Trade, event_us: int) -> bytes:
    return write(
        symbol, trade.id, trade.price, trade.size, trade.time_us, trade.buyer_is_maker, event_us, unit
    ).encode()


def _candles(tape: Tape, unit: int, since_us: int, now_us: int) -> list[bytes]:
    symbol = tape.listing.symbol
    return [
        events.kline(symbol, Interval.S1, second_candle(tape, start), start + SECOND, now_us, unit).encode()
        for start in range(since_us // SECOND * SECOND, now_us // SECOND * SECOND, SECOND)
    ]


def _tickers(day: Day, unit: int, since_us: int, now_us: int) -> list[bytes]:
    ticker = day.ticker(now_us)
    return [events.mini_ticker(day.symbol, ticker, now_us, unit).encode()] if ticker else []
