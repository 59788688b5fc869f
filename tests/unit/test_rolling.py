"""The ticker's rolling day, against one computed from all ticks at each moment."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market.intervals import Interval
from app.market.model import Tick, Ticker, change_of, day_start, plain
from app.market.rolling import RollingDay
from app.stream.topics import trade_of
from tests.unit.stream_table import START, candles_of, tick

HOUR = 3600.0


def from_nothing(own: Sequence[Tick], now: datetime) -> Ticker | None:
    """As `app.market.store.ticker` computes it: minute candles from `day_start` on, and the last trade by time."""
    if not own:
        return None
    last = max(own, key=lambda one: (one.time_us, one.trade_id))
    minutes = [c for c in candles_of(own, Interval.M1, now) if c.time >= day_start(now)]
    if not minutes:
        return Ticker(last.time, plain(last.price), None, None, None, None, None, "0", "0", 0)
    first, close = Decimal(minutes[0].open), Decimal(minutes[-1].close)
    return Ticker(
        last.time,
        plain(close),
        plain(first),
        plain(max(Decimal(c.high) for c in minutes)),
        plain(min(Decimal(c.low) for c in minutes)),
        *change_of(first, close),
        plain(sum((Decimal(c.volume) for c in minutes), Decimal(0))),
        plain(sum((Decimal(c.quote_volume) for c in minutes), Decimal(0))),
        sum(c.trades for c in minutes),
    )


@given(
    steps=st.lists(st.tuples(st.floats(0, 3 * HOUR), st.integers(9_000, 11_000)), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    silence=st.floats(0, 30 * HOUR),
)
@settings(max_examples=150, deadline=None)
def test_day_resumed_anywhere_equals_one_computed_from_nothing(
    steps: list[tuple[float, int]], cut: int, silence: float
) -> None:
    own, seconds = [], 0.0
    for number, (step, price) in enumerate(steps):
        seconds += step
        own.append(tick(number, seconds, price=plain(Decimal(price).scaleb(-2))))
    day = RollingDay()
    before = own[:cut]
    now = before[-1].time if before else START
    minutes = [c for c in candles_of(before, Interval.M1, now) if c.time >= day_start(now)]
    last_id = day.resume(minutes, trade_of(before[-1]) if before else None)
    assert last_id == len(before) - 1
    for one in own[cut:]:
        assert day.add(one)
        assert day.ticker(one.time) == from_nothing(own[: one.trade_id + 1], one.time)
    end = own[-1].time + timedelta(seconds=silence)
    assert day.ticker(end) == from_nothing(own, end)


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
