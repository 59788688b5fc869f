"""Buckets in any time zone: where each moment belongs, and that they follow one another without a hole."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.market.intervals import Interval, base_of, bucket_of, next_bucket

ZONED = [interval for interval in Interval if interval.zoned]
ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # bounds are naive


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("interval", "start"),
    [
        ("1s", "2021-01-08T13:47:33"),
        ("1m", "2021-01-08T13:47:00"),
        ("3m", "2021-01-08T13:45:00"),
        ("5m", "2021-01-08T13:45:00"),
        ("15m", "2021-01-08T13:45:00"),
        ("30m", "2021-01-08T13:30:00"),
        ("1h", "2021-01-08T13:00:00"),
        ("2h", "2021-01-08T12:00:00"),
        ("4h", "2021-01-08T12:00:00"),
        ("6h", "2021-01-08T12:00:00"),
        ("8h", "2021-01-08T08:00:00"),
        ("12h", "2021-01-08T12:00:00"),
        ("1d", "2021-01-08T00:00:00"),
        ("3d", "2021-01-06T00:00:00"),
        ("1w", "2021-01-04T00:00:00"),
        ("1M", "2021-01-01T00:00:00"),
    ],
)
def test_bucket_of_each_interval_starts_where_binance_starts_it(interval: str, start: str) -> None:
    assert bucket_of(utc("2021-01-08T13:47:33.250000"), Interval(interval)) == utc(start)


@pytest.mark.parametrize(
    ("zone", "moment", "start", "following"),
    [
        pytest.param(
            "Europe/Berlin", "2021-03-28T10:00", "2021-03-27T23:00", "2021-03-28T22:00", id="a day of 23 hours"
        ),
        pytest.param(
            "Europe/Berlin", "2021-10-31T10:00", "2021-10-30T22:00", "2021-10-31T23:00", id="a day of 25 hours"
        ),
        pytest.param(
            "Australia/Lord_Howe", "2021-10-03T00:00", "2021-10-02T13:30", "2021-10-03T13:00", id="half an hour"
        ),
        pytest.param("Asia/Kathmandu", "2021-01-08T12:00", "2021-01-07T18:15", "2021-01-08T18:15", id="a quarter"),
        pytest.param("America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", "2018-11-05T02:00", id="no midnight"),
        pytest.param("America/Havana", "2021-11-07T12:00", "2021-11-07T04:00", "2021-11-08T05:00", id="midnight twice"),
        # At 00:01 on the 7th the clocks went back to 23:01 on the 6th: midnight came at 02:30 and at 03:30 UTC.
        pytest.param("America/St_Johns", "2010-11-07T03:00", "2010-11-07T02:30", "2010-11-08T03:30", id="back over it"),
        pytest.param("Pacific/Apia", "2011-12-30T09:00", "2011-12-29T10:00", "2011-12-30T10:00", id="before no day"),
        pytest.param("Pacific/Apia", "2011-12-30T11:00", "2011-12-30T10:00", "2011-12-31T10:00", id="after no day"),
    ],
)
def test_day_in_a_zone_starts_at_its_midnight(zone: str, moment: str, start: str, following: str) -> None:
    bucket = bucket_of(utc(moment), Interval.D1, ZoneInfo(zone))
    assert bucket == utc(start)
    assert next_bucket(bucket, Interval.D1, ZoneInfo(zone)) == utc(following)


def test_week_and_month_in_a_zone_start_on_monday_and_on_the_first() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert bucket_of(utc("2021-03-31T12:00"), Interval.W1, berlin) == utc("2021-03-28T22:00")
    assert bucket_of(utc("2021-03-31T22:30"), Interval.MONTH, berlin) == utc("2021-03-31T22:00")
    assert next_bucket(utc("2020-12-31T23:00"), Interval.MONTH, berlin) == utc("2021-01-31T23:00")
    assert next_bucket(utc("2021-01-31T23:00"), Interval.MONTH, berlin, -2) == utc("2020-11-30T23:00")


@given(moment=MOMENTS, interval=st.sampled_from(ZONED), zone=st.sampled_from(ZONES))
@example(moment=utc("2010-11-07T03:15"), interval=Interval.D1, zone="America/St_Johns")
@example(moment=utc("2011-12-30T10:00"), interval=Interval.D1, zone="Pacific/Apia")
@example(moment=utc("1995-01-01T10:00"), interval=Interval.MONTH, zone="Pacific/Kiritimati")
@settings(max_examples=500, deadline=None)
def test_bucket_in_any_zone_holds_its_moment_and_meets_the_next(
    moment: datetime, interval: Interval, zone: str
) -> None:
    _check(moment, interval, ZoneInfo(zone))


@pytest.mark.parametrize("interval", ZONED)
def test_buckets_around_every_shift_of_the_clocks_hold_their_moments(interval: Interval) -> None:
    for name in (
        "America/St_Johns",
        "America/Havana",
        "America/Asuncion",
        "Pacific/Apia",
        "Atlantic/Azores",
        "Asia/Gaza",
    ):
        zone = ZoneInfo(name)
        for shift in _shifts(zone, utc("2005-01-01"), utc("2014-01-01")):
            for minutes in (-90, -61, -60, -30, -1, 0, 1, 29, 30, 59, 60, 61, 90):
                _check(shift + timedelta(minutes=minutes), interval, zone)


def _check(moment: datetime, interval: Interval, zone: ZoneInfo) -> None:
    bucket = bucket_of(moment, interval, zone)
    following = next_bucket(bucket, interval, zone)
    assert bucket <= moment < following
    assert bucket_of(bucket, interval, zone) == bucket
    assert bucket_of(following, interval, zone) == following
    assert bucket_of(following - timedelta(microseconds=1), interval, zone) == bucket
    assert next_bucket(bucket, interval, zone, -1) < bucket


def _shifts(zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The days before and at which the zone's offset changes, to the quarter of an hour."""
    days = [start + timedelta(days=n) for n in range((end - start).days)]
    found = []
    for day, following in pairwise(days):
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            quarters = [day + timedelta(minutes=n) for n in range(1441)]
            found += [
                after
                for before, after in pairwise(quarters)
                if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset()
            ]
    return found


