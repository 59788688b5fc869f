"""Fills gaps from the venue's past: asks for what is missing, stores it, and says of what never comes why not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market.model import Instrument, InstrumentId, Tick, from_micros, to_micros
from ingest import gaps
from ingest.answer import NO_LONGER_KEPT, Finding, Untold, examine, undecided
from ingest.backoff import Backoff
from ingest.copy import TickTable
from ingest.gaps import Absent
from ingest.history import HistoryClient, HistoryRefused, HistoryUnavailable
from ingest.ownership import guard
from ingest.sequence import Hole

PAGES_A_TURN: Final = 50
"""After so many pages the next gap has its turn, and what is filled of a large one is told."""

MOST_POSTPONED: Final = 1000
"""Of so many gaps it is remembered that the venue told nothing; while it is, their instruments rest altogether."""

THEIRS_SECONDS: Final = 1.5
"""After that an instrument that another process repairs is tried again: that one may have ended since."""

ANSWER_SECONDS: Final = 40.0
"""The longest wait for one page: more than the 34 s that a request may take with its three attempts of 10 s, back-off,
and a rate of one a second. A page that takes many requests of a slow venue is given up then."""

ALIVE_SECONDS: Final = 1.0
"""How often the database hears of us while the venue is waited for."""

SILENT_SECONDS: Final = 3.5
"""After so long a silence the server ends our session, and its locks with it: we must have stalled."""

_QUERIES: Final = queries.load("gaps")
_INGEST_QUERIES: Final = queries.load("ingest")
_log = structlog.get_logger()
T = TypeVar("T")


class RepairCounters(msgspec.Struct):
    """What was done since the start; `failed` counts what was asked of the venue in vain."""

    ticks: int = 0
    filled: int = 0
    unfillable: int = 0
    failed: int = 0


class Repair:
    """The work on gaps over one connection, which it makes its own; bounded in memory by a page.

    Each page is a transaction, which also closes what it decides of the gap: whoever interrupts loses nothing, and no
    page is asked for twice. `decided` hears how many ids each page settled.
    """

    def __init__(
        self,
        conn: AsyncConnection[Any],
        client: HistoryClient,
        counters: RepairCounters,
        decided: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._conn = conn
        self._client = client
        self._counters = counters
        self._decided = decided
        self._table = TickTable(conn)
        self._asked_from = 0
        self._page: Sequence[Tick] = ()
        """The last page, asked from that id on: the next hole often lies within it."""

    @asynccontextmanager
    async def alone(self, instrument_id: InstrumentId) -> AsyncIterator[bool]:
        """Within the block, True says that no other process repairs this instrument; False that one does."""
        values = {"instrument_id": instrument_id}
        cursor = await self._conn.execute(_QUERIES["lock_repair"], values)
        row = await cursor.fetchone()
        ours = bool(row and row[0])
        try:
            yield ours
        finally:
            # A command that was interrupted leaves the connection busy: it can only be closed then, which unlocks too.
            if ours and self._conn.info.transaction_status == TransactionStatus.IDLE:
                await self._conn.execute(_QUERIES["unlock_repair"], values)

    async def turn(self, instrument: Instrument, gap: Hole) -> bool:
        """Ask for what is missing of an open gap, for `PAGES_A_TURN` pages at most. True when more is left to do.

        Raises HistoryUnavailable, or Untold, with all that came before stored.
        """
        missing = await gaps.missing(self._conn, gap)
        if not missing:
            await self._store(gap, Finding([], [], None), None, cut=True)
            return False
        pages = 0
        for hole in missing:
            last = hole is missing[-1]
            wanted: Hole | None = hole
            while wanted:
                finding = await self._ask(instrument, wanted)
                pages += 1
                self._decided((finding.rest.from_id if finding.rest else hole.to_id + 1) - wanted.from_id)
                wanted = finding.rest
                complete = last and not wanted and len(missing) < gaps.MOST_ROWS
                over = pages >= PAGES_A_TURN or (last and not wanted)
                rest = None if complete else undecided(gap, hole, wanted, finding, over=over)
                if not await self._store(gap, finding, rest, cut=over or bool(finding.absent)):
                    return False
                if over or rest is None:
                    return rest is not None
                if finding.absent:
                    gap = rest
        return True

    async def _ask(self, instrument: Instrument, wanted: Hole) -> Finding:
        kept_since_us = await self._kept_since_us()
        if wanted.to_time_us < kept_since_us:
            return Finding([], [Absent(wanted, NO_LONGER_KEPT)], None)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                old = wanted.from_time_us < kept_since_us
                if old and (skipped := await self._skip(instrument, wanted, kept_since_us)):
                    return skipped
                page = self._told_already(wanted) or await self._aloud(
                    self._client.page(instrument.ticker, instrument.id, wanted.from_id, wanted.from_time_us)
                )
        except TimeoutError:
            raise Untold(f"the exchange took too long to answer from trade {wanted.from_id} on") from None
        except HistoryRefused as refusal:
            self._counters.failed += 1
            _log.warning("repair refused", symbol=instrument.symbol, from_id=wanted.from_id, reason=str(refusal))
            return Finding([], [Absent(wanted, str(refusal))], None)
        finding = examine(wanted, page, kept_since_us)
        self._asked_from, self._page = wanted.from_id, page
        return finding

    async def _aloud(self, answer: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer of the venue, with a word to the database every second: we are not stalled."""
        waiting = asyncio.create_task(answer)
        try:
            while not (await asyncio.wait([waiting], timeout=ALIVE_SECONDS))[0]:
                await self._conn.execute("SELECT 1")
            return waiting.result()
        finally:
            waiting.cancel()

    def _told_already(self, wanted: Hole) -> Sequence[Tick]:
        """What the last page tells from the wanted id on; nothing where it does not reach it."""
        page = self._page
        if not page or page[0].instrument_id != wanted.instrument_id:
            return ()
        if not self._asked_from <= wanted.from_id <= page[-1].trade_id:
            return ()
        return [tick for tick in page if tick.trade_id >= wanted.from_id]

    async def _skip(self, instrument: Instrument, wanted: Hole, kept_since_us: int) -> Finding | None:
        """What to leave out because it is no longer kept, before asking for it."""
        first = await self._aloud(self._client.first_id_at(instrument.ticker, instrument.id, kept_since_us))
        if first is None:
            raise Untold(f"the exchange tells nothing since {from_micros(kept_since_us)}")
        if first <= wanted.from_id:
            return None
        if first > wanted.to_id:
            return Finding([], [Absent(wanted, NO_LONGER_KEPT)], None)
        old = wanted._replace(to_id=first - 1, to_time_us=kept_since_us)
        return Finding([], [Absent(old, NO_LONGER_KEPT)], wanted._replace(from_id=first, from_time_us=kept_since_us))

    async def _kept_since_us(self) -> int:
        cursor = await self._conn.execute(_INGEST_QUERIES["kept_since"])
        row = await cursor.fetchone()
        return to_micros(row[0]) if row and row[0] else 0

    async def _store(self, gap: Hole, finding: Finding, rest: Hole | None, *, cut: bool) -> bool:
        """Store what was found, and with `cut` close the gap but for its `rest`. False when it was closed meanwhile."""
        pieces = gaps.cut(gap, finding.absent, rest) if cut else []
        async with self._conn.transaction():
            written = await self._table.write(finding.ticks, quiet=True)
            if written.refused:
                raise Untold(f"the table refuses some of the trades {gap.from_id} to {gap.to_id}")
            found = not cut or await gaps.replace(self._conn, gap, pieces)
        self._counters.ticks += written.new
        if found:
            self._counters.filled += sum(piece.state == "filled" for piece in pieces)
            self._counters.unfillable += sum(piece.state == "unfillable" for piece in pieces)
        return found


