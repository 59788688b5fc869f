"""The metrics of an ingest process, for Prometheus."""

import asyncio
import contextlib
from collections.abc import Iterator

import prometheus_client

from app import telemetry
from app.errors import OperatorError
from app.settings import Settings
from ingest.connection import FeedCounters
from ingest.repair import RepairCounters, Repairer
from ingest.writer import Writer


@contextlib.contextmanager
def serve_metrics(settings: Settings, feed: FeedCounters, writer: Writer, repairer: Repairer | None) -> Iterator[None]:
    """Serve `/metrics` within the block, where the settings name a port. OperatorError where it cannot be had."""
    if not settings.metrics_port:
        yield
        return
    repair = repairer.counters if repairer else RepairCounters()
    registry = telemetry.metrics(values(feed, writer, repair, asyncio.get_running_loop()))
    try:
        server, _ = prometheus_client.start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as error:
        raise OperatorError(f"cannot serve metrics on port {settings.metrics_port}: {error.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()


def values(
    feed: FeedCounters, writer: Writer, repair: RepairCounters, loop: asyncio.AbstractEventLoop
) -> list[telemetry.Value]:
    """All metrics, and where each is read when it is asked for."""
    written, backlog = writer.counters, writer.backlog
    return [
        ("ingest_frames_total", "Frames received from the source.", lambda: feed.frames),
        ("ingest_garbage_frames_total", "Frames that were not understood.", lambda: feed.garbage),
        ("ingest_reconnects_total", "Connections to the source that were made anew.", lambda: feed.reconnects),
        ("ingest_rollovers_total", "Connections replaced before the source cut them.", lambda: feed.rollovers),
        ("ingest_connected", "1 while all connections to the source stand.", lambda: feed.connected),
        ("ingest_instruments", "Instruments that this process owns.", lambda: len(writer.following)),
        ("ingest_ticks_total", "Ticks stored.", lambda: written.stored),
        ("ingest_duplicates_total", "Ticks that were stored already.", lambda: written.duplicate),
        ("ingest_refused_total", "Ticks beyond the table's limits.", lambda: written.refused),
        ("ingest_overflow_total", "Ticks refused because memory and spool were full.", lambda: backlog.refused),
        ("ingest_gaps_total", "Gaps opened.", lambda: written.gaps),
        ("ingest_repaired_ticks_total", "Ticks fetched from the source's past and stored.", lambda: repair.ticks),
        ("ingest_gaps_filled_total", "Gaps closed by what was fetched.", lambda: repair.filled),
        ("ingest_gaps_unfillable_total", "Gaps that the source has nothing for.", lambda: repair.unfillable),
        ("ingest_repair_failures_total", "Questions about the past that got no answer.", lambda: repair.failed),
        ("ingest_flushes_total", "Transactions.", lambda: written.flushes),
        ("ingest_flush_seconds", "Seconds that a transaction took.", lambda: written.flush),
        ("ingest_lag_seconds", "From the exchange's time of a batch's last tick to its commit.", lambda: written.lag),
        ("ingest_buffer_ticks", "Ticks that wait for the database, in memory.", lambda: writer.depth - backlog.on_disk),
        ("ingest_spool_ticks", "Ticks that wait for the database, on disk.", lambda: backlog.on_disk),
        ("ingest_spool_bytes", "What they take there.", lambda: backlog.bytes_on_disk),
        ("ingest_database_connected", "1 while the writer is connected.", lambda: written.connected),
        ("ingest_tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks(loop))),
    ]