@pytest.mark.parametrize("interval", [interval for interval in Interval if not interval.zoned])
@given(moment=MOMENTS)
@settings(max_examples=50, deadline=None)
def test_bucket_below_a_day_is_the_same_in_any_place_and_moved_by_a_fixed_offset(
    interval: Interval, moment: datetime
) -> None:
    bucket = bucket_of(moment, interval)
    assert bucket <= moment < next_bucket(bucket, interval)
    assert bucket_of(moment, interval, ZoneInfo("Asia/Kathmandu")) == bucket
    assert next_bucket(next_bucket(bucket, interval, count=7), interval, count=-7) == bucket
    offset = timedelta(hours=5, minutes=45)
    assert bucket_of(moment - offset, interval, timezone(offset)) == bucket - offset


@pytest.mark.parametrize(
    ("interval", "bounds", "level"),
    [
        ("1s", None, None),
        ("1m", None, "1m"),
        ("5m", None, "1m"),
        ("4h", None, "1h"),
        ("1d", None, "1d"),
        ("1w", None, "1d"),
        ("1d", ["2021-01-07T23:00", "2021-01-08T23:00"], "1h"),
        ("1d", ["2021-01-07T18:15", "2021-01-08T18:15"], "1m"),
        ("1w", ["2021-01-04T00:00", "2021-01-11T00:00"], "1d"),
        ("1d", ["1971-01-08T00:44:30", "1971-01-09T00:44:30"], None),
    ],
)
def test_base_of_an_interval_is_the_coarsest_level_that_its_edges_allow(
    interval: str, bounds: list[str] | None, level: str | None
) -> None:
    edges = [utc(edge) for edge in bounds] if bounds else None
    assert base_of(Interval(interval), edges) == level
