"""The writer: a bounded buffer of ticks, flushed into the database by size or age."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market.model import Instrument, InstrumentId, Tick
from ingest.backoff import Backoff
from ingest.copy import Connection, TickTable
from ingest.instruments import last_stored
from ingest.sequence import Sequence as IdSequence

_QUERIES: Final = queries.load("ingest")
BATCHES_AHEAD: Final = 4
_log = structlog.get_logger()


class WriterCounters(msgspec.Struct):
    """What the writer did since it started; `newest_us` is the exchange's time of the last tick stored."""

    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    overflowed: int = 0
    gaps: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0
    newest_us: int = 0
    connected: bool = False


class Writer:
    """Stores each tick pushed to it once, in the order of pushes, while it holds the right to write its instruments.

    One transaction a flush: at `flush_ticks` ticks, or when the oldest has waited `flush_seconds`. While the database
    is away the ticks stay in the buffer; at `buffer_ticks` the newest ones are dropped and counted, and the jump in
    their ids opens a gap once writing resumes. While the database is there, `push` answers False when some batches
    wait: the caller waits for `room`, which is given as soon as the server works on the next batch. So the two take
    turns, and neither waits for the other.
    """

    def __init__(
        self,
        dsn: str,
        instruments: Mapping[InstrumentId, Instrument],
        *,
        flush_ticks: int,
        flush_seconds: float,
        buffer_ticks: int,
        came_late: Callable[[], None] = lambda: None,
    ) -> None:
        self.counters = WriterCounters()
        self._dsn = dsn
        self._instruments = instruments
        self._flush_ticks = flush_ticks
        self._flush_seconds = flush_seconds
        self._limit = buffer_ticks
        self._enough = min(buffer_ticks, BATCHES_AHEAD * flush_ticks)
        self._came_late = came_late
        self._buffer: deque[Tick] = deque()
        self._batch: list[Tick] = []
        """What is being written; kept until it is stored, since a commit that was cut off is tried again."""
        self._arrived = asyncio.Event()
        self._full_batch = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False
        self.ready = asyncio.Event()
        """Set once the writer holds its locks: until then another ingester writes these instruments."""

    @property
    def depth(self) -> int:
        """Ticks that wait to be written."""
        return len(self._buffer) + len(self._batch)

    def push(self, ticks: Sequence[Tick]) -> bool:
        """Take ticks over. False asks the caller to wait for `room` before it pushes more."""
        if self.depth >= self._limit and not self.counters.connected:
            self.counters.overflowed += len(ticks)
            return True
        self._buffer.extend(ticks)
        self._arrived.set()
        depth = len(self._buffer)
        if depth >= self._flush_ticks:
            self._full_batch.set()
            if depth >= self._enough and self.counters.connected:
                self._room.clear()
                return False
        return True

    async def room(self) -> None:
        """Wait until the buffer has room again, or the database is gone."""
        await self._room.wait()

    def stop(self) -> None:
        """Let `run` return as soon as all that was pushed is stored."""
        self._stopping = True
        self._arrived.set()
        self._full_batch.set()

    async def run(self) -> None:
        """Write until stopped and drained; reconnects for ever. Raises DatabaseRefused when the server refuses us."""
        backoff = Backoff(first=0.05, ceiling=2.0)
        while not (self._stopping and not self.depth):
            try:
                conn = await db.connect(self._dsn, "tickwick ingest")
            except DatabaseUnavailable as error:
                _log.warning("database unreachable", reason=str(error), waiting=self.depth)
                await asyncio.sleep(backoff.next())
                continue
            try:
                async with conn:
                    with db.translated():
                        await self._write_over(conn)
            except DatabaseUnavailable as error:
                _log.warning("database lost", reason=str(error), waiting=self.depth)
                if self.counters.connected:
                    backoff.reset()  # it was well until now
                await asyncio.sleep(backoff.next())
            finally:
                self.counters.connected = False
                self._room.set()

    async def _write_over(self, conn: Connection) -> None:
        await self._take_locks(conn)
        sequence = IdSequence(await last_stored(conn, self._instruments.values()))
        table = TickTable(conn, handed_over=self._give_room)
        self.counters.connected = True
        self.ready.set()
        _log.info("writer ready", instruments=len(self._instruments), waiting=self.depth)
        while self._batch or await self._gather():
            if not self._batch:
                size = min(len(self._buffer), self._flush_ticks)
                self._batch = [self._buffer.popleft() for _ in range(size)]
            await self._flush(table, sequence, self._batch)
            self._batch = []
            self._give_room()

    def _give_room(self) -> None:
        if len(self._buffer) < self._enough:
            self._room.set()

    async def _gather(self) -> bool:
        """Wait for a batch that is full or old enough. False when the writer is stopping and drained."""
        if not self._buffer:
            if self._stopping:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._buffer) < self._flush_ticks and not self._stopping:
            self._full_batch.clear()
            try:
                async with asyncio.timeout(self._flush_seconds):
                    await self._full_batch.wait()
            except TimeoutError:
                pass
        return bool(self._buffer) or not self._stopping

    async def _flush(self, table: TickTable, sequence: IdSequence, batch: list[Tick]) -> None:
        if not batch:
            return
        started = asyncio.get_running_loop().time()
        holes, late = sequence.observe(batch)
        written = await table.write(batch, holes=holes)
        counters = self.counters
        counters.stored += written.new
        counters.duplicate += written.duplicate
        counters.refused += written.refused
        counters.gaps += len(holes)
        counters.flushes += 1
        counters.flush_seconds += asyncio.get_running_loop().time() - started
        counters.newest_us = batch[-1].time_us
        for hole in holes:
            symbol = self._instruments[hole.instrument_id].symbol
            _log.warning("gap opened", symbol=symbol, from_id=hole.from_id, to_id=hole.to_id)
        if written.refused:
            _log.warning("ticks refused", count=written.refused)
        if late:
            self._came_late()

    async def _take_locks(self, conn: Connection) -> None:
        """Wait until every instrument is ours to write; another ingester holds them for as long as it is connected.

        In order of their ids, so that two ingesters never wait for each other.
        """
        for _, instrument in sorted(self._instruments.items()):
            waiting = False
            while not await self._try_lock(conn, instrument.id):
                if not waiting:
                    _log.info("waiting as standby", symbol=instrument.symbol)
                    waiting = True
                await asyncio.sleep(1)

    async def _try_lock(self, conn: Connection, instrument_id: InstrumentId) -> bool:
        cursor = await conn.execute(_QUERIES["try_lock"], {"instrument_id": instrument_id})
        row = await cursor.fetchone()
        return bool(row and row[0])
