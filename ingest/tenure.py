"""The writer's hold on the database while one connection lasts."""

from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Final

from app.market.model import Instrument, InstrumentId, Tick
from ingest.backlog import Backlog
from ingest.copy import Connection, TickTable
from ingest.instruments import last_stored
from ingest.ownership import Ownership
from ingest.sequence import Hole, Sequence

LEAVE_SECONDS: Final = 10.0
"""How long an instrument that is not ours to follow any more is kept for ticks on their way; later ones are others'."""


class Tenure:
    """What lasts as long as one connection: the locks, where the ids of our instruments stand, the way into the table.

    An instrument that is no longer ours to follow stays ours to write until what was pushed before is stored.
    """

    def __init__(
        self, conn: Connection, ownership: Ownership, backlog: Backlog, handed_over: Callable[[], None]
    ) -> None:
        self.table = TickTable(conn, handed_over)
        self.sequence = Sequence({})
        self._conn = conn
        self._ownership = ownership
        self._backlog = backlog
        self._ours: set[InstrumentId] = set()
        self._leaving: dict[InstrumentId, tuple[int, float]] = {}
        """What is to be released: how many ticks had been pushed by then, and until when these are awaited."""

    async def look(self) -> Mapping[InstrumentId, Instrument]:
        """What is ours to follow now; takes and releases locks accordingly."""
        look = await self._ownership.look()
        gained = look.keep.keys() - self._ours
        if gained:
            self.sequence.follow(await last_stored(self._conn, gained))
            self._ours |= gained
        mark = (self._backlog.pushed, monotonic() + LEAVE_SECONDS)
        self._leaving = {each: self._leaving.get(each, mark) for each in look.surplus}
        if left := [each for each, (pushed, until) in self._leaving.items() if self._is_over(pushed, until)]:
            self.sequence.forget(left)
            self._ours.difference_update(left)
            await self._ownership.release(left)
        return look.keep

    def _is_over(self, pushed: int, until: float) -> bool:
        return self._backlog.finished >= pushed or monotonic() > until

    def split(self, batch: list[Tick]) -> tuple[list[Tick], list[Tick]]:
        """The ticks of a batch that are ours to announce, and the others."""
        if {tick.instrument_id for tick in batch} <= self._ours:
            return batch, []
        ours = [tick for tick in batch if tick.instrument_id in self._ours]
        return ours, [tick for tick in batch if tick.instrument_id not in self._ours]

    async def holes_of_others(self, ticks: Collection[Tick]) -> list[Hole]:
        """The holes before ticks of others, whose owner begins behind these and would not see them."""
        last = await last_stored(self._conn, {tick.instrument_id for tick in ticks})
        return Sequence(last).observe(ticks)[0]
