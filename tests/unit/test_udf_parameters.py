"""Parameters of UDF requests."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidParameter
from app.market.intervals import Interval
from app.market.model import to_micros
from app.market.store import ALWAYS, NEVER
from app.udf import parameters
from app.udf.parameters import MAX_BARS, MAX_MATCHES, MAX_SYMBOLS, BarsWanted
from app.udf.resolutions import RESOLUTIONS

MOMENT = datetime(2021, 1, 8, tzinfo=UTC)
NO_NUMBERS = ["x", "1e9", "NaN", "Infinity", "٣٣٣", "1 ", "+1", "1,5", "0x10", "1\x00", "9" * 5000, "[]", "--1", "."]


def test_every_interval_has_one_resolution() -> None:
    assert sorted(RESOLUTIONS.values()) == sorted(Interval)


@pytest.mark.parametrize(
    ("text", "interval"),
    [*RESOLUTIONS.items(), ("D", "1d"), ("W", "1w"), ("M", "1M")],
)
def test_resolution_of_reads_every_form(text: str, interval: str) -> None:
    assert parameters.resolution_of(text) is Interval(interval)


@pytest.mark.parametrize("text", ["1m", "1s", "1h", "2", "2D", "d", "S", "01", "٣", "60.0", "x" * 8000])
def test_resolution_of_refuses_anything_else(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"resolution: .*1S 1 3 5"):
        parameters.resolution_of(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1610064000", MOMENT),
        ("1610064000.25", MOMENT + timedelta(seconds=0.25)),
        ("1610064000.00000012345678901", MOMENT),
        ("0", ALWAYS),
        ("-5", ALWAYS),
        ("-99999999999.5", ALWAYS),
        ("99999999999", NEVER),
    ],
)
def test_time_of_reads_seconds_and_bounds_them(text: str, moment: datetime) -> None:
    assert parameters.time_of("from", text) == moment


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1610064000000", "2021-01-08", "1610064000.", ".5"])
def test_time_of_refuses_anything_else_and_names_the_field(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"from: .* is not Unix time in seconds"):
        parameters.time_of("from", text)


@given(st.integers(-(10**11) + 1, 10**11 - 1), st.integers(0, 999_999))
def test_time_of_is_exact_to_the_microsecond(whole: int, micros: int) -> None:
    sign = -1 if whole < 0 else 1
    wanted = whole * 1_000_000 + sign * micros
    found = to_micros(parameters.time_of("to", f"{whole}.{micros:06}"))
    assert found == min(max(wanted, 0), to_micros(NEVER))


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_an_invalid_parameter(text: str) -> None:
    for read in (
        lambda: parameters.bars_wanted(text, text, text, text),
        lambda: parameters.bars_wanted("1D", text, text, None),
        lambda: parameters.bars_wanted("1D", None, "0", text),
        lambda: parameters.limit_of(text),
        lambda: parameters.symbols_of(text),
    ):
        with suppress(InvalidParameter):
            assert read()


def test_asked_of_takes_a_count_or_a_start() -> None:
    day = Interval.D1
    assert parameters.bars_wanted("D", "0", "1610064000", None) == BarsWanted(day, ALWAYS, MOMENT, 0)
    assert parameters.bars_wanted("D", "0", "1610064000", "0") == BarsWanted(day, ALWAYS, MOMENT, 0)
    assert parameters.bars_wanted("D", "0", "1610064000", "2") == BarsWanted(day, ALWAYS, MOMENT, 2)
    assert parameters.bars_wanted("D", None, "1610064000", "2") == BarsWanted(day, MOMENT, MOMENT, 2)
    assert parameters.bars_wanted("D", "9999999999", "1610064000", "2").countback == 2
    assert parameters.bars_wanted("D", None, "1610064000", "9" * 18).countback == MAX_BARS


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ((None, "0", "1", None), "resolution"),
        (("", "0", "1", None), "resolution"),
        (("1", "0", None, "2"), "to"),
        (("1", "0", "", None), "to"),
        (("1", None, "1", None), "from"),
        (("1", "", "1", "0"), "from"),
        (("1", "x", "1", "5"), "from"),
        (("1", "2", "1", None), "to"),
        *((("1", "0", "1", text), "countback") for text in [*NO_NUMBERS, "-1", "1.5"]),
    ],
)
def test_asked_of_names_the_field_that_is_missing_or_wrong(asked: tuple[str | None, ...], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parameters.bars_wanted(*asked)
    assert caught.value.field == field


def test_limit_of_has_a_default_and_a_bound() -> None:
    assert [parameters.limit_of(text) for text in (None, "", "1")] == [30, 30, 1]
    assert {parameters.limit_of(text) for text in ("100", "101", "9" * 18)} == {MAX_MATCHES}


@pytest.mark.parametrize("text", ["0", "-1", *NO_NUMBERS])
def test_limit_of_refuses_what_is_no_count(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^limit: "):
        parameters.limit_of(text)


def test_symbols_of_takes_a_list_and_bounds_it() -> None:
    assert parameters.symbols_of("A,SIM:B,,a,") == ["A", "SIM:B", "a"]
    assert len(parameters.symbols_of(",".join("A" * MAX_SYMBOLS))) == MAX_SYMBOLS
    for text in (None, "", "A," * (MAX_SYMBOLS + 1)):
        with pytest.raises(InvalidParameter, match=r"^symbols: "):
            parameters.symbols_of(text)
