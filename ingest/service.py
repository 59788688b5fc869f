"""The ingest process: one source's feed, the writer behind it, and the refresher beside them."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import prometheus_client
import structlog

import sql as queries
from app import db, telemetry
from app.errors import OperatorError, TickwickError
from app.market.model import Instrument
from app.settings import Settings
from ingest import instruments
from ingest.feed import Feed
from ingest.instruments import Listing
from ingest.refresher import keep_settled
from ingest.sources import Source
from ingest.sources.binance import BASE_URL, binance
from ingest.sources.binance_rest import REST_URL, listings
from ingest.writer import Writer
from sql.engine import Engine

SIMULATOR_URL: Final = "ws://127.0.0.1:9443"
DRAIN_SECONDS: Final = 2.0
KNOWN: Final = ("SUIUSDC", "DOGEUSDC")
"""Instruments of Binance that are listed from the start, though not tracked."""

_QUERIES: Final = queries.load("ingest")
_log = structlog.get_logger()


async def run(settings: Settings, ready: Callable[[list[str]], None] = lambda _: None) -> None:
    """Ingest until cancelled, then store what was received.

    `ready` is told the symbols once they are ours to write. Raises OperatorError where it cannot start, or where the
    source turns us away for good.
    """
    source = source_of(settings)
    tickers = [ticker.strip().upper() for ticker in settings.instruments.split(",") if ticker.strip()]
    if not tickers:
        raise OperatorError("no instruments to track: name some with --instruments")
    engine, tracked = await _prepare(settings, source, tickers)
    came_late = asyncio.Event()
    writer = Writer(
        settings.dsn,
        {instrument.id: instrument for instrument in tracked},
        flush_ticks=settings.flush_ticks,
        flush_seconds=settings.flush_ms / 1000,
        buffer_ticks=settings.buffer_ticks,
        came_late=came_late.set,
    )
    feed = Feed(source, {i.ticker: i.id for i in tracked}, writer.push, writer.room)
    with _metrics(settings, feed, writer):
        await _run(settings, engine, feed, writer, came_late, lambda: ready([i.symbol for i in tracked]))


async def _run(
    settings: Settings,
    engine: Engine,
    feed: Feed,
    writer: Writer,
    came_late: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    async def read() -> None:
        await writer.ready.wait()
        ready()
        await feed.run()

    writing = asyncio.create_task(writer.run(), name="writer")
    reading = asyncio.create_task(read(), name="feed")
    settling = asyncio.create_task(keep_settled(settings.dsn, engine, came_late), name="refresher")
    try:
        done, _ = await asyncio.wait({writing, reading, settling}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(reading, settling)
        await _drain(writer, writing)
    for task in done:
        await task  # a critical task that ended ends the process with its error


async def _drain(writer: Writer, writing: asyncio.Task[None]) -> None:
    writer.stop()
    done, _ = await asyncio.wait({writing}, timeout=DRAIN_SECONDS)
    if not done:
        await _cancel(writing)
    if writer.depth:
        _log.error("ticks lost at the end", count=writer.depth)
    _log.info("ingest stopped", stored=writer.counters.stored, duplicate=writer.counters.duplicate)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def source_of(settings: Settings) -> Source:
    """The source that the settings name."""
    if settings.source == "simulator":
        return replace(binance(settings.feed, settings.url or SIMULATOR_URL), name="SIM")
    return binance(settings.feed, settings.url or BASE_URL)


def rest_url_of(settings: Settings) -> str:
    """Where the source's REST is: as set, else beside its websocket, else Binance's own."""
    if settings.rest_url:
        return settings.rest_url.rstrip("/")
    url = settings.url or (SIMULATOR_URL if settings.source == "simulator" else "")
    if not url:
        return REST_URL
    parts = urlsplit(url)
    return urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "", "", ""))


async def _prepare(settings: Settings, source: Source, tickers: list[str]) -> tuple[Engine, list[Instrument]]:
    listed = await listings(rest_url_of(settings), tickers)
    try:
        async with await db.connect(settings.dsn, "tickwick ingest") as conn:
            with db.translated():
                cursor = await conn.execute(_QUERIES["engine"])
                row = await cursor.fetchone()
                if row is None:
                    raise OperatorError("the database has not been migrated: run `tickwick migrate`")
                found = await instruments.ensure(
                    conn, source.name, listed, source.feed, contiguous_ids=source.contiguous_ids
                )
                if source.name == "BINANCE" and source.feed == "trade":
                    known = {ticker: Listing() for ticker in KNOWN if ticker not in listed}
                    await instruments.ensure(conn, source.name, known, "trade", contiguous_ids=True, active=False)
    except OperatorError:
        raise
    except TickwickError as error:
        raise OperatorError(f"cannot use the database: {error}") from error
    return Engine(row[0]), found


@contextlib.contextmanager
def _metrics(settings: Settings, feed: Feed, writer: Writer) -> Iterator[None]:
    if not settings.metrics_port:
        yield
        return
    received, written = feed.counters, writer.counters
    registry = telemetry.metrics(
        [
            ("ingest_frames_total", "Frames received from the source.", lambda: received.frames),
            ("ingest_garbage_frames_total", "Frames that were not understood.", lambda: received.garbage),
            ("ingest_reconnects_total", "Connections to the source that were made anew.", lambda: received.reconnects),
            ("ingest_connected", "1 while all connections to the source stand.", lambda: received.connected),
            ("ingest_ticks_total", "Ticks stored.", lambda: written.stored),
            ("ingest_duplicates_total", "Ticks that were stored already.", lambda: written.duplicate),
            ("ingest_refused_total", "Ticks beyond the table's limits.", lambda: written.refused),
            ("ingest_overflow_total", "Ticks dropped because the buffer was full.", lambda: written.overflowed),
            ("ingest_gaps_total", "Gaps opened.", lambda: written.gaps),
            ("ingest_flushes_total", "Transactions.", lambda: written.flushes),
            ("ingest_flush_seconds_total", "Time spent in them.", lambda: written.flush_seconds),
            ("ingest_buffer_ticks", "Ticks that wait for the database.", lambda: writer.depth),
            ("ingest_database_connected", "1 while the writer is connected.", lambda: written.connected),
        ]
    )
    try:
        server, _ = prometheus_client.start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as error:
        raise OperatorError(f"cannot serve metrics on port {settings.metrics_port}: {error.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()