class _Postponed(NamedTuple):
    until: float
    backoff: Backoff


class Repairer:
    """Repairs the gaps of the instruments that are `owned`, one page of one gap at a time, for as long as it runs.

    The smallest gap goes first, since each costs a request at least: so most candles are soon complete, and a gap of
    the last minute does not wait for one of last month. A gap is left alone for `patience` seconds, within which trades
    that came out of order close it by themselves. `stored` is called when ticks were stored: candles are to be
    refreshed. A gap that the venue tells nothing of is left alone for a growing while, its neighbours are not; an
    instrument that another process repairs is for `THEIRS_SECONDS`; a venue that asks to be left alone is, for as long
    as it asks.
    """

    def __init__(
        self,
        dsn: str,
        client: HistoryClient,
        owned: Callable[[], Mapping[InstrumentId, Instrument]],
        stored: Callable[[], None],
        *,
        patience: float = 1.0,
        every: timedelta = timedelta(seconds=1.5),
    ) -> None:
        self.counters = RepairCounters()
        self._dsn = dsn
        self._client = client
        self._owned = owned
        self._stored = stored
        self._patience = patience
        self._every = every.total_seconds()
        self._woken = asyncio.Event()
        self._postponed: dict[tuple[int, int], _Postponed] = {}
        """By instrument and first id: the gaps that were asked for in vain."""
        self._theirs: dict[InstrumentId, float] = {}
        """Until when the instruments that others repair are left alone."""

    def wake(self) -> None:
        """Tell that a gap was opened."""
        self._woken.set()

    async def run(self) -> None:
        """Repair for ever; reconnects. Raises DatabaseRefused when the server refuses us."""
        backoff = Backoff(first=0.2, ceiling=2.0)
        while True:
            try:
                async with await db.connect(self._dsn, "tickwick repair") as conn:
                    with db.translated():
                        await guard(conn, SILENT_SECONDS)
                        await self._run_over(Repair(conn, self._client, self.counters), conn, backoff)
            except HistoryUnavailable as error:  # waited for without a session, which must not be silent for so long
                self.counters.failed += 1
                _log.info("repair waits for the exchange", reason=str(error), seconds=round(error.wait, 1))
                await asyncio.sleep(error.wait)
            except DatabaseUnavailable as error:
                _log.warning("repair lost the database", reason=str(error))
                await asyncio.sleep(backoff.next())

    async def _run_over(self, repair: Repair, conn: AsyncConnection[Any], backoff: Backoff) -> None:
        while True:
            more = await self._look(repair, conn)
            backoff.reset()
            if not more:
                await self._rest()

    async def _rest(self) -> None:
        """Wait until there may be something to do."""
        try:
            async with asyncio.timeout(min(self._every, THEIRS_SECONDS) if self._theirs else self._every):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()  # now: a gap that opens while this one is waited for is not due when this one is
        await asyncio.sleep(self._patience)

    async def _look(self, repair: Repair, conn: AsyncConnection[Any]) -> bool:
        """Give each gap that is due its turn. True when there is more to do at once."""
        now = asyncio.get_running_loop().time()
        self._theirs = {instrument_id: until for instrument_id, until in self._theirs.items() if until > now}
        postponed = [gap for gap, (until, _) in self._postponed.items() if until > now]
        resting = {instrument_id for instrument_id, _ in postponed} if len(postponed) >= MOST_POSTPONED else set()
        left_alone = resting | self._theirs.keys()
        wanted = [i.id for i in self._owned().values() if i.contiguous_ids and i.id not in left_alone]
        due = await gaps.due(conn, wanted, self._patience, postponed) if wanted else []
        more = len(due) == gaps.MOST_ROWS
        for gap in due:
            instrument = self._owned().get(gap.instrument_id)
            if instrument and instrument.id not in self._theirs:
                more |= await self._turn(repair, instrument, gap)
        return more

    async def _turn(self, repair: Repair, instrument: Instrument, gap: Hole) -> bool:
        before = self.counters.ticks
        try:
            async with repair.alone(instrument.id) as ours:
                if not ours:
                    self._theirs[instrument.id] = asyncio.get_running_loop().time() + THEIRS_SECONDS
                    return False
                more = await repair.turn(instrument, gap)
        except Untold as error:
            self.counters.failed += 1
            self._postpone(gap)
            _log.info("repair postponed", symbol=instrument.symbol, from_id=gap.from_id, reason=str(error))
            return False
        finally:
            if self.counters.ticks > before:
                self._stored()
        self._postponed.pop((gap.instrument_id, gap.from_id), None)
        return more

    def _postpone(self, gap: Hole) -> None:
        before = self._postponed.pop((gap.instrument_id, gap.from_id), None)
        backoff = before.backoff if before else Backoff(first=1.0, ceiling=60.0)
        if len(self._postponed) >= MOST_POSTPONED:
            del self._postponed[min(self._postponed, key=lambda each: self._postponed[each].until)]
        until = asyncio.get_running_loop().time() + backoff.next()
        self._postponed[gap.instrument_id, gap.from_id] = _Postponed(until, backoff)
