"""The sixteen candle intervals and their buckets.

A bucket is named by its start and holds start <= time < next start. Intervals below a day are cut from 1970, in UTC or
in a zone of a fixed offset; days, and all that is made of them, can be cut in any time zone: weeks start on Monday,
months are calendar months, three-day buckets count from 1970-01-01. Where a local midnight does not exist, the day
starts at the first instant after the jump; where it comes twice, at the first.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum

from app.market.model import EPOCH


class Interval(StrEnum):
    S1 = "1s"
    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    H2 = "2h"
    H4 = "4h"
    H6 = "6h"
    H8 = "8h"
    H12 = "12h"
    D1 = "1d"
    D3 = "3d"
    W1 = "1w"
    MONTH = "1M"

    @property
    def stride(self) -> timedelta | None:
        """The length of a bucket where all have the same: below a day."""
        return _STRIDES.get(self)

    @property
    def zoned(self) -> bool:
        """Whether a time zone moves the buckets: a day and above."""
        return self not in _STRIDES


_STRIDES = {
    Interval.S1: timedelta(seconds=1),
    Interval.M1: timedelta(minutes=1),
    Interval.M3: timedelta(minutes=3),
    Interval.M5: timedelta(minutes=5),
    Interval.M15: timedelta(minutes=15),
    Interval.M30: timedelta(minutes=30),
    Interval.H1: timedelta(hours=1),
    Interval.H2: timedelta(hours=2),
    Interval.H4: timedelta(hours=4),
    Interval.H6: timedelta(hours=6),
    Interval.H8: timedelta(hours=8),
    Interval.H12: timedelta(hours=12),
}

_NO_OFFSET = timedelta()

STORED = (Interval.M1, Interval.H1, Interval.D1)
"""The levels that the database keeps, finest first."""


def bucket_of(moment: datetime, interval: Interval, zone: tzinfo = UTC) -> datetime:
    """The start, in UTC, of the bucket that holds a moment."""
    if stride := interval.stride:
        # Without a moment, only a zone of a fixed offset knows it.
        return moment - (moment - EPOCH + (zone.utcoffset(None) or _NO_OFFSET)) % stride
    first = _first_day(moment.astimezone(zone).date(), interval)
    start, after = _midnight(first, zone), _midnight(_step(first, interval, 1), zone)
    # Around a midnight that came twice, or not at all, the local date can be that of the day before or after.
    if moment < start:
        return _midnight(_step(first, interval, -1), zone)
    return start if moment < after else after


def next_bucket(bucket: datetime, interval: Interval, zone: tzinfo = UTC, count: int = 1) -> datetime:
    """The start of the bucket `count` after this one; before it where count is negative."""
    if stride := interval.stride:
        return bucket + stride * count
    # Twelve hours on, the local date is surely the bucket's first day, whatever the jump at its midnight.
    first = _first_day((bucket + timedelta(hours=12)).astimezone(zone).date(), interval)
    start = _midnight(_step(first, interval, count), zone)
    # A day that the zone left out begins, and ends, where the next one does.
    return start if start != bucket else _midnight(_step(first, interval, count - 1), zone)


def base_of(interval: Interval, bounds: list[datetime] | None = None) -> Interval | None:
    """The stored level that an interval is computed from, or None for ticks.

    `bounds` are the edges of the buckets wanted, where a time zone may have moved them off the level's own.
    """
    if interval is Interval.S1:
        return None
    if interval in STORED and bounds is None:
        return interval
    for level in reversed(STORED):
        if interval.stride is not None and interval.stride < _level_length(level):
            continue
        if bounds is None or all(bucket_of(edge, level) == edge for edge in bounds):
            return level
    return None


def _level_length(level: Interval) -> timedelta:
    return level.stride or timedelta(days=1)


def _first_day(day: date, interval: Interval) -> date:
    match interval:
        case Interval.D3:
            return day - timedelta(days=(day - EPOCH.date()).days % 3)
        case Interval.W1:
            return day - timedelta(days=day.weekday())
        case Interval.MONTH:
            return day.replace(day=1)
        case _:
            return day


def _step(first: date, interval: Interval, count: int) -> date:
    match interval:
        case Interval.D3:
            return first + timedelta(days=3 * count)
        case Interval.W1:
            return first + timedelta(weeks=count)
        case Interval.MONTH:
            months = first.year * 12 + first.month - 1 + count
            return date(months // 12, months % 12 + 1, 1)
        case _:
            return first + timedelta(days=count)


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
