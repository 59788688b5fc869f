"""Missing trade ids."""

from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.market.model import InstrumentId, Tick
from ingest.sequence import Hole, Sequence

ONE, TWO = InstrumentId(1), InstrumentId(2)


def ticks(instrument_id: InstrumentId, *ids: int) -> list[Tick]:
    return [Tick(instrument_id, i, i * 10, Decimal(1), Decimal(1), None) for i in ids]


def test_sequence_without_a_jump_has_no_hole() -> None:
    assert Sequence({ONE: (4, 40)}).observe(ticks(ONE, 5, 6, 7)) == ([], False)


def test_sequence_names_each_jump_with_the_times_around_it() -> None:
    holes, late = Sequence({ONE: (4, 40)}).observe(ticks(ONE, 7, 8, 10))
    assert holes == [Hole(ONE, 5, 6, 40, 70), Hole(ONE, 9, 9, 80, 100)]
    assert not late


def test_sequence_begins_with_the_first_tick_where_none_is_stored() -> None:
    sequence = Sequence({ONE: None})
    assert sequence.observe(ticks(ONE, 1000, 1001)) == ([], False)
    assert sequence.observe(ticks(ONE, 1003)) == ([Hole(ONE, 1002, 1002, 10010, 10030)], False)


def test_sequence_takes_an_id_at_or_below_the_last_for_late_and_goes_on_from_the_last() -> None:
    sequence = Sequence({ONE: (9, 90)})
    assert sequence.observe(ticks(ONE, 9, 3)) == ([], True)
    assert sequence.observe(ticks(ONE, 10)) == ([], False)


def test_sequence_follows_each_instrument_by_itself_and_skips_those_it_was_not_given() -> None:
    sequence = Sequence({ONE: (1, 10), TWO: (100, 1000)})
    mixed = [*ticks(ONE, 2), *ticks(TWO, 101), *ticks(ONE, 3), *ticks(InstrumentId(3), 5, 500, 1), *ticks(TWO, 103)]
    assert sequence.observe(mixed) == ([Hole(TWO, 102, 102, 1010, 1030)], False)


@given(st.lists(st.integers(1, 60), max_size=60), st.lists(st.integers(1, 60), max_size=10))
def test_sequence_holes_and_ids_above_the_last_cover_every_id_once(ids: list[int], cuts: list[int]) -> None:
    sequence = Sequence({ONE: (0, 0)})
    covered: list[int] = []
    highest = 0
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(ids)), len(ids)]
    for begin, end in pairwise(bounds):
        holes, _ = sequence.observe(ticks(ONE, *ids[begin:end]))
        covered += [i for hole in holes for i in range(hole.from_id, hole.to_id + 1)]
    for i in ids:
        if i > highest:
            covered.append(i)
            highest = i
    assert sorted(covered) == list(range(1, highest + 1))
