"""A tape with ids that were never given, as real exchanges leave out ids at an outage."""

from collections.abc import Iterator, Sequence

from ingest.simulator.listing import Listing
from ingest.simulator.tape import FOREVER, Tape, Trade

Span = tuple[int, int]
"""Trade ids from the first to the second, both included."""


class VoidedTape:
    """A tape without the trades of some ids: nobody is sent them, and no history has them. `void` may be set anew."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._void: list[Span] = []

    @property
    def listing(self) -> Listing:
        return self._tape.listing

    @property
    def pace(self) -> float:
        return self._tape.pace

    @property
    def void(self) -> Sequence[Span]:
        """The spans without trades, ascending, no two of which touch."""
        return self._void

    @void.setter
    def void(self, spans: Sequence[Span]) -> None:
        merged: list[Span] = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        self._void = merged

    def begin(self, clock_us: int) -> None:
        self._tape.begin(clock_us)

    def now_us(self, clock_us: int) -> int:
        return self._tape.now_us(clock_us)

    def trade(self, trade_id: int) -> Trade:
        if any(first <= trade_id <= last for first, last in self._void):
            raise LookupError(trade_id)
        return self._tape.trade(trade_id)

    def trades(self, from_id: int, limit: int, until_us: int = FOREVER) -> list[Trade]:
        found: list[Trade] = []
        for first, end in self._traded(from_id, FOREVER):
            if (room := limit - len(found)) <= 0:
                break
            page = self._tape.trades(first, min(room, end - first), until_us)
            found += [trade for trade in page if trade.id < end]
        return found

    def before(self, trade_id: int, limit: int) -> list[Trade]:
        found: list[Trade] = []
        for first, end in reversed(list(self._traded(0, trade_id))):
            if (room := limit - len(found)) <= 0:
                break
            found[:0] = [trade for trade in self._tape.before(end, room) if trade.id >= first]
        return found

    def latest(self, limit: int, until_us: int) -> list[Trade]:
        return self.before(self._tape.id_at(until_us + 1), limit)

    def id_at(self, time_us: int) -> int:
        found = self._tape.id_at(time_us)
        return next((last + 1 for first, last in self._void if first <= found <= last), found)

    def time_of(self, from_id: int) -> int | None:
        if not self._void:
            return self._tape.time_of(from_id)
        found = self.trades(from_id, 1)
        return found[0].time_us if found else None

    def _traded(self, from_id: int, end_id: int) -> Iterator[Span]:
        """The ids from `from_id` (inclusive) to `end_id` (exclusive) that are not void, as such pairs, ascending."""
        for first, last in self._void:
            if from_id < min(first, end_id):
                yield from_id, min(first, end_id)
            from_id = max(from_id, last + 1)
        if from_id < end_id:
            yield from_id, end_id
