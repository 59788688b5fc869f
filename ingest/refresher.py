"""Keeps past candles true: refreshes what late ticks touched, closes gaps that filled, tells the listeners.

On rollup engines the candles are right already, by trigger; there it only tells. `ops.storage` says what counts as
late.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
import structlog
from psycopg import sql

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market.intervals import STORED, Interval, bucket_of, next_bucket
from app.market.model import MICROSECOND, to_micros
from ingest.backoff import Backoff
from ingest.ownership import guard
from sql.engine import Engine

Connection = psycopg.AsyncConnection[Any]

_QUERIES: Final = queries.load("ingest")
_GAP_QUERIES: Final = queries.load("gaps")
_PAYLOAD_ITEMS: Final = 100
_TURNS: Final = 100
_TURN_SECONDS: Final = 0.2
# A refresh takes some 20 ms, however little it finds; beyond this many, it is better to refresh what lies between too.
_MOST_WINDOWS: Final = 100
# Batches take seven times as long, and before 2.29.0 they leave out buckets that they should not.
_AT_ONCE: Final = sql.SQL(""", options => '{"buckets_per_batch": 0}'""")
_log = structlog.get_logger()


class StaleRange(NamedTuple):
    """Late ticks of an instrument lie between these times, both inclusive."""

    id: int
    instrument_id: int
    start: datetime
    end: datetime


class Window(NamedTuple):
    start: datetime
    end: datetime


def windows(
    ranges: Iterable[StaleRange], level: Interval, *, oldest: datetime, newest: datetime, watermark: datetime
) -> Iterator[Window]:
    """The whole buckets of a level that the ranges touch, merged where they overlap or meet, ascending.

    Nothing before `oldest`, whose ticks may be gone. Below the `watermark` a level answers with what it has
    materialised alone, so what goes beyond it begins at it: a refresh moves it up, and must leave nothing behind that
    is not materialised. Beyond it, no bucket that ends after `newest`: the level computes those anew for each reader.
    """
    oldest = next_bucket(bucket_of(oldest - MICROSECOND, level), level)
    newest = max(bucket_of(newest, level), watermark)
    merged: Window | None = None
    for stale in sorted(ranges, key=lambda stale: stale.start):
        start = max(bucket_of(stale.start, level), oldest)
        end = min(next_bucket(bucket_of(stale.end, level), level), newest)
        if start >= end:
            continue
        if end > watermark:
            start = min(start, watermark)
        if merged is None:
            merged = Window(start, end)
        elif start <= merged.end:
            merged = Window(min(start, merged.start), max(end, merged.end))
        else:
            yield merged
            merged = Window(start, end)
    if merged is not None:
        yield merged


def joined(found: Sequence[Window], most: int) -> list[Window]:
    """The same windows, ascending and apart, but at most that many: those with the least between them become one."""
    widest = sorted(range(1, len(found)), key=lambda i: found[i].start - found[i - 1].end)[-(most - 1) :]
    cuts = [0, *sorted(widest if most > 1 else []), len(found)]
    return [Window(found[a].start, found[b - 1].end) for a, b in pairwise(cuts) if a < b]


class Refresher:
    """One pass settles everything that was marked before it began; a pass that fails leaves its marks for the next."""

    def __init__(self, conn: Connection, engine: Engine) -> None:
        self._conn = conn
        self._engine = engine

    async def settle(self, progress: Callable[[int], None] = lambda _: None) -> int:
        """Refresh, tell, forget. Answers how many marks were settled; `progress` hears it after each batch of them."""
        settled = 0
        while ranges := await self._marked():
            if self._engine is Engine.TIMESCALEDB:
                await self._refresh(ranges)
            await self._tell(ranges)
            settled += len(ranges)
            progress(settled)
        return settled

    async def fill_gaps(self) -> None:
        """Close the open gaps whose ids have all arrived."""
        await self._conn.execute(_GAP_QUERIES["fill_gaps"])

    async def drop_old_ticks(self) -> None:
        """Apply the retention of ticks on engines that have no policy for it."""
        if self._engine is not Engine.TIMESCALEDB:
            await self._conn.execute(_QUERIES["drop_old_ticks"])

    async def _marked(self) -> list[StaleRange]:
        cursor = await self._conn.execute(_QUERIES["stale_ranges"])
        return [StaleRange(*row) for row in await cursor.fetchall()]

    async def _refresh(self, ranges: list[StaleRange]) -> None:
        cursor = await self._conn.execute(_QUERIES["refresh_bounds"])
        bounds = await cursor.fetchall()
        for level, (newest, oldest, watermark, batches) in zip(STORED, bounds, strict=True):
            options = _AT_ONCE if batches else sql.SQL("")
            query = sql.SQL(_QUERIES["refresh"]).format(level=sql.Literal(f"market.candles_{level}"), options=options)
            touched = [*windows(ranges, level, oldest=oldest, newest=newest, watermark=watermark)]
            for window in joined(touched, _MOST_WINDOWS):
                await self._once_free(query, window)

    async def _once_free(self, query: sql.Composed, window: Window) -> None:
        """Refresh a window; a policy's own refresh of the same one is over in a moment, and then it is our turn."""
        for _ in range(_TURNS):
            try:
                await self._conn.execute(query, window._asdict())
            except psycopg.errors.LockNotAvailable:
                await asyncio.sleep(_TURN_SECONDS)
            else:
                return
        await self._conn.execute(query, window._asdict())

    async def _tell(self, ranges: list[StaleRange]) -> None:
        items = [(r.instrument_id, to_micros(r.start), to_micros(r.end)) for r in ranges]
        payloads = [
            msgspec.json.encode(items[i : i + _PAYLOAD_ITEMS]).decode() for i in range(0, len(items), _PAYLOAD_ITEMS)
        ]
        await self._conn.execute(_QUERIES["settle_ranges"], {"ids": [r.id for r in ranges], "payloads": payloads})


