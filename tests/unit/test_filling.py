"""Buckets without trades."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from app.market.filling import filled, flat
from app.market.intervals import Interval
from app.market.model import Candle

START = datetime(2024, 3, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def candle(minute: int, close: str = "5") -> Candle:
    return Candle(START + minute * MINUTE, "1", "9", "1", close, "2", "3", 4, "1", "1", minute, minute, closed=True)


def fill(
    candles: list[Candle], until: float, since: int = 0, open_since: int = 100
) -> list[tuple[int, str, int, bool]]:
    found = filled(
        candles,
        Interval.M1,
        UTC,
        since=START + since * MINUTE,
        until=START + until * MINUTE,
        open_since=START + open_since * MINUTE,
    )
    return [((c.time - START) // MINUTE, c.close, c.trades, c.closed) for c in found]


def test_filled_repeats_the_close_before_between_candles_and_up_to_the_bucket_of_until() -> None:
    assert fill([candle(0, "5"), candle(3, "7")], 4.5) == [
        (0, "5", 4, True),
        (1, "5", 0, True),
        (2, "5", 0, True),
        (3, "7", 4, True),
        (4, "7", 0, True),
    ]


def test_filled_leaves_candles_after_until_as_they_are() -> None:
    assert fill([candle(0), candle(2)], 0.5) == [(0, "5", 4, True), (1, "5", 0, True), (2, "5", 4, True)]


def test_filled_of_nothing_is_nothing() -> None:
    assert fill([], 5) == []


def test_filled_begins_at_since_with_the_price_from_before_it() -> None:
    assert fill([candle(-1_000_000_000), candle(2, "6")], 3, since=1) == [
        (1, "5", 0, True),
        (2, "6", 4, True),
        (3, "6", 0, True),
    ]


def test_filled_buckets_are_open_from_the_bucket_of_now_on() -> None:
    assert fill([candle(0)], 2, open_since=2) == [(0, "5", 4, True), (1, "5", 0, True), (2, "5", 0, False)]


def test_filled_days_follow_the_zone_across_a_change_of_clocks() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = datetime(2024, 3, 30, tzinfo=zone).astimezone(UTC)
    day = Candle(first, "1", "1", "1", "1", "1", "1", 1, "0", "0", 1, 1, closed=True)
    end = first + timedelta(days=400)
    found = filled([day], Interval.D1, zone, since=first, until=end, open_since=end)
    assert [c.time.astimezone(zone).isoformat() for c in islice(found, 3)] == [
        "2024-03-30T00:00:00+01:00",
        "2024-03-31T00:00:00+01:00",
        "2024-04-01T00:00:00+02:00",
    ]


def test_flat_candle_has_no_volume_no_ids_and_says_nothing_of_completeness() -> None:
    made = flat(START, "5.50", closed=True)
    assert (made.open, made.high, made.low, made.close) == ("5.50",) * 4
    assert (made.volume, made.trades, made.first_id, made.complete) == ("0", 0, None, None)
