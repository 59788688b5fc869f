"""Ranges of ids behave as a set of ids does."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.stream import ranges
from app.stream.ranges import IdRange, IdRanges

RANGE = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: IdRange(pair[0], pair[0] + pair[1]))


def ids_of(found: IdRanges | list[IdRange]) -> list[int]:
    return [i for ids in found for i in range(ids.from_id, ids.to_id + 1)]


@given(steps=st.lists(st.tuples(st.booleans(), RANGE), max_size=30))
def test_ranges_hold_what_a_set_would_ascending_and_apart(steps: list[tuple[bool, IdRange]]) -> None:
    found, model = IdRanges(), set[int]()
    for adding, (from_id, to_id) in steps:
        wanted = set(range(from_id, to_id + 1))
        if adding:
            found.add(from_id, to_id)
            model |= wanted
        else:
            assert ids_of(found.take(from_id, to_id)) == sorted(model & wanted)
            model -= wanted
        assert ids_of(found) == sorted(model)
        assert bool(found) is bool(model)
        kept = [*found]
        assert all(a.to_id + 1 < b.from_id for a, b in pairwise(kept))


def test_ranges_beyond_their_limit_forget_nothing_and_join_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MAX_RANGES", 3)
    found = IdRanges()
    for first in (40, 10, 30, 20, 50):
        found.add(first, first + 1)
    assert [*found] == [(10, 31), (40, 41), (50, 51)]
