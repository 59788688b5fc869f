"""How Binance's clients are told the hub's news, each kind of stream at its published speed. Pure."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from app.binance.names import Names
from app.binance.wire import events
from app.binance.wire.streams import Kind, Stream
from app.market.intervals import Interval, next_bucket
from app.market.model import Candle, Instrument, Trade, day_start, to_micros
from app.market.rolling import RollingDay
from app.market.zones import zone_named
from app.stream.form import Gap
from app.stream.keys import CandlesKey

KLINE_PACE: Final = 2
"""Seconds between two tellings of an open kline; every other pace is a second."""
_KLINE: Final = '{"e":"kline",'
_CORRECTION: Final = '{"e":"klineCorrection",'


class Style(NamedTuple):
    """What sets the forms apart. `unit` is that of their times, in microseconds.

    `extended` forms also tell, of a trade stream, where trades are missing or came late, and of a kline stream, where
    past klines changed.
    """

    kind: Kind
    unit: int
    pace: int
    extended: bool = False


class Forms:
    """The forms of a process, each made once, so that topics write once for all connections of a style."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._made: dict[Style, BinanceForm] = {}

    def of(self, stream: Stream, unit: int, extensions: Sequence[str] = ()) -> "BinanceForm":
        """The form of a stream's events, with those of the extensions `gap` and `correction` that concern it."""
        wanted = {"trade": "gap", "aggTrade": "gap", "kline": "correction"}.get(stream.kind)
        slow = stream.kind == "kline" and stream.interval is not Interval.S1
        pace = KLINE_PACE if slow else 1
        style = Style(stream.kind, unit, pace, wanted in extensions)
        return self._made.setdefault(style, BinanceForm(self._names, style))


class BinanceForm:
    """The events of one kind of stream in one style; an `app.stream.form.Form`."""

    snapshot_trades: Final = 0

    def __init__(self, names: Names, style: Style) -> None:
        self._name_of = names.name_of
        self._style = style
        self._unit = style.unit
        self._trade = events.aggregate_trade if style.kind == "aggTrade" else events.trade
        self.pace = style.pace

    def trade(self, instrument: Instrument, trade: Trade) -> str:
        """A taker of whom the source tells no side counts as a seller, as in candles."""
        symbol, maker = self._name_of(instrument), trade.side != "buy"
        time_us = to_micros(trade.time)
        return self._trade(symbol, trade.trade_id, trade.price, trade.size, time_us, maker, now_us(), self._unit)

    def gap(self, instrument: Instrument, gap: Gap) -> str | None:
        if not self._style.extended:
            return None
        return self._extension("gap", instrument, f'"f":{gap.from_id},"l":{gap.to_id},"r":"{gap.reason}"')

    def reset_trades(self, instrument: Instrument) -> None:
        return None

    def candle(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str:
        end = next_bucket(candle.time, key.interval, zone_named(key.zone))
        symbol = self._name_of(instrument)
        return events.kline(symbol, key.interval, candle, to_micros(end), now_us(), self._unit)

    def correction(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str | None:
        if not self._style.extended:
            return None
        return _CORRECTION + self.candle(instrument, key, candle).removeprefix(_KLINE)

    def reset_candles(self, instrument: Instrument, key: CandlesKey) -> str | None:
        return self._extension("klineReset", instrument, f'"i":"{key.interval}"') if self._style.extended else None

    def ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str | None:
        ticker, symbol, event_us = day.ticker(now), self._name_of(instrument), to_micros(now)
        if ticker is None:
            return None
        match self._style.kind:
            case "ticker":
                return events.ticker(symbol, ticker, to_micros(day_start(now)), event_us, self._unit)
            case "avgPrice":
                average = day.average(now) or ticker.last
                return events.average_price(symbol, average, to_micros(ticker.time), event_us, self._unit)
            case _:
                return events.mini_ticker(symbol, ticker, event_us, self._unit)

    def first_trades(self, instrument: Instrument, trades: list[Trade]) -> None:
        return None

    def first_candles(self, instrument: Instrument, key: CandlesKey, candles: list[Candle]) -> str | None:
        """The open kline. A closed one would look as if it closed now."""
        return None if not candles or candles[-1].closed else self.candle(instrument, key, candles[-1])

    def first_ticker(self, instrument: Instrument, day: RollingDay, now: datetime) -> str | None:
        return self.ticker(instrument, day, now)

    def _extension(self, event: str, instrument: Instrument, fields: str) -> str:
        return f'{{"e":"{event}","E":{now_us() // self._unit},"s":"{self._name_of(instrument)}",{fields}}}'


def now_us() -> int:
    """The time of an event, in microseconds since 1970."""
    return time.time_ns() // 1_000
