"""Sets of trade ids as ranges: what clients were told is missing, and what came late. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_RANGES: Final = 1_024


class IdRange(NamedTuple):
    """Both ends inclusive."""

    from_id: int
    to_id: int


class IdRanges:
    """Ranges of ids, ascending, none touching another; at most 1,024.

    Beyond that the two lowest become one, with what lies between them: nothing that was added is forgotten, but what
    lay between counts as added too.
    """

    def __init__(self) -> None:
        self._ranges: list[IdRange] = []

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __iter__(self) -> Iterator[IdRange]:
        return iter(self._ranges)

    def add(self, from_id: int, to_id: int) -> None:
        """Add a range; it joins those that it overlaps or meets."""
        ranges = self._ranges
        first = bisect_left(ranges, from_id - 1, key=_to_id)
        after = bisect_right(ranges, to_id + 1, key=_from_id)
        if first < after:
            from_id, to_id = min(from_id, ranges[first].from_id), max(to_id, ranges[after - 1].to_id)
        ranges[first:after] = [IdRange(from_id, to_id)]
        if len(ranges) > MAX_RANGES:
            ranges[:2] = [IdRange(ranges[0].from_id, ranges[1].to_id)]

    def take(self, from_id: int, to_id: int) -> list[IdRange]:
        """Take a range out; answers what of it was there, ascending."""
        ranges = self._ranges
        first = bisect_left(ranges, from_id, key=_to_id)
        after = bisect_right(ranges, to_id, key=_from_id)
        taken = ranges[first:after]
        if not taken:
            return []
        left = [IdRange(taken[0].from_id, from_id - 1), IdRange(to_id + 1, taken[-1].to_id)]
        ranges[first:after] = [ids for ids in left if ids.from_id <= ids.to_id]
        return [IdRange(max(ids.from_id, from_id), min(ids.to_id, to_id)) for ids in taken]


def _from_id(ids: IdRange) -> int:
    return ids.from_id


def _to_id(ids: IdRange) -> int:
    return ids.to_id
