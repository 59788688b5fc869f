"""The writer against a real database: by size and age, across its loss, beside a standby, to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.embedded import Server
from app.errors import DatabaseRefused
from app.market.model import Feed, Tick
from ingest.refresher import Refresher
from ingest.writer import Writer
from tests.databases import Database
from tests.integration.ticks import add_instrument, connected, decoded, heard, listening, series, store, stored, tick

LONG = 60.0


def make(database: Database, feed: Feed = "trade", **options: Any) -> Writer:
    given: dict[str, Any] = {"flush_ticks": 100, "flush_seconds": 0.01, "buffer_ticks": 10_000, **options}
    return Writer(database.writer, "SIM", feed, **given)


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[asyncio.Task[None]]:
    task, spilling = asyncio.create_task(writer.run()), asyncio.create_task(writer.keep_spilling())
    try:
        yield task
    finally:
        for each in (task, spilling):
            each.cancel()
        await asyncio.wait([task, spilling])


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for what the writer's counters tell."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # counters have no event
            await asyncio.sleep(0.005)


async def test_writer_flushes_a_full_batch_without_waiting_for_its_age(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100)
    writer = make(database, flush_seconds=LONG)
    async with running(writer):
        assert writer.push(ticks)
        await until(lambda: writer.counters.stored == 100, 10)
    assert stored(database, instrument) == ticks
    assert writer.counters.newest_us == ticks[-1].time_us


async def test_writer_flushes_what_has_waited_long_enough(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    writer = make(any_database, flush_ticks=1_000_000)
    async with running(writer):
        for number in range(3):
            writer.push([tick(instrument, number)])
            await until(lambda number=number: writer.counters.stored == number + 1)  # type: ignore[misc]
    assert writer.counters.flushes == 3


async def test_writer_holds_a_small_batch_back_until_its_age(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    writer = make(any_database, flush_seconds=LONG)
    async with running(writer):
        await writer.ready.wait()
        writer.push(series(instrument, 99))
        writer.push(series(instrument, 1, first_id=100))
        await until(lambda: writer.counters.stored == 100)
    assert writer.counters.flushes == 1


async def test_writer_that_is_stopped_stores_all_that_was_pushed_and_returns(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 1050)
    writer = make(any_database, flush_seconds=LONG)
    async with running(writer) as task:
        writer.push(ticks)
        writer.stop()
        await asyncio.wait_for(task, 10)
    assert stored(any_database, instrument) == ticks
    assert writer.depth == 0


async def test_writer_that_is_stopped_idle_returns(any_database: Database) -> None:
    await add_instrument(any_database)
    writer = make(any_database)
    async with running(writer) as task:
        await writer.ready.wait()
        writer.stop()
        await asyncio.wait_for(task, 10)


async def test_writer_whose_connection_is_ended_loses_nothing_and_repeats_nothing(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 3000)
    writer = make(database, flush_ticks=50)
    async with listening(database, "ticks") as listener, running(writer):
        await writer.ready.wait()
        for begin in range(0, 3000, 300):
            writer.push(ticks[begin : begin + 300])
            await until(lambda begin=begin: writer.counters.stored > begin)  # type: ignore[misc]
            await asyncio.to_thread(database.terminate, "tickwick ingest")
        await until(lambda: writer.depth == 0)
        told = decoded(await heard(listener))
    assert stored(database, instrument) == ticks
    assert told == ticks
    assert database.execute("SELECT count(*) FROM market.gaps") == [(0,)]


async def test_writer_keeps_ticks_while_the_server_is_stopped_and_stores_them_on_its_return(
    any_database: Database, any_server: Server
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 600)
    writer = make(any_database)
    async with running(writer):
        writer.push(ticks[:200])
        await until(lambda: writer.counters.stored == 200)
        await asyncio.to_thread(any_server.stop)
        assert writer.push(ticks[200:400])
        await until(lambda: not writer.counters.connected)
        assert writer.push(ticks[400:])
        assert writer.depth == 400
        await asyncio.to_thread(any_server.start)
        await until(lambda: writer.depth == 0, 30)
    assert stored(any_database, instrument) == ticks
    assert any_database.execute("SELECT count(*) FROM market.gaps") == [(0,)]


async def test_writer_drops_the_newest_while_the_server_is_stopped_counts_them_and_opens_a_gap(
    any_database: Database, any_server: Server
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 500)
    writer = make(any_database, buffer_ticks=100)
    async with running(writer):
        writer.push(ticks[:50])
        await until(lambda: writer.depth == 0 and writer.counters.stored == 50)
        await asyncio.to_thread(any_server.stop)
        writer.push(ticks[50:60])
        await until(lambda: not writer.counters.connected)
        for begin in range(60, 400, 20):
            assert writer.push(ticks[begin : begin + 20])
        assert writer.backlog.refused == 400 - 160
        await asyncio.to_thread(any_server.start)
        await until(lambda: writer.depth == 0, 30)
        writer.push(ticks[400:])
        await until(lambda: writer.counters.gaps == 1)
        await until(lambda: writer.depth == 0)
    assert stored(any_database, instrument) == ticks[:160] + ticks[400:]
    assert any_database.execute("SELECT from_id, to_id, state FROM market.gaps") == [(161, 400, "open")]


async def test_push_onto_a_full_buffer_asks_to_wait_for_room(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 500)
    writer = make(any_database, buffer_ticks=200, flush_seconds=LONG)
    async with running(writer):
        await writer.ready.wait()
        assert writer.push(ticks[:99])
        assert not writer.push(ticks[99:400])
        await asyncio.wait_for(writer.room(), 10)
        assert writer.depth <= 300, "the first batch is stored, and the next on its way"
        writer.push(ticks[400:])
        writer.stop()
        await until(lambda: writer.depth == 0)
    assert stored(any_database, instrument) == ticks
    assert writer.backlog.refused == 0


async def test_room_is_given_when_the_database_is_lost(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    writer = make(any_database, buffer_ticks=200)
    async with running(writer):
        await writer.ready.wait()
        # Whatever the writer does, the lock on the table keeps it from having room.
        with any_database.connect() as blocker, blocker.transaction():
            blocker.execute("LOCK market.ticks IN EXCLUSIVE MODE")
            assert not writer.push(series(instrument, 300))
            waiting = asyncio.create_task(writer.room())
            await asyncio.to_thread(any_database.terminate, "tickwick ingest")
            await asyncio.wait_for(waiting, 10)
        await until(lambda: writer.depth == 0)
    assert writer.counters.stored == 300


async def test_standby_takes_over_when_the_owner_dies(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 400)
    first, standby = make(database), make(database)
    async with running(first) as writing:
        await first.ready.wait()
        async with running(standby):
            first.push(ticks[:200])
            await until(lambda: first.counters.stored == 200)
            await until(lambda: standby.counters.connected)
            assert not standby.ready.is_set()
            assert not standby.following
            writing.cancel()
            await asyncio.wait([writing])
            await asyncio.wait_for(standby.ready.wait(), 10)
            standby.push(ticks[150:])
            await until(lambda: standby.depth == 0)
    assert stored(database, instrument) == ticks
    assert standby.counters.duplicate == 50
    assert database.execute("SELECT count(*) FROM market.gaps") == [(0,)]


async def test_ticks_of_an_instrument_that_another_owns_are_stored_unannounced(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 20)
    owner, other = make(database), make(database)
    async with running(owner), running(other), listening(database, "ticks") as listener:
        await owner.ready.wait()
        await until(lambda: other.counters.connected)
        owner.push(ticks[:10])
        await until(lambda: owner.counters.stored == 10)
        other.push(ticks[5:])
        await until(lambda: other.counters.stored == 10)
        assert decoded(await heard(listener)) == ticks[:10]
    assert stored(database, instrument) == ticks
    assert other.counters.duplicate == 5
    assert database.execute("SELECT count(*) > 0 FROM market.stale_ranges") == [(True,)]


async def test_writer_goes_on_from_the_last_id_of_each_instrument(database: Database) -> None:
    """Regression: the query answered every instrument with the highest id of all."""
    one, two = await add_instrument(database, "ONE"), await add_instrument(database, "TWO")
    await store(database, series(one, 10, datetime(2024, 5, 1, tzinfo=UTC), first_id=1))
    await store(database, series(two, 10, first_id=5001))
    writer = make(database)
    async with running(writer):
        writer.push([*series(one, 5, datetime(2024, 6, 1, tzinfo=UTC), first_id=11), tick(two, 5013)])
        await until(lambda: writer.counters.stored == 6)
    assert database.execute("SELECT instrument_id, from_id, to_id FROM market.gaps") == [(two.id, 5011, 5012)]


async def test_writer_takes_the_highest_id_though_its_minute_is_not_the_newest(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    await store(any_database, [tick(instrument, 8, noon - timedelta(milliseconds=1)), tick(instrument, 7, noon)])
    writer = make(any_database)
    async with running(writer):
        writer.push([tick(instrument, 9, noon + timedelta(seconds=1))])
        await until(lambda: writer.counters.stored == 1)
    assert any_database.execute("SELECT count(*) FROM market.gaps") == [(0,)]


async def test_gap_is_filled_once_all_its_ticks_have_come(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 30)
    late = asyncio.Event()
    writer = make(database, came_late=late.set)
    async with running(writer), connected(database) as conn:
        refresher = Refresher(conn, database.engine)
        writer.push(ticks[:10] + ticks[20:])
        await until(lambda: writer.counters.gaps == 1)
        assert not late.is_set()
        writer.push(ticks[10:15])
        await asyncio.wait_for(late.wait(), 10)
        await refresher.fill_gaps()
        states = "SELECT from_id, to_id, state, closed_at IS NULL FROM market.gaps"
        assert database.execute(states) == [(11, 20, "open", True)]
        writer.push(ticks[15:20])
        await until(lambda: writer.counters.stored == 30)
        await refresher.fill_gaps()
        assert database.execute(states) == [(11, 20, "filled", False)]


async def test_writer_opens_no_gap_where_ids_are_not_contiguous(any_database: Database) -> None:
    instrument = await add_instrument(any_database, feed="quote", contiguous_ids=False)
    writer = make(any_database)
    async with running(writer):
        writer.push([tick(instrument, 1), tick(instrument, 100), tick(instrument, 50)])
        await until(lambda: writer.counters.stored == 3)
    assert writer.counters.gaps == 0


async def test_writer_counts_refused_and_repeated_ticks(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks: list[Tick] = [*series(instrument, 5), *series(instrument, 5), tick(instrument, 6, price="0")]
    writer = make(database, flush_seconds=LONG)
    async with running(writer):
        writer.push(ticks)
        writer.stop()
        await until(lambda: writer.depth == 0)
    counters = writer.counters
    assert (counters.stored, counters.duplicate, counters.refused) == (5, 5, 1)


async def test_writer_without_rights_ends_with_a_sentence(any_database: Database) -> None:
    instrument = await add_instrument(any_database)
    writer = Writer(any_database.reader, "SIM", "trade", flush_ticks=1, flush_seconds=0.01, buffer_ticks=1000)
    writer.push([tick(instrument, 1)])
    with pytest.raises(DatabaseRefused, match="permission denied"):
        await asyncio.wait_for(writer.run(), 10)


class Past:
    """A venue's past that answers when it is told to."""

    def __init__(self, ticks: list[Tick]) -> None:
        self.answers = asyncio.Event()
        self._ticks = ticks

    async def page(self, ticker: str, instrument_id: int, from_id: int, from_time_us: int) -> list[Tick]:
        await self.answers.wait()
        return [tick for tick in self._ticks if tick.trade_id >= from_id]


