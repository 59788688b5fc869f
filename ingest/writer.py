"""The writer: from the backlog into the database, by size or age, for the instruments that are ours to write."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from app import db
from app.errors import DatabaseUnavailable
from app.market.model import Feed, Instrument, InstrumentId, Tick
from app.telemetry import Histogram
from ingest.backlog import Backlog
from ingest.backoff import Backoff
from ingest.bridge import Bridges, Page
from ingest.copy import Connection
from ingest.ownership import Ownership
from ingest.sequence import Hole
from ingest.spool import Spool
from ingest.tenure import Tenure

BATCHES_AHEAD: Final = 4
LOOK_SECONDS: Final = 1.0
"""Between looks at what is tracked, and who owns it."""
STALL_SECONDS: Final = 0.5
"""How long a transaction may take before the source is read on without waiting for it."""
SPILL_AFTER_SECONDS: Final = 1.0
"""How long ticks wait for the database before they go to disk: what a kill of this process can cost."""
SPILL_SECONDS: Final = 0.25
_log = structlog.get_logger()


class WriterCounters(msgspec.Struct):
    """What the writer did since it started.

    `newest_us` is the exchange's time of the last tick stored, `lag` the seconds from there to its commit, `flush` the
    seconds that a transaction took.
    """

    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    gaps: int = 0
    flushes: int = 0
    newest_us: int = 0
    connected: bool = False
    flush: Histogram = msgspec.field(default_factory=Histogram)
    lag: Histogram = msgspec.field(default_factory=Histogram)


class Writer:
    """Stores each tick pushed to it once, in the order of pushes, and follows what it owns among its peers.

    One transaction a flush: at `flush_ticks` ticks, or when the oldest has waited `flush_seconds`. While the database
    is there, `push` answers False when some batches wait: the caller waits for `room`, which is given as soon as the
    server works on the next batch, so that the two take turns. While it is away, or takes long over a transaction,
    nobody waits: ticks stay in memory, and after a second go to the spool; see `Backlog`.

    Ticks of instruments that somebody else owns by now are stored all the same, but not announced: they are taken for
    a correction of what the owner tells.
    """

    def __init__(
        self,
        dsn: str,
        source: str,
        feed: Feed,
        *,
        flush_ticks: int,
        flush_seconds: float,
        buffer_ticks: int,
        spool: Spool | None = None,
        page: Page | None = None,
        follow: Callable[[Collection[Instrument]], None] = lambda _: None,
        gap_opened: Callable[[], None] = lambda: None,
        came_late: Callable[[], None] = lambda: None,
    ) -> None:
        """`follow` is told all instruments whose ticks are to be pushed from now on, whenever they change."""
        self.counters = WriterCounters()
        self.following: dict[InstrumentId, Instrument] = {}
        self.ready = asyncio.Event()
        """Set once something is ours to write: until then, others write all there is."""
        self._symbols: dict[InstrumentId, str] = {}
        self._arrived = asyncio.Event()
        self._full_batch = asyncio.Event()
        self._room = asyncio.Event()
        self.backlog = Backlog(buffer_ticks, spool, self._symbols)
        self.bridges = Bridges(page, self.following, self._arrived.set)
        self._dsn = dsn
        self._source = source
        self._feed: Feed = feed
        self._flush_ticks = flush_ticks
        self._flush_seconds = flush_seconds
        self._enough = min(buffer_ticks, BATCHES_AHEAD * flush_ticks)
        self._follow = follow
        self._gap_opened = gap_opened
        self._came_late = came_late
        self._released: list[Tick] = []
        """What the bridges have released and is not stored yet."""
        self._waiting_since: float | None = time.monotonic()
        """Since when the database takes nothing; None while it does."""
        self._stopping = False

    @property
    def depth(self) -> int:
        """Ticks that wait to be written."""
        return self.backlog.depth + self.bridges.held + len(self._released)

    def push(self, ticks: Sequence[Tick]) -> bool:
        """Take ticks over. False asks the caller to wait for `room` before it pushes more."""
        depth = self.backlog.push(ticks)
        self._arrived.set()
        if depth >= self._flush_ticks:
            self._full_batch.set()
            if depth >= self._enough and self._waiting_since is None and not self.backlog.on_disk:
                self._room.clear()
                return False
        return True

    async def room(self) -> None:
        """Wait until there is room again, or the database takes too long to wait for it."""
        await self._room.wait()

    def stop(self) -> None:
        """Let `run` return as soon as all that was pushed is stored, or on disk where other ticks wait there."""
        self._stopping = True
        self._arrived.set()
        self._full_batch.set()

    async def run(self) -> None:
        """Write until stopped and drained; reconnects for ever. Raises DatabaseRefused when the server refuses us.

        However it ends, what is not stored goes to the spool, as far as it takes it; the rest stays in `backlog`.
        """
        backoff, known = Backoff(first=0.05, ceiling=1.0), ""
        try:
            while not (self._stopping and not self.depth):
                try:
                    async with await db.connect(self._dsn, "tickwick ingest") as conn:
                        with db.translated():
                            await self._write_over(conn)
                        return
                except DatabaseUnavailable as error:
                    if self.counters.connected:  # it was well until now
                        backoff.reset()
                        known = ""
                    if known != (known := str(error)):
                        _log.warning("database away", reason=known, waiting=self.depth)
                await self._lose()
                await asyncio.sleep(backoff.next())
        finally:
            await self._lose()
            await self.backlog.spill()

    async def keep_spilling(self) -> None:
        """Move to the spool what waits too long for the database, until cancelled; to be run beside `run`."""
        while True:
            await asyncio.sleep(SPILL_SECONDS)
            waited = time.monotonic() - self._waiting_since if self._waiting_since is not None else 0.0
            if waited > SPILL_AFTER_SECONDS or (self.backlog.on_disk and self.backlog.in_memory >= self._enough):
                await self.backlog.spill()

    async def _write_over(self, conn: Connection) -> None:
        """Write over one connection until stopped and drained, or until it is lost."""
        ownership = Ownership(conn, self._source, self._feed, self.following)
        await ownership.join()
        tenure = Tenure(conn, ownership, self.backlog, self._give_room)
        self._own(await tenure.look())
        self.counters.connected = True
        self._waiting_since = None
        _log.info("writer ready", waiting=self.depth)
        while True:
            look_due = asyncio.get_running_loop().time() + LOOK_SECONDS
            while asyncio.get_running_loop().time() < look_due:
                await self._gather(look_due)
                await self._flush(tenure, await self.backlog.take(self._flush_ticks))
                await self.backlog.done()
                if self._stopping and not self.backlog.in_memory:
                    self._released = await self.bridges.close()
                    await self._flush(tenure, [])
                    return
                self._give_room()
            self._own(await tenure.look())

    def _own(self, keep: Mapping[InstrumentId, Instrument]) -> None:
        """Follow these instruments, and no others, from now on."""
        if keep:
            self.ready.set()
        if keep.keys() == self.following.keys():
            return
        self.bridges.expect(keep.keys() - self.following.keys())
        self.following.clear()
        self.following.update(keep)
        self._symbols.update({instrument.id: instrument.symbol for instrument in keep.values()})
        _log.info("instruments owned", symbols=sorted(instrument.symbol for instrument in keep.values()))
        self._follow(keep.values())

    async def _gather(self, due: float) -> None:
        """Wait for a batch that is full or old enough, or for released ticks, until `due` at most."""
        if not self.backlog.depth and not self._stopping:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._arrived.wait()
            except TimeoutError:
                return
        if self.backlog.in_memory < self._flush_ticks and not self.backlog.on_disk and not self._stopping:
            self._full_batch.clear()
            try:
                async with asyncio.timeout(self._flush_seconds):
                    await self._full_batch.wait()
            except TimeoutError:
                pass

    async def _flush(self, tenure: Tenure, batch: list[Tick]) -> None:
        ours, others = tenure.split(batch)
        holes, late = tenure.sequence.observe(ours)
        if self.backlog.hand_is_on_disk:
            # What is done is forgotten on disk: it must not wait in memory then.
            self._released += await self.bridges.close()
        else:
            ours = self.bridges.divert(ours, holes)
            self._released += self.bridges.released()
        await self._store(tenure, self._released + ours, holes, others)
        if late or self._released:
            self._came_late()
        self._released = []

    async def _store(self, tenure: Tenure, ticks: list[Tick], holes: Sequence[Hole], others: Sequence[Tick]) -> None:
        if not (ticks or holes or others):
            return
        loop = asyncio.get_running_loop()
        started, refused_before = loop.time(), self.counters.refused
        impatience = loop.call_later(STALL_SECONDS, self._stall)
        try:
            written = [await tenure.table.write(ticks, holes=holes)]
            if others:
                theirs = await tenure.holes_of_others(others)
                written.append(await tenure.table.write(others, quiet=True, holes=theirs))
                holes = [*holes, *theirs]
        finally:
            impatience.cancel()
        self._waiting_since = None
        counters = self.counters
        counters.stored += sum(each.new for each in written)
        counters.duplicate += sum(each.duplicate for each in written)
        counters.refused += sum(each.refused for each in written)
        counters.gaps += len(holes)
        counters.flushes += 1
        counters.flush.observe(loop.time() - started)
        if ticks:
            counters.newest_us = ticks[-1].time_us
            counters.lag.observe(time.time() - counters.newest_us / 1e6)
        if holes:
            self._gap_opened()
        for hole in holes:
            symbol = self._symbols.get(hole.instrument_id)
            _log.warning("gap opened", symbol=symbol, from_id=hole.from_id, to_id=hole.to_id)
        if refused := counters.refused - refused_before:
            _log.warning("ticks refused", count=refused)

    def _give_room(self) -> None:
        if self.backlog.in_memory < self._enough:
            self._room.set()

    def _stall(self) -> None:
        """The database takes nothing for now: the source is not to wait for it."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._room.set()

    async def _lose(self) -> None:
        """The connection is gone, and what was not stored over it is to be written over the next."""
        self.counters.connected = False
        self._stall()
        self._released += await self.bridges.close()
        await self.backlog.put_back(before=self._released)
        self._released = []
