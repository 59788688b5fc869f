"""The ingest process: one source's feed, the writer behind it, and what mends candles and gaps beside them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import platformdirs
import structlog

import sql as queries
from app import db
from app.errors import OperatorError, TickwickError
from app.settings import Settings
from ingest import instruments
from ingest.feed import Feed
from ingest.history import HistoryClient
from ingest.instruments import Listing
from ingest.metrics import serve_metrics
from ingest.poll import Poller
from ingest.refresher import keep_settled
from ingest.repair import Repairer
from ingest.sources import PollSource
from ingest.spool import Spool
from ingest.tracking import Tracking
from ingest.venues import Venue, venue_of
from ingest.writer import Writer
from sql.engine import Engine

DRAIN_SECONDS: Final = 2.0
KNOWN: Final = ("SUIUSDC", "DOGEUSDC")
"""Instruments of Binance that are listed from the start, though not tracked."""

_QUERIES: Final = queries.load("ingest")
_log = structlog.get_logger()


async def run(settings: Settings, ready: Callable[[list[str]], None] = lambda _: None) -> None:
    """Ingest until cancelled, then store what was received, or leave it in the spool.

    `ready` is told the symbols once some are ours to write. Raises OperatorError where it cannot start, or where the
    source turns us away for good.
    """
    venue = venue_of(settings)
    tickers = [ticker.strip().upper() for ticker in settings.instruments.split(",") if ticker.strip()]
    if settings.instruments and not tickers:
        raise OperatorError("--instruments names no ticker: leave it empty to track what is tracked already")
    engine, database = await _prepare(settings, venue, tickers)
    with contextlib.closing(Spool.open(_spool_folder(settings, database), settings.spool_bytes)) as spool:
        await _check_spool(settings, spool)
        async with _history(venue) as history:
            await _Ingest(settings, venue, engine, spool, history).run(ready)


def _spool_folder(settings: Settings, database: str) -> Path:
    """Where ticks wait for this database, and for no other."""
    if settings.spool_dir:
        return Path(settings.spool_dir, database)
    return Path(platformdirs.user_state_dir("tickwick", appauthor=False), "spool", database)


@contextlib.asynccontextmanager
async def _history(venue: Venue) -> AsyncIterator[HistoryClient | None]:
    if venue.history is None:
        yield None
    else:
        async with HistoryClient(venue.history) as client:
            yield client


class _Ingest:
    """What runs in the process, wired: the receiver pushes into the writer, which says what to follow."""

    def __init__(
        self, settings: Settings, venue: Venue, engine: Engine, spool: Spool, history: HistoryClient | None
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._came_late = asyncio.Event()
        self._writer = Writer(
            settings.dsn,
            venue.source.name,
            venue.source.feed,
            flush_ticks=settings.flush_ticks,
            flush_seconds=settings.flush_ms / 1000,
            buffer_ticks=settings.buffer_ticks,
            spool=spool,
            page=history.page if history else None,
            follow=lambda followed: self._tracking.follow(followed),
            gap_opened=lambda: self._repairer.wake() if self._repairer else None,
            came_late=self._came_late.set,
        )
        writer = self._writer
        self._receiver: Feed | Poller
        if isinstance(venue.source, PollSource):
            self._receiver = Poller(venue.source, {}, writer.push, writer.room)
        else:
            self._receiver = Feed(venue.source, {}, writer.push, writer.room, writer.bridges.expect)
        self._tracking = Tracking(settings.dsn, self._receiver, venue.listings)
        self._repairer = None
        if history:
            self._repairer = Repairer(settings.dsn, history, self._repairable, self._came_late.set)

    async def run(self, ready: Callable[[list[str]], None]) -> None:
        """Until cancelled, or until one of the tasks fails."""
        with serve_metrics(self._settings, self._receiver.counters, self._writer, self._repairer):
            writing = asyncio.create_task(self._writer.run(), name="writer")
            others = [
                asyncio.create_task(self._writer.keep_spilling(), name="spill"),
                asyncio.create_task(self._receiver.run(), name="receiver"),
                asyncio.create_task(self._tracking.run(), name="tracking"),
                asyncio.create_task(keep_settled(self._settings.dsn, self._engine, self._came_late), name="refresher"),
                asyncio.create_task(self._tell_ready(ready), name="readiness"),
            ]
            if self._repairer:
                others.append(asyncio.create_task(self._repairer.run(), name="repairer"))
            try:
                done, _ = await asyncio.wait({writing, *others}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancel(*others)
                await self._drain(writing)
        for task in done:
            await task  # a critical task that ended ends the process with its error

    async def _tell_ready(self, ready: Callable[[list[str]], None]) -> None:
        await self._writer.ready.wait()
        ready(sorted(instrument.symbol for instrument in self._writer.following.values()))
        await asyncio.get_running_loop().create_future()

    async def _drain(self, writing: asyncio.Task[None]) -> None:
        writer = self._writer
        writer.stop()
        done, _ = await asyncio.wait({writing}, timeout=DRAIN_SECONDS)
        if not done:
            await _cancel(writing)
        if writer.backlog.in_memory:
            _log.error("ticks lost at the end", count=writer.backlog.in_memory)
        _log.info(
            "ingest stopped",
            stored=writer.counters.stored,
            duplicate=writer.counters.duplicate,
            spooled=writer.backlog.on_disk,
        )

    def _repairable(self) -> dict[Any, Any]:
        """What is ours, but for what the writer is asking the venue for at this moment."""
        bridged = set(self._writer.bridges.instruments)
        return {each: found for each, found in self._writer.following.items() if each not in bridged}


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _prepare(settings: Settings, venue: Venue, tickers: Sequence[str]) -> tuple[Engine, str]:
    """The database's engine and identity, with these tickers tracked in it.

    Raises OperatorError where the database or a ticker is not to be had.
    """
    source = venue.source
    listed = await venue.listings(tickers) if tickers else {}
    try:
        async with await db.connect(settings.dsn, "tickwick ingest") as conn:
            with db.translated():
                cursor = await conn.execute(_QUERIES["engine"])
                row = await cursor.fetchone()
                if row is None:
                    raise OperatorError("the database has not been migrated: run `tickwick migrate`")
                contiguous = source.contiguous_ids
                await instruments.ensure(conn, source.name, listed, source.feed, contiguous_ids=contiguous)
                if source.name == "BINANCE" and source.feed == "trade":
                    known = {ticker: Listing() for ticker in KNOWN if ticker not in listed}
                    await instruments.ensure(conn, source.name, known, "trade", contiguous_ids=True, active=False)
    except OperatorError:
        raise
    except TickwickError as error:
        raise OperatorError(f"cannot use the database: {error}") from error
    return Engine(row[0]), row[1]


async def _check_spool(settings: Settings, spool: Spool) -> None:
    """Raises OperatorError where ticks were left in the spool that were meant for another database."""
    if not spool.symbols:
        return
    async with await db.connect(settings.dsn, "tickwick ingest") as conn:
        with db.translated():
            found = await instruments.by_symbol(conn, [*spool.symbols.values()])
    if {instrument.id: instrument.symbol for instrument in found} != dict(spool.symbols):
        raise OperatorError(
            f"the ticks that wait in {spool.folder} are of instruments that this database does not have: move it away"
        )
