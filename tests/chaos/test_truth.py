"""The judge itself: what is wrong does not pass."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.market.model import Tick
from tests.chaos.truth import Follower, Truth, check_ticks, ranges

SYMBOL = "SIM:BTCUSDT"


@pytest.fixture
def truth() -> Truth:
    return Truth(["BTCUSDT"], 100, 7)


def test_ticks_as_they_were_sent_pass(truth: Truth) -> None:
    ticks = truth.ticks(SYMBOL, 1_000, 1_099)
    assert check_ticks(truth, {SYMBOL: ticks}) == {SYMBOL: ticks}


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda ticks: ticks[:40] + ticks[43:], r"3 missing: \[\(1040, 1042\)\]"),
        (lambda ticks: ticks[:40] + ticks[39:], r"1 stored twice: \[\(1039, 1039\)\]"),
        (
            lambda ticks: [*ticks[:40], msgspec.structs.replace(ticks[40], size=ticks[39].size * 3), *ticks[41:]],
            "other",
        ),
        (lambda ticks: [*ticks[:40], msgspec.structs.replace(ticks[40], time_us=1), *ticks[41:]], "other"),
    ],
    ids=["missing", "twice", "another size", "another time"],
)
def test_ticks_other_than_they_were_sent_do_not_pass(
    truth: Truth, spoil: Callable[[list[Tick]], list[Tick]], verdict: str
) -> None:
    with pytest.raises(AssertionError, match=verdict):
        check_ticks(truth, {SYMBOL: spoil(truth.ticks(SYMBOL, 1_000, 1_099))})


def test_symbol_without_any_tick_does_not_pass(truth: Truth) -> None:
    with pytest.raises(AssertionError):
        check_ticks(truth, {})


def test_ranges_of_ids_are_inclusive() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def told(truth: Truth, *events: dict[str, Any] | int) -> list[str]:
    """What a follower finds wrong with these events, where a number is the trade of that id."""
    follower = Follower(truth)
    for event in events:
        if isinstance(event, int):
            tick = truth.tick(SYMBOL, event)
            event = {"type": "trade", "symbol": SYMBOL, "trade_id": event} | {
                "price": str(tick.price),
                "size": str(tick.size),
            }
        follower.take(event)
    return follower.wrong


def gap(from_id: int, to_id: int, reason: str = "missing") -> dict[str, Any]:
    return {"type": "gap", "symbol": SYMBOL, "from_id": from_id, "to_id": to_id, "reason": reason}


def test_follower_takes_trades_in_order_and_gaps_that_it_is_told_of(truth: Truth) -> None:
    assert told(truth, 10, 11, gap(12, 14), 15, gap(3, 12, "late"), 16) == []


@pytest.mark.parametrize(
    "events",
    [
        (10, 12),
        (10, 11, 11),
        (10, 11, 10),
        (10, gap(12, 14), 15),
        (10, gap(11, 14), 14),
        (10, {"type": "reset", "channel": "trades", "symbol": SYMBOL}),
        (10, {"type": "error", "code": "unknown_symbol", "message": "", "id": 1}),
        (10, {"type": "snapshot", "symbol": SYMBOL, "trades": [{"trade_id": 11}]}),
        ({"type": "trade", "symbol": SYMBOL, "trade_id": 10, "price": "0.01", "size": "1"},),
    ],
    ids=["hole", "repeat", "back", "gap late", "in gap", "reset", "error", "anew", "forged"],
)
def test_follower_notes_what_is_wrong(truth: Truth, events: tuple[dict[str, Any] | int, ...]) -> None:
    assert told(truth, *events)
