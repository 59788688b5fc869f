"""The ticker's rolling day, against one computed from all ticks at each moment."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market.intervals import Interval
from app.market.model import Tick, Ticker, average_of, change_of, day_start, plain, window_start
from app.market.rolling import RollingDay
from app.stream.topics import trade_of
from tests.unit.stream_table import START, candles_of, tick

HOUR = 3600.0


def from_nothing(own: Sequence[Tick], now: datetime) -> Ticker | None:
    """As `app.market.tickers.windows` computes it: all ticks since `day_start`, and the newest minute before it."""
    if not own:
        return None
    last = max(own, key=lambda one: (one.time_us, one.trade_id))
    size = plain(last.size)
    minutes = candles_of(own, Interval.M1, now)
    previous = next((c.close for c in reversed(minutes) if c.time < day_start(now)), None)
    ticks = sorted((one for one in own if one.time >= day_start(now)), key=lambda one: one.trade_id)
    if not ticks:
        assert previous is not None
        return Ticker(last.time, previous, None, None, None, None, None, "0", "0", 0, size, previous, None, None)
    return Ticker(
        last.time,
        plain(ticks[-1].price),
        plain(ticks[0].price),
        plain(max(one.price for one in ticks)),
        plain(min(one.price for one in ticks)),
        *change_of(ticks[0].price, ticks[-1].price),
        plain(sum((one.size for one in ticks), Decimal(0))),
        plain(sum((one.price * one.size for one in ticks), Decimal(0))),
        len(ticks),
        size,
        previous,
        ticks[0].trade_id,
        ticks[-1].trade_id,
    )


def average_from_nothing(own: Sequence[Tick], now: datetime) -> str | None:
    if not own:
        return None
    ticks = [one for one in own if one.time >= window_start(now, timedelta(minutes=5))]
    volume = sum((one.size for one in ticks), Decimal(0))
    if not volume and ticks:
        return plain(max(ticks, key=lambda one: one.trade_id).price)
    if not volume:
        return candles_of(own, Interval.M1, now)[-1].close
    return f"{sum((one.price * one.size for one in ticks), Decimal(0)) / volume:.8f}"


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 3 * HOUR) | st.floats(0, 90), st.integers(9_000, 11_000), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    ),
    cut=st.integers(0, 60),
    silence=st.floats(0, 30 * HOUR) | st.floats(0, 600),
    swaps=st.lists(st.integers(0, 58), max_size=10),
)
@settings(max_examples=300, deadline=None)
def test_day_resumed_anywhere_equals_one_computed_from_nothing(
    steps: list[tuple[float, int, int]], cut: int, silence: float, swaps: list[int]
) -> None:
    ids = list(range(len(steps)))
    for place in swaps:  # an id may be lower than that of a tick of an earlier time
        if place + 1 < len(ids):
            ids[place], ids[place + 1] = ids[place + 1], ids[place]
    own, seconds = [], 0.0
    for number, (step, price, size) in zip(ids, steps, strict=True):
        seconds += step
        own.append(tick(number, seconds, price=plain(Decimal(price).scaleb(-2)), size=f"0.{size}"))
    day = RollingDay()
    before = own[:cut]
    now = before[-1].time if before else START
    minutes = candles_of(before, Interval.M1, now)
    older = [c for c in minutes if c.time < day_start(now)]
    last = max(before, key=lambda one: (one.time_us, one.trade_id), default=None)
    last_id = day.resume([*older[-1:], *minutes[len(older) :]], trade_of(last) if last else None)
    assert last_id >= (last.trade_id if last else -1)
    for count, one in enumerate(own[cut:], start=len(before) + 1):
        assert day.add(one)
        assert day.ticker(one.time) == from_nothing(own[:count], one.time)
        assert day.average(one.time) == average_from_nothing(own[:count], one.time)
    end = own[-1].time + timedelta(seconds=silence)
    assert day.ticker(end) == from_nothing(own, end)
    assert day.average(end) == average_from_nothing(own, end)


def test_day_of_a_quiet_instrument_told_of_an_older_tick_asks_to_be_read_anew() -> None:
    day = RollingDay()
    assert day.add(tick(5, 120))
    quiet = day.ticker(START + timedelta(days=3))
    assert quiet is not None
    assert (quiet.last, quiet.previous, quiet.trades, quiet.first_id) == ("100.00", "100.00", 0, None)
    assert not day.add(tick(6, 30))
    assert not day.add(tick(6, 150))
    assert day.ticker(START + timedelta(days=3)) == quiet


def test_day_of_many_minutes_turns_without_adding_them_all_up(monkeypatch: pytest.MonkeyPatch) -> None:
    day = RollingDay()
    for minute in range(1_440):
        day.add(tick(minute, 60 * minute))
    end = START + timedelta(days=1)
    assert day.ticker(end + timedelta(minutes=1)) is not None
    additions = 0

    class Counting(Context):
        def add(self, *values: Any) -> Decimal:
            nonlocal additions
            additions += 1
            return super().add(*values)

    monkeypatch.setattr("app.market.rolling.EXACT", Counting(prec=200))
    for minute in range(60):
        assert day.add(tick(1_440 + minute, 60 * (1_440 + minute)))
        assert day.ticker(end + timedelta(minutes=minute + 1)) is not None
    assert additions < 60 * 10


def test_average_of_quotes_without_volume_is_the_last_price() -> None:
    day = RollingDay()
    assert day.average(START) is None
    assert day.add(tick(1, 0, price="7.10", size="0"))
    assert day.add(tick(2, 1, price="7.20", size="0"))
    assert day.average(START) == "7.20"
    ticker = day.ticker(START)
    assert ticker is not None
    assert (ticker.volume, ticker.average) == ("0", "7.20")


def test_day_given_a_tick_of_a_past_minute_asks_to_be_read_anew() -> None:
    day = RollingDay()
    assert day.add(tick(1, 61))
    assert not day.add(tick(2, 59))
    assert day.add(tick(3, 60.5))


def test_day_of_an_instrument_that_never_traded_has_no_ticker() -> None:
    day = RollingDay()
    assert day.resume([], None) == -1
    assert day.ticker(START) is None


def test_day_given_a_higher_id_of_an_earlier_time_keeps_the_later_time() -> None:
    own = [tick(1, 10.5), tick(2, 10.2, price="101.00")]
    day = RollingDay()
    assert day.add(own[0])
    assert day.add(own[1])
    assert day.ticker(own[0].time) == from_nothing(own, own[0].time)


@pytest.mark.parametrize(
    ("first", "last", "change", "percent"),
    [
        ("100", "101.5", "1.5", "1.500"),
        ("3", "2", "-1", "-33.333"),
        ("0.000000000000000001", "99999999999999999999", "99999999999999999998.999999999999999999", None),
        ("99999999999999999999.999999999999999999", "0.000000000000000001", None, "-100.000"),
    ],
)
def test_change_is_exact_for_every_price_that_can_be_stored(
    first: str, last: str, change: str | None, percent: str | None
) -> None:
    found = change_of(Decimal(first), Decimal(last))
    assert change in (None, found[0])
    assert percent in (None, found[1])
    assert all("E" not in text and "NaN" not in text for text in found)


@pytest.mark.parametrize(
    ("quote_volume", "volume", "average"),
    [
        ("10", "4", "2.50000000"),
        ("1", "3", "0.33333333"),
        ("2", "3", "0.66666667"),
        ("9" * 39 + "." + "9" * 18, "0.000000000000000001", "9" * 57 + ".00000000"),
        ("0", "0", "5"),
    ],
)
def test_average_is_exact_to_eight_places(quote_volume: str, volume: str, average: str) -> None:
    assert average_of(Decimal(quote_volume), Decimal(volume), Decimal(5)) == average
