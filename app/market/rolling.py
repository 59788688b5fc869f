"""The ticker's 24 hours, rolling by the minute, exactly as `app.market.tickers.windows` computes them. Pure."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Final, NamedTuple

from app.market.candles import ZERO, OpenCandle
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import (
    AVERAGE,
    EXACT,
    Candle,
    Tick,
    Ticker,
    Trade,
    average_of,
    change_of,
    day_start,
    from_micros,
    plain,
    quiet_ticker,
    to_micros,
    window_start,
)

_RECENT: Final = 60
"""Minutes kept for the average of five: an exchange's clock may be ahead of ours by the rest."""


class _Last(NamedTuple):
    """The last trade by time, and by id among those of one time."""

    time_us: int
    trade_id: int
    size: Decimal


class _Total(NamedTuple):
    """Some minutes taken together, open and close by trade id."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int
    first_id: int
    last_id: int

    @classmethod
    def of(cls, m: OpenCandle) -> "_Total":
        return cls(m.open, m.high, m.low, m.close, m.volume, m.quote_volume, m.trades, m.first_id, m.last_id)

    def with_(self, other: "_Total | None") -> "_Total":
        if other is None:
            return self
        first, last = min(self, other, key=_FIRST_ID), max(self, other, key=_LAST_ID)
        return _Total(
            first.open,
            max(self.high, other.high),
            min(self.low, other.low),
            last.close,
            EXACT.add(self.volume, other.volume),
            EXACT.add(self.quote_volume, other.quote_volume),
            self.trades + other.trades,
            first.first_id,
            last.last_id,
        )


_FIRST_ID: Final = attrgetter("first_id")
_LAST_ID: Final = attrgetter("last_id")


class _Older(NamedTuple):
    """A minute, and the total of it and the older minutes after it."""

    minute: OpenCandle
    total: _Total


class RollingDay:
    """The minutes of the last 24 hours of one instrument: at most 1,441, about 2 MB when each of them traded.

    Those that stand still lie in two stacks, so that no turn of the minute adds up all of them: the older ones, the
    oldest on top, each with the total of it and all after it; the younger ones as they came, with the total of all.
    When the older ones are used up, the younger take their place.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._older: list[_Older] = []
        self._younger: list[OpenCandle] = []
        self._total: _Total | None = None
        """Of the younger minutes."""
        self._newest: OpenCandle | None = None
        self._recent: deque[OpenCandle] = deque(maxlen=_RECENT)
        self._previous: OpenCandle | None = None
        """The newest minute that has left the window."""
        self._last: _Last | None = None

    def resume(self, minutes: Iterable[Candle], last: Trade | None) -> int:
        """Start from minute candles of the database, ascending, and the last trade, both of one moment.

        The candles are those of the window, and the newest before it. Answers the last trade id they hold, or -1.
        """
        self._clear()
        for candle in minutes:
            self._turn(OpenCandle.resume(candle, next_bucket(candle.time, Interval.M1)))
        if last:
            self._last = _Last(to_micros(last.time), last.trade_id, Decimal(last.size))
        return max(self._newest.last_id if self._newest else -1, last.trade_id if last else -1)

    def add(self, tick: Tick) -> bool:
        """Fold in a tick. False: it belongs to a past minute, and the day must be read anew."""
        current = self._newest or self._previous
        if current is None or tick.time_us >= current.end_us:
            bucket = bucket_of(from_micros(tick.time_us), Interval.M1)
            self._turn(OpenCandle(bucket, next_bucket(bucket, Interval.M1), tick))
        elif self._newest and tick.time_us >= self._newest.start_us:
            self._newest.add(tick)
        else:
            return False
        if self._last is None or (tick.time_us, tick.trade_id) > self._last[:2]:
            self._last = _Last(tick.time_us, tick.trade_id, tick.size)
        return True

    def ticker(self, now: datetime) -> Ticker | None:
        """The ticker at a moment, or None where the instrument has never traded."""
        self._leave(day_start(now))
        if self._last is None:
            return None
        time, size = from_micros(self._last.time_us), plain(self._last.size)
        previous = plain(self._previous.close) if self._previous else None
        if self._newest is None:
            return quiet_ticker(time, previous, size) if previous else None
        day = _Total.of(self._newest).with_(self._total).with_(self._older[-1].total if self._older else None)
        return Ticker(
            time,
            plain(day.close),
            plain(day.open),
            plain(day.high),
            plain(day.low),
            *change_of(day.open, day.close),
            plain(day.volume),
            plain(day.quote_volume),
            day.trades,
            size,
            previous,
            day.first_id,
            day.last_id,
        )

    def average(self, now: datetime) -> str | None:
        """The average price of the last five minutes, the last price where nothing traded; None where none ever did."""
        if self._last is None:
            return None
        start = window_start(now, AVERAGE)
        minutes = [*self._recent, self._newest] if self._newest else []
        total: _Total | None = None
        for minute in minutes:
            if minute.bucket >= start:
                total = _Total.of(minute).with_(total)
        last = total or self._newest or self._previous
        if last is None:
            return None
        return average_of(total.quote_volume if total else ZERO, total.volume if total else ZERO, last.close)

    def loses(self, before: datetime, now: datetime) -> bool:
        """Whether a minute leaves the day, or the average's five minutes, that was in it at a moment before."""
        oldest = self._oldest()
        if oldest is None:
            return False
        held, kept = window_start(before, AVERAGE), window_start(now, AVERAGE)
        recent = any(held <= minute.bucket < kept for minute in (*self._recent, self._newest) if minute)
        return recent or oldest.bucket < day_start(now)

    def _turn(self, minute: OpenCandle) -> None:
        """A new minute begins: the one before it stands still from now on."""
        if self._newest:
            self._younger.append(self._newest)
            self._recent.append(self._newest)
            self._total = _Total.of(self._newest).with_(self._total)
        self._newest = minute

    def _leave(self, start: datetime) -> None:
        """Let go of the minutes before the window."""
        while (oldest := self._oldest()) and oldest.bucket < start:
            self._previous = oldest
            if self._older:
                self._older.pop()
            else:
                self._newest = None

    def _oldest(self) -> OpenCandle | None:
        if not self._older and self._younger:
            total: _Total | None = None
            while self._younger:
                minute = self._younger.pop()
                total = _Total.of(minute).with_(total)
                self._older.append(_Older(minute, total))
            self._total = None
        return self._older[-1].minute if self._older else self._newest
