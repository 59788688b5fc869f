"""Ticks on their way to the database, in order: the newest in memory, and those that waited too long on disk."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Final

from app.market.model import InstrumentId, Tick
from ingest.spool import Spool

SPILLED_AT_ONCE: Final = 10_000


class _Origin(Enum):
    """Where the batch in hand is to be found, should it not be stored."""

    MEMORY = "nowhere else"
    SPILLED = "was taken from memory, and is on disk by now"
    DISK = "on disk"


class Backlog:
    """A first-in, first-out queue that hands out batches, one at a time, and keeps each until it is `done`.

    Memory holds about `limit` ticks; `spill` moves all of them, and the batch in hand before them, to the spool, from
    where they are handed out first. What fits into neither is refused, newest first, and counted: the jump that it
    leaves in the ids becomes a gap. A batch may be handed out twice after a spill or a crash, never out of order; only
    what is put back before it, with older ticks on disk, comes after those.
    """

    def __init__(self, limit: int, spool: Spool | None, symbols: Mapping[InstrumentId, str]) -> None:
        """`symbols` names the instruments of all that is pushed."""
        self.refused = 0
        self.pushed = spool.ticks if spool else 0
        """Ticks taken over, those found in the spool among them."""
        self.finished = 0
        """How many of these are stored."""
        self._limit = limit
        self._spool = spool
        self._symbols = symbols
        self._memory: deque[Tick] = deque()
        self._hand: list[Tick] = []
        self._origin = _Origin.MEMORY
        self._turn = asyncio.Lock()
        """Taking and spilling both move the border between memory and disk."""

    @property
    def in_memory(self) -> int:
        """Ticks in memory, without those in hand."""
        return len(self._memory)

    @property
    def on_disk(self) -> int:
        return self._spool.ticks if self._spool else 0

    @property
    def bytes_on_disk(self) -> int:
        return self._spool.size if self._spool else 0

    @property
    def depth(self) -> int:
        """Ticks that wait, those in hand among them."""
        return len(self._memory) + self.on_disk + (len(self._hand) if self._origin is _Origin.MEMORY else 0)

    def push(self, ticks: Sequence[Tick]) -> int:
        """Take ticks over, or refuse and count them where memory is full; answers how many are in memory now."""
        depth = len(self._memory)
        if depth >= self._limit:
            self.refused += len(ticks)
            return depth
        self._memory.extend(ticks)
        self.pushed += len(ticks)
        return depth + len(ticks)

    @property
    def hand_is_on_disk(self) -> bool:
        """Whether the batch in hand came from the spool, which forgets it when it is done."""
        return self._origin is _Origin.DISK

    async def take(self, limit: int) -> list[Tick]:
        """The oldest ticks, about `limit` of them, or none; they are in hand until `done` or `put_back`."""
        async with self._turn:
            if self._spool and self._spool.ticks and (record := await self._spool.peek()):
                self._hand, self._origin = record, _Origin.DISK
            else:
                size = min(len(self._memory), limit)
                self._hand, self._origin = [self._memory.popleft() for _ in range(size)], _Origin.MEMORY
            return self._hand

    async def done(self) -> None:
        """What is in hand is stored."""
        async with self._turn:
            if self._spool and self._origin is _Origin.DISK:
                await self._spool.advance()
            if self._origin is not _Origin.SPILLED:  # else it is handed out once more
                self.finished += len(self._hand)
            self._hand, self._origin = [], _Origin.MEMORY

    async def put_back(self, before: Sequence[Tick] = ()) -> None:
        """What is in hand, if anything, was perhaps not stored: hand it out again, and these ticks before it.

        Those of `before` that are in hand, too, come in its place.
        """
        async with self._turn:
            in_hand = {(tick.instrument_id, tick.trade_id) for tick in self._hand}
            if self._origin is _Origin.MEMORY:
                self._memory.extendleft(reversed(self._hand))
            self._memory.extendleft(
                reversed([tick for tick in before if (tick.instrument_id, tick.trade_id) not in in_hand])
            )
            self._hand, self._origin = [], _Origin.MEMORY

    async def spill(self) -> None:
        """Move to the spool what it takes, oldest first; what it does not stays in memory."""
        if self._spool:
            # Whoever is cancelled while the disk is written to leaves: what is written leaves memory all the same.
            await asyncio.shield(self._spill(self._spool))

    async def _spill(self, spool: Spool) -> None:
        async with self._turn:
            if self._hand and self._origin is _Origin.MEMORY:
                if await spool.append(self._hand, self._symbols) < len(self._hand):
                    return
                self._origin = _Origin.SPILLED
            while self._memory:
                oldest = [*islice(self._memory, SPILLED_AT_ONCE)]
                kept = await spool.append(oldest, self._symbols)
                for _ in range(kept):
                    self._memory.popleft()
                if kept < len(oldest):
                    return
