"""The refresher as it runs beside ingest: until cancelled, one at a time, across lost connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from app import db
from app.market.intervals import Interval, bucket_of
from ingest.refresher import Refresher, keep_settled
from sql.engine import Engine
from tests.databases import Database
from tests.integration.ticks import add_instrument, listening, series, store

QUICK = timedelta(milliseconds=20)
AGO = timedelta(hours=5)


@asynccontextmanager
async def keeping(database: Database) -> AsyncIterator[asyncio.Event]:
    came_late = asyncio.Event()
    task = asyncio.create_task(keep_settled(database.writer, database.engine, came_late, QUICK))
    try:
        yield came_late
    finally:
        task.cancel()
        await asyncio.wait([task])


async def next_correction(conn: psycopg.AsyncConnection[object]) -> list[list[int]]:
    async for notification in conn.notifies(timeout=15):
        return msgspec.json.decode(notification.payload, type=list[list[int]])
    pytest.fail("no correction was told")


async def test_keep_settled_tells_of_late_ticks_also_after_its_connection_was_ended(database: Database) -> None:
    instrument = await add_instrument(database)
    hour = bucket_of(datetime.now(UTC) - AGO, Interval.H1)  # marks are made by the hour
    ticks = series(instrument, 4, hour, step=60)
    async with listening(database, "corrections") as conn, keeping(database):
        await store(database, ticks[:2])
        assert await next_correction(conn) == [[instrument.id, ticks[0].time_us, ticks[1].time_us]]
        assert await asyncio.to_thread(database.terminate, "tickwick refresher") == 1
        await store(database, ticks[2:])
        assert await next_correction(conn) == [[instrument.id, ticks[2].time_us, ticks[3].time_us]]
    assert database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)]


async def test_keep_settled_waits_while_another_does_and_takes_over(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 1, datetime.now(UTC) - AGO)
    async with listening(any_database, "corrections") as conn, keeping(any_database):
        async with keeping(any_database):
            await store(any_database, ticks)
            assert len(await next_correction(conn)) == 1
        await store(any_database, series(instrument, 1, datetime.now(UTC) - AGO, first_id=2))
        assert len(await next_correction(conn)) == 1


async def test_keep_settled_closes_gaps_when_ticks_came_late(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    now = datetime.now(UTC)
    any_database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time) VALUES (%s, 1, 3, %s, %s)",
        (instrument.id, now, now),
    )
    async with keeping(any_database) as came_late:
        await store(any_database, series(instrument, 3, now, step=0.001))
        came_late.set()
        async with asyncio.timeout(15):
            while any_database.execute("SELECT state FROM market.gaps") != [("filled",)]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.mark.engines("timescaledb")
async def test_refreshes_of_the_same_range_at_once_wait_for_each_other(database: Database) -> None:
    instrument = await add_instrument(database)
    async with (
        await db.connect(database.writer, "one") as one,
        await db.connect(database.writer, "two") as two,
        await db.connect(database.writer, "three") as three,
    ):
        refreshers = [Refresher(conn, Engine.TIMESCALEDB) for conn in (one, two, three)]
        for turn in range(5):
            await store(database, series(instrument, 200, datetime.now(UTC) - AGO, step=1, first_id=1 + 200 * turn))
            await asyncio.gather(*(refresher.settle() for refresher in refreshers))
    assert database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)]
    assert database.execute("SELECT sum(trades) FROM market.candles_1d") == [(1000,)]


async def test_one_of_two_settles_the_other_waits_without_a_transaction_and_takes_over(database: Database) -> None:
    """Regression: whoever waited for the lock held back vacuum, and a stalled holder was waited for for ever."""
    instrument = await add_instrument(database)
    sessions = (
        "SELECT pid, state, backend_xmin, current_setting('idle_session_timeout') FROM pg_stat_activity"
        " WHERE application_name = 'tickwick refresher' ORDER BY backend_start"
    )
    holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = hashtext('tickwick.refresher')::oid"
    tasks = [
        asyncio.create_task(keep_settled(database.writer, database.engine, asyncio.Event(), timedelta(milliseconds=50)))
        for _ in range(2)
    ]
    try:
        async with asyncio.timeout(10):
            while len(database.execute(sessions)) < 2 or not database.execute(holder):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            ((first,),) = database.execute(holder)
            await asyncio.sleep(0.2)
            assert [row[2] for row in database.execute(sessions) if row[1] == "idle"] != []
            assert all(row[2] is None for row in database.execute(sessions) if row[0] != first)
            database.execute("SELECT pg_terminate_backend(%s)", (first,))
            while database.execute(holder) in ([], [(first,)]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await store(database, series(instrument, 10))
            while database.execute("SELECT count(*) FROM market.stale_ranges") != [(0,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
