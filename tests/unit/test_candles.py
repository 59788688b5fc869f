"""Candles out of ticks, against candles computed from nothing in integers."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market.candles import CandleSeries, LateTick, OpenCandle
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import Candle, InstrumentId, Tick, from_micros
from tests.unit.stream_table import START, candles_of, tick

PLACES = 18


@st.composite
def numbers(draw: st.DrawFn) -> Decimal:
    """A number as PostgreSQL may store it: up to 20 digits before the point and 18 after it, zeros kept."""
    whole, places = draw(st.integers(0, 10**20 - 1)), draw(st.integers(0, PLACES))
    return Decimal(f"{whole}.{draw(st.integers(0, 10**places - 1)):0{places}}" if places else str(whole))


TICKS = st.lists(st.tuples(numbers(), numbers(), st.sampled_from([True, False, None])), min_size=1, max_size=12)


def scaled(number: Decimal) -> tuple[int, int]:
    """A number as a whole one, and how many of its digits are places."""
    whole, _, places = format(number, "f").partition(".")
    return int(whole + places), len(places)


def total(summands: list[tuple[int, int]]) -> str:
    """A sum with as many places as the summand that has most, as PostgreSQL's numeric gives it."""
    places = max((own for _, own in summands), default=0)
    digits = str(sum(whole * 10 ** (places - own) for whole, own in summands)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


def product(one: Tick) -> tuple[int, int]:
    (price, of_price), (size, of_size) = scaled(one.price), scaled(one.size)
    return price * size, of_price + of_size


@given(values=TICKS, order=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_candle_of_ticks_in_any_order_is_exact_to_the_digit(
    values: list[tuple[Decimal, Decimal, bool | None]], order: Random
) -> None:
    own = [Tick(InstrumentId(1), n, 0, *value) for n, value in enumerate(values)]
    shuffled = order.sample(own, len(own))
    candle = OpenCandle(START, START + timedelta(minutes=1), shuffled[0])
    for one in shuffled[1:]:
        candle.add(one)
    made = candle.candle(closed=True, contiguous_ids=True)
    takers = [one for one in own if one.buyer_is_maker is False]
    assert (made.open, made.close) == (format(own[0].price, "f"), format(own[-1].price, "f"))
    assert Decimal(made.high) == max(one.price for one in own)
    assert Decimal(made.low) == min(one.price for one in own)
    assert made.volume == total([scaled(one.size) for one in own])
    assert made.quote_volume == total([product(one) for one in own])
    assert made.taker_buy_volume == total([scaled(one.size) for one in takers])
    assert made.taker_buy_quote_volume == total([product(one) for one in takers])
    assert (made.trades, made.first_id, made.last_id, made.complete) == (len(own), 0, len(own) - 1, True)


@pytest.mark.parametrize(
    ("sizes", "makers", "volume", "taken"),
    [
        (["0", "0"], [True, True], "0", "0"),
        (["0.000", "1"], [True, False], "1.000", "1"),
        (["0.000"], [False], "0.000", "0.000"),
        (
            ["0.000000000000000001", "99999999999999999999"],
            [False, True],
            "99999999999999999999.000000000000000001",
            None,
        ),
        (["1.10", "2.900"], [None, None], "4.000", "0"),
    ],
)
def test_candle_volume_keeps_its_places_and_prints_no_exponent(
    sizes: list[str], makers: list[bool | None], volume: str, taken: str | None
) -> None:
    own = [tick(n, size=size, maker=maker) for n, (size, maker) in enumerate(zip(sizes, makers, strict=True))]
    (made,) = candles_of(own, Interval.M1, START)
    assert made.volume == volume
    assert taken is None or made.taker_buy_volume == taken


def test_candle_resumed_from_the_database_goes_on_as_if_never_left() -> None:
    own = [tick(n, n, price=f"{100 + n % 3}.50", size=f"0.{n:03}") for n in range(20)]
    (half,) = candles_of(own[:10], Interval.M1, START)
    resumed = OpenCandle.resume(half, START + timedelta(minutes=1))
    for one in own[10:]:
        resumed.add(one)
    assert [resumed.candle(closed=False, contiguous_ids=True)] == candles_of(own, Interval.M1, START)


def test_series_fed_in_order_closes_every_candle_once() -> None:
    own = [tick(n, n * 17) for n in range(40)]
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    closed = [candle for one in own if (candle := series.add(one))]
    closed.append(series.close())
    assert closed == candles_of(own, Interval.M1, START + timedelta(hours=1))
    assert series.snapshot() == closed[-1:]


def test_series_given_a_tick_before_its_open_bucket_calls_it_late() -> None:
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    series.add(tick(1, 61))
    with pytest.raises(LateTick):
        series.add(tick(2, 59.9))
    series.add(tick(3, 60))
    series.close()
    with pytest.raises(LateTick):
        series.add(tick(4, 119))
    assert series.add(tick(5, 120)) is None


def test_series_resumed_where_two_candles_are_open_takes_the_older_for_closed() -> None:
    """The exchange's clock is ahead of ours: its next minute has begun."""
    newest = candles_of([tick(1, 59), tick(2, 60)], Interval.M1, START)
    assert [candle.closed for candle in newest] == [False, False]
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    assert series.resume(newest) == 2
    assert [(candle.time, candle.closed, candle.complete) for candle in series.snapshot()] == [
        (START, True, True),
        (START + timedelta(minutes=1), False, False),
    ]


@pytest.mark.parametrize("contiguous", [True, False])
def test_series_whose_ids_jump_between_candles_calls_neither_complete(contiguous: bool) -> None:
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=contiguous)
    closed = [series.add(tick(trade_id, seconds)) for trade_id, seconds in [(1, 0), (2, 30), (5, 60), (6, 120)]]
    told = [candle.complete for candle in [*closed, series.close()] if candle]
    assert told == ([False, False, True] if contiguous else [None] * 3)


def test_series_takes_a_late_tick_for_no_gap() -> None:
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    series.add(tick(1, 60))
    with pytest.raises(LateTick):
        series.add(tick(2, 59))
    closed = series.add(tick(3, 120))
    assert closed is not None
    assert (closed.complete, series.close().complete) == (True, True)


def test_series_resumed_beside_a_gap_remembers_it() -> None:
    newest = candles_of([tick(1, 0), tick(5, 60)], Interval.M1, START + timedelta(minutes=1))
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    series.resume(newest)
    assert series.close().complete is False


def test_series_without_candles_resumes_to_take_anything() -> None:
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    series.add(tick(1, 600))
    assert series.resume([]) == -1
    assert series.snapshot() == []
    assert series.add(tick(0, 0)) is None


def test_series_resumed_from_id_zero_answers_it() -> None:
    series = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    assert series.resume(candles_of([tick(0)], Interval.M1, START)) == 0


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_series_in_a_zone_cuts_at_its_midnights(zone: str) -> None:
    series = CandleSeries(Interval.D1, ZoneInfo(zone), contiguous_ids=False)
    closed: list[Candle] = [candle for hour in range(24 * 40) if (candle := series.add(tick(hour, hour * 3600)))]
    for candle in closed:
        assert bucket_of(candle.time, Interval.D1, ZoneInfo(zone)) == candle.time
        local = candle.time.astimezone(ZoneInfo(zone))
        assert (local.hour, local.minute) == (0, 0)
    assert [next_bucket(c.time, Interval.D1, ZoneInfo(zone)) for c in closed[:-1]] == [c.time for c in closed[1:]]
    assert datetime(2026, 3, 2, 12, tzinfo=UTC) == from_micros(tick(0).time_us)
