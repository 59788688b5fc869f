"""Parameters of requests."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidParameter
from app.market import parameters
from app.market.intervals import Interval
from app.market.store import ALWAYS, NEVER, Place

MOMENT = datetime(2021, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2021-01-08T00:00:00Z", MOMENT),
        ("2021-01-08T02:00:00+02:00", MOMENT),
        ("2021-01-08T02:00:00 02:00", MOMENT),  # a plus sign that was not escaped
        ("2021-01-08T00:00Z", MOMENT),
        ("2021-01-08T00:00:00.000001Z", MOMENT + timedelta(microseconds=1)),
        ("2021-01-08", MOMENT),
        ("20210108", MOMENT),
        ("1610064000", MOMENT),
        ("1610064000000", MOMENT),
        ("1610064000000001", MOMENT + timedelta(microseconds=1)),
        ("1970-01-01", ALWAYS),
        ("2262-01-01", NEVER),
    ],
)
def test_time_of_reads_every_form(text: str, moment: datetime) -> None:
    assert parameters.time_of("start", text, ALWAYS) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2021-01-08T00:00:00",
        "2021-13-01",
        "16100640000",
        "-1610064000",
        "1e9",
        "٣٣٣٣٣٣٣٣٣٣",
        "1969-12-31",
        "2262-01-02",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2021-01-08T00:00:00Z\x00",
        "9" * 5000,
        "9" * 16,
        "'; DROP TABLE market.ticks; --",
    ],
)
def test_time_of_refuses_anything_else_and_names_the_field(text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        parameters.time_of("start", text, ALWAYS)
    assert refused.value.field == "start"


def test_time_of_takes_the_default_where_nothing_is_given() -> None:
    assert parameters.time_of("end", None, NEVER) == NEVER


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("UTC", UTC),
        ("utc", UTC),
        ("Z", UTC),
        ("+00:00", UTC),
        ("Europe/Berlin", ZoneInfo("Europe/Berlin")),
        ("+05:30", timezone(timedelta(hours=5, minutes=30))),
        (" 05:30", timezone(timedelta(hours=5, minutes=30))),
        ("-03:00", timezone(timedelta(hours=-3))),
    ],
)
def test_zone_of_reads_names_and_offsets(text: str, zone: object) -> None:
    assert parameters.zone_of(text, Interval.D1) == zone


@pytest.mark.parametrize(
    "text",
    ["", "Nowhere/City", "../../etc/passwd", "/etc/passwd", "Europe", "a\x00b", "x" * 5000, "+15:00", "+5", "tzdata"],
)
def test_zone_of_refuses_what_is_no_zone(text: str) -> None:
    with pytest.raises(InvalidParameter, match="timezone"):
        parameters.zone_of(text, Interval.D1)


def test_zone_of_refuses_a_zone_where_it_would_move_nothing() -> None:
    with pytest.raises(InvalidParameter, match="1d 3d 1w 1M alone, not of 1h"):
        parameters.zone_of("Europe/Berlin", Interval.H1)
    assert parameters.zone_of("UTC", Interval.H1) is UTC


@pytest.mark.parametrize("text", ["1H", "60", "", "1m ", "1mo"])
def test_interval_of_refuses_what_is_none_and_lists_all(text: str) -> None:
    with pytest.raises(InvalidParameter, match="1s 1m 3m"):
        parameters.interval_of(text)


def test_interval_of_tells_minute_from_month() -> None:
    assert parameters.interval_of("1m") is Interval.M1
    assert parameters.interval_of("1M") is Interval.MONTH


@pytest.mark.parametrize("limit", [0, -1, 5001, 10**30])
def test_limit_of_says_the_limit(limit: int) -> None:
    with pytest.raises(InvalidParameter, match="between 1 and 5000"):
        parameters.limit_of(limit, 5000)


def test_ordered_refuses_a_range_that_ends_before_it_starts() -> None:
    parameters.ordered(MOMENT, MOMENT)
    with pytest.raises(InvalidParameter, match="before start"):
        parameters.ordered(MOMENT, ALWAYS)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2262, 1, 1), timezones=st.just(UTC)), st.integers(-1, 2**63 - 1))  # noqa: DTZ001
def test_cursor_survives_its_text(time: datetime, trade_id: int) -> None:
    place = Place(time, trade_id)
    assert parameters.cursor_of(parameters.cursor_text(place)) == place


@pytest.mark.parametrize(
    "text", ["x", "1", "1-", "-1-1", "1-1-1", f"1-{2**63}", f"{10**30}-1", "9" * 5000 + "-1", "1-\x00"]
)
def test_cursor_of_refuses_what_no_page_gave(text: str) -> None:
    with pytest.raises(InvalidParameter, match="cursor"):
        parameters.cursor_of(text)