async def keep_settled(
    dsn: str, engine: Engine, came_late: asyncio.Event, every: timedelta = timedelta(seconds=1)
) -> None:
    """Settle for ever, as long as nobody else does; reconnects. `came_late` asks for a look at the open gaps."""
    backoff = Backoff(first=0.2, ceiling=2.0)
    while True:
        try:
            async with await db.connect(dsn, "tickwick refresher") as conn:
                with db.translated():
                    await _settle_over(Refresher(conn, engine), conn, came_late, every)
        except DatabaseUnavailable as error:
            _log.warning("refresher lost the database", reason=str(error))
            await asyncio.sleep(backoff.next())


async def _settle_over(refresher: Refresher, conn: Connection, came_late: asyncio.Event, every: timedelta) -> None:
    await guard(conn)
    # Not by waiting for the lock: a session that waits holds back vacuum.
    while not await _has_lock(conn):  # noqa: ASYNC110  # the server has no event
        await asyncio.sleep(every.total_seconds())
    hour = asyncio.get_running_loop().time()
    while True:
        # A policy's own refresh of the same range, or a chunk just being compressed, can make ours fail: the next pass
        # does it.
        with contextlib.suppress(
            psycopg.errors.TransactionRollback, psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable
        ):
            settled = await refresher.settle()
            if settled or came_late.is_set():
                came_late.clear()
                await refresher.fill_gaps()
        if asyncio.get_running_loop().time() >= hour:
            await refresher.drop_old_ticks()
            hour += 3600
        await asyncio.sleep(every.total_seconds())


async def _has_lock(conn: Connection) -> bool:
    """Take the right to settle, which one process at a time has, if it is free."""
    cursor = await conn.execute(_QUERIES["lock_refresher"])
    row = await cursor.fetchone()
    return bool(row and row[0])
