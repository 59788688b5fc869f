"""The ticker's 24 hours, rolling by the minute, exactly as `app.market.store.ticker` computes them. Pure."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from app.market.candles import OpenCandle
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import EXACT, Candle, Tick, Ticker, Trade, change_of, day_start, from_micros, plain


class RollingDay:
    """The minutes of the last 24 hours of one instrument: at most 1,441, about 2 MB when each of them traded."""

    def __init__(self) -> None:
        self._minutes: deque[OpenCandle] = deque()
        self._last: tuple[datetime, Decimal] | None = None
        self._sums: tuple[Decimal, Decimal, int] = (Decimal(0), Decimal(0), 0)
        self._extremes: tuple[Decimal, Decimal] | None = None

    def resume(self, minutes: Iterable[Candle], last: Trade | None) -> int:
        """Start from minute candles of the database, ascending, and the last trade, both of one moment.

        Answers the last trade id they hold, or -1.
        """
        self._minutes = deque(OpenCandle.resume(c, next_bucket(c.time, Interval.M1)) for c in minutes)
        self._last = (last.time, Decimal(last.price)) if last else None
        self._settle()
        return max(self._minutes[-1].last_id if self._minutes else -1, last.trade_id if last else -1)

    def add(self, tick: Tick) -> bool:
        """Fold in a tick. False: it belongs to a past minute, and the day must be read anew."""
        if not self._minutes or tick.time_us >= self._minutes[-1].end_us:
            bucket = bucket_of(from_micros(tick.time_us), Interval.M1)
            self._minutes.append(OpenCandle(bucket, next_bucket(bucket, Interval.M1), tick))
            if len(self._minutes) > 1:
                self._settle()
        elif tick.time_us >= self._minutes[-1].start_us:
            self._minutes[-1].add(tick)
        else:
            return False
        time = from_micros(tick.time_us)
        if self._last is None or time >= self._last[0]:
            self._last = (time, tick.price)
        return True

    def ticker(self, now: datetime) -> Ticker | None:
        """The ticker at a moment, or None where the instrument has never traded."""
        if self._last is None:
            return None
        start = day_start(now)
        if self._minutes and self._minutes[0].bucket < start:
            while self._minutes and self._minutes[0].bucket < start:
                self._minutes.popleft()
            self._settle()
        if not self._minutes:
            time, price = self._last
            return Ticker(time, plain(price), None, None, None, None, None, "0", "0", 0)
        newest = self._minutes[-1]
        volume, quote_volume, trades = self._sums
        high, low = newest.high, newest.low
        if self._extremes:
            high, low = max(high, self._extremes[0]), min(low, self._extremes[1])
        first = self._minutes[0].open
        return Ticker(
            self._last[0],
            plain(newest.close),
            plain(first),
            plain(high),
            plain(low),
            *change_of(first, newest.close),
            plain(EXACT.add(volume, newest.volume)),
            plain(EXACT.add(quote_volume, newest.quote_volume)),
            trades + newest.trades,
        )

    def _settle(self) -> None:
        # All minutes but the newest stand still: their sums and extremes are computed when the minute turns.
        still = list(self._minutes)[:-1]
        volume = quote_volume = Decimal(0)
        for minute in still:
            volume = EXACT.add(volume, minute.volume)
            quote_volume = EXACT.add(quote_volume, minute.quote_volume)
        self._sums = (volume, quote_volume, sum(minute.trades for minute in still))
        self._extremes = (max(m.high for m in still), min(m.low for m in still)) if still else None