async def test_hole_after_a_reconnect_is_filled_before_the_live_ticks_go_on(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store(database, ticks[:10])
    past, late = Past(ticks), asyncio.Event()
    writer = make(database, page=past.page, came_late=late.set)
    async with listening(database, "ticks") as listener, running(writer), connected(database) as conn:
        await writer.ready.wait()
        writer.push(ticks[30:40])
        await until(lambda: writer.counters.gaps == 1)
        assert stored(database, instrument) == ticks[:10]
        past.answers.set()
        writer.push(ticks[40:])
        await until(lambda: writer.counters.stored == 50)
        assert decoded(await heard(listener)) == ticks[10:], "in order, without a hole"
        await asyncio.wait_for(late.wait(), 10)
        await Refresher(conn, database.engine).fill_gaps()
    assert database.execute("SELECT from_id, to_id, state FROM market.gaps") == [(11, 30, "filled")]


async def test_ticks_that_a_bridge_has_released_are_not_lost_with_the_connection(database: Database) -> None:
    """Regression: they were in nobody's hands while their transaction was under way."""
    instrument = await add_instrument(database)
    ticks = series(instrument, 60)
    await store(database, ticks[:10])
    past = Past(ticks[:30])
    writer = make(database, page=past.page)
    async with running(writer):
        await writer.ready.wait()
        writer.push(ticks[30:])
        await until(lambda: writer.counters.gaps == 1)
        with database.connect() as blocker, blocker.transaction():
            blocker.execute("LOCK market.ticks IN EXCLUSIVE MODE")
            past.answers.set()
            waiting = "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await until(lambda: database.execute(waiting) == [("tickwick ingest",)])
            await asyncio.to_thread(database.terminate, "tickwick ingest")
        await until(lambda: writer.depth == 0 and writer.counters.connected)
    assert set(stored(database, instrument)) >= {*ticks[:10], *ticks[30:]}


async def test_hole_before_ticks_that_another_owns_is_on_record(database: Database) -> None:
    """Regression: the owner, who begins behind the highest id stored, never saw it."""
    instrument = await add_instrument(database)
    ticks = series(instrument, 40)
    owner, other = make(database), make(database)
    async with running(owner), running(other):
        await owner.ready.wait()
        await until(lambda: other.counters.connected)
        owner.push(ticks[:10])
        await until(lambda: owner.counters.stored == 10)
        other.push(ticks[15:20])
        await until(lambda: other.counters.stored == 5)
    assert database.execute("SELECT from_id, to_id, state FROM market.gaps") == [(11, 15, "open")]
