"""Buckets in which nothing traded, filled with the close before them. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from itertools import pairwise

from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import Candle


def filled(
    candles: Sequence[Candle],
    interval: Interval,
    zone: tzinfo,
    *,
    since: datetime,
    until: datetime,
    open_since: datetime,
) -> Iterator[Candle]:
    """The candles, ascending, with every bucket between them filled, and after them up to the one that holds `until`.

    Nothing before `since`, however far back the first candle lies: what is filled in stays as short as the range.
    """
    since = bucket_of(since, interval, zone)
    for candle, after in pairwise([*candles, None]):
        assert candle is not None  # only the last of all is
        if candle.time >= since:
            yield candle
        stop = after.time if after else next_bucket(bucket_of(until, interval, zone), interval, zone)
        bucket = max(next_bucket(candle.time, interval, zone), since)
        while bucket < stop:
            yield flat(bucket, candle.close, closed=bucket < open_since)
            bucket = next_bucket(bucket, interval, zone)


def flat(bucket: datetime, price: str, *, closed: bool) -> Candle:
    """A candle in which nothing traded."""
    return Candle(bucket, price, price, price, price, "0", "0", 0, "0", "0", None, None, closed, None)
