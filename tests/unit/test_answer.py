"""What an answer proves, and how a gap is cut: for any answer, every id of a gap is accounted for once."""

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.market.model import InstrumentId, Tick
from ingest import gaps
from ingest.answer import NO_LONGER_KEPT, NO_SUCH_IDS, Untold, examine
from ingest.gaps import Absent
from ingest.sequence import Hole

ONE = InstrumentId(1)
SECOND = 1_000_000


def tick(trade_id: int, price: str = "1") -> Tick:
    return Tick(ONE, trade_id, trade_id * SECOND, Decimal(price), Decimal(1), None)


def hole(from_id: int, to_id: int) -> Hole:
    return Hole(ONE, from_id, to_id, (from_id - 1) * SECOND, (to_id + 1) * SECOND)


def ids(found: Sequence[Tick]) -> list[int]:
    return [each.trade_id for each in found]


def ranges(absent: Sequence[Absent]) -> list[tuple[int, int, str]]:
    return [(each.hole.from_id, each.hole.to_id, each.reason) for each in absent]


def test_page_within_the_hole_leaves_the_rest_undecided() -> None:
    found = examine(hole(5, 20), [tick(5), tick(6), tick(9)], 0)
    assert ids(found.ticks) == [5, 6, 9]
    assert ranges(found.absent) == [(7, 8, NO_SUCH_IDS)]
    assert found.rest == Hole(ONE, 10, 20, 9 * SECOND, 21 * SECOND)


def test_page_beyond_the_hole_proves_its_end_absent_and_brings_nothing_of_beyond() -> None:
    found = examine(hole(5, 20), [tick(5), tick(25)], 0)
    assert ids(found.ticks) == [5]
    assert ranges(found.absent) == [(6, 20, NO_SUCH_IDS)]
    assert found.rest is None


def test_page_that_ends_with_the_hole_leaves_nothing() -> None:
    found = examine(hole(5, 6), [tick(5), tick(6)], 0)
    assert (ids(found.ticks), found.absent, found.rest) == ([5, 6], [], None)


def test_neighbours_that_are_absent_for_one_reason_are_one_range() -> None:
    page = [tick(5), tick(6), tick(7), tick(8, price="-1"), tick(9, price="-1"), tick(10)]
    found = examine(hole(5, 10), page, 7 * SECOND)
    assert ids(found.ticks) == [7, 10]
    assert ranges(found.absent) == [(5, 6, NO_LONGER_KEPT), (8, 9, "cannot be stored: price is not above zero")]


@pytest.mark.parametrize(
    "page",
    [
        [],
        [tick(4)],
        [tick(6), tick(5)],
        [tick(5), tick(5)],
        [Tick(InstrumentId(2), 5, 5 * SECOND, Decimal(1), Decimal(1), None)],
        [Tick(ONE, 5, 5_000 * SECOND, Decimal(1), Decimal(1), None)],
    ],
)
def test_page_that_cannot_be_an_answer_proves_nothing(page: list[Tick]) -> None:
    with pytest.raises(Untold):
        examine(hole(5, 20), page, 0)


@given(
    exists=st.lists(st.booleans(), min_size=1, max_size=60),
    page_ticks=st.integers(1, 12),
    kept_since=st.integers(0, 60),
    more=st.booleans(),
)
def test_pages_of_a_hole_account_for_each_id_once(
    exists: list[bool], page_ticks: int, kept_since: int, more: bool
) -> None:
    gap = hole(0, len(exists) - 1)
    there = [tick(n) for n, exist in enumerate(exists) if exist]
    served = [*there, tick(len(exists) + 3)] if more else there
    stored: list[int] = []
    absent: list[Absent] = []
    rest: Hole | None = gap
    while rest:
        page = [each for each in served if each.trade_id >= rest.from_id][:page_ticks]
        if not page:
            break
        found = examine(rest, page, kept_since * SECOND)
        stored += ids(found.ticks)
        absent += found.absent
        rest = found.rest
    assert stored == [each.trade_id for each in there if each.trade_id >= kept_since]
    assert rest is None or not more

    pieces = gaps.cut(gap, absent, rest)
    covered = [n for piece in pieces for n in range(piece.hole.from_id, piece.hole.to_id + 1)]
    assert covered == [*range(len(exists))]
    filled = [p for p in pieces if p.state == "filled"]
    assert [n for p in filled for n in range(p.hole.from_id, p.hole.to_id + 1)] == stored
    assert all((piece.reason is not None) == (piece.state == "unfillable") for piece in pieces)
    for piece in pieces:
        assert piece.hole.from_time_us <= piece.hole.to_time_us
