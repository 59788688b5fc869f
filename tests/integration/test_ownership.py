"""Who owns what among several ingesters: evenly, one owner each, followed at run time, handed over at a death."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

import sql
from app.market.model import Instrument, InstrumentId
from ingest.ownership import Ownership, guard, share_of
from ingest.writer import Writer
from tests.databases import Database
from tests.integration.test_writer import make, running, until
from tests.integration.ticks import add_instrument, connected, series, stored


@asynccontextmanager
async def peers(database: Database, count: int) -> AsyncIterator[list[Ownership]]:
    """Members of the ingesters of SIM's trades, each over its own connection."""
    async with connected(database) as one, connected(database) as two, connected(database) as three:
        members = [Ownership(conn, "SIM", "trade") for conn in (one, two, three)[:count]]
        for member in members:
            await member.join()
        yield members


async def settled(members: Sequence[Ownership]) -> list[set[InstrumentId]]:
    """What each keeps after a few rounds of looks, in which surplus is released at once."""
    kept: list[set[InstrumentId]] = []
    for _ in range(4):
        kept = []
        for member in members:
            look = await member.look()
            await member.release(look.surplus)
            kept.append(set(look.keep))
    return kept


@pytest.mark.parametrize(("instruments", "members"), [(7, 3), (2, 5), (0, 2), (6, 3), (1, 1)])
def test_shares_add_up_and_differ_by_one_at_most(instruments: int, members: int) -> None:
    pids = [1000 + 7 * number for number in range(members)]
    shares = [share_of(instruments, pids, pid) for pid in pids]
    assert sum(shares) == instruments
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_each_instrument_has_one_owner_and_all_have_as_many(database: Database, count: int) -> None:
    instruments = [await add_instrument(database, f"COIN{number}") for number in range(7)]
    async with peers(database, count) as members:
        kept = await settled(members)
    assert Counter(each for keep in kept for each in keep) == dict.fromkeys((i.id for i in instruments), 1)
    assert max(map(len, kept)) - min(map(len, kept)) <= 1


async def test_what_is_owned_is_not_kept_before_its_owner_released_it(any_database: Database) -> None:
    for number in range(4):
        await add_instrument(any_database, f"COIN{number}")
    async with connected(any_database) as one, connected(any_database) as two:
        first, second = Ownership(one, "SIM", "trade"), Ownership(two, "SIM", "trade")
        await first.join()
        assert len((await first.look()).keep) == 4
        await second.join()
        assert (await second.look()).keep == {}
        look = await first.look()
        assert (len(look.keep), len(look.surplus)) == (2, 2)
        assert (await second.look()).keep == {}
        await first.release(look.surplus)
        assert (await second.look()).keep.keys() == look.surplus


async def test_another_source_and_another_feed_are_no_peers(any_database: Database) -> None:
    mine = await add_instrument(any_database, "COIN")
    await add_instrument(any_database, "COIN", source="OTHER")
    await add_instrument(any_database, "AGG", feed="aggTrade")
    async with connected(any_database) as one, connected(any_database) as two:
        stranger = Ownership(two, "OTHER", "trade")
        await stranger.join()
        await stranger.look()
        member = Ownership(one, "SIM", "trade")
        await member.join()
        assert (await member.look()).keep.keys() == {mine.id}


async def test_preferred_ones_are_taken_first_and_alone(any_database: Database) -> None:
    instruments = [await add_instrument(any_database, f"COIN{number}") for number in range(3)]
    async with connected(any_database) as conn:
        member = Ownership(conn, "SIM", "trade", preferred=[instruments[2].id])
        await member.join()
        assert (await member.look()).keep.keys() == {instruments[2].id}
        assert len((await member.look()).keep) == 3


async def test_session_that_falls_silent_is_ended_by_the_server_and_its_locks_with_it(database: Database) -> None:
    await add_instrument(database)
    async with connected(database) as silent, connected(database) as conn:
        owner = Ownership(silent, "SIM", "trade")
        await owner.join()
        assert (await owner.look()).keep
        await guard(silent, 0.2)
        other = Ownership(conn, "SIM", "trade")
        await other.join()
        async with asyncio.timeout(10):
            while not (await other.look()).keep:  # noqa: ASYNC110  # a look asks the server
                await asyncio.sleep(0.05)
        with pytest.raises(psycopg.OperationalError):
            await owner.look()


def followed(*writers: Writer) -> list[set[str]]:
    return [{instrument.ticker for instrument in writer.following.values()} for writer in writers]


async def test_tracking_is_switched_on_and_off_while_the_writer_runs(database: Database) -> None:
    one, two = await add_instrument(database, "ONE"), await add_instrument(database, "TWO")
    told: list[list[str]] = []

    def follow(instruments: object) -> None:
        assert isinstance(instruments, type({}.values()))
        told.append(sorted(instrument.ticker for instrument in instruments))

    writer = make(database, follow=follow)
    async with running(writer):
        await until(lambda: told == [["ONE", "TWO"]])
        database.execute("SELECT market.untrack('SIM:ONE')")
        await until(lambda: told[-1] == ["TWO"])
        database.execute("UPDATE market.instruments SET active = true WHERE id = %s", (one.id,))
        await until(lambda: told[-1] == ["ONE", "TWO"])
        database.execute("SELECT market.track('SIM:NEW')")
        await until(lambda: told[-1] == ["NEW", "ONE", "TWO"])
        writer.push(series(two, 5))
        await until(lambda: writer.counters.stored == 5)


async def test_three_writers_share_and_the_death_of_one_hands_its_instruments_over(database: Database) -> None:
    instruments: list[Instrument] = [await add_instrument(database, f"COIN{number}") for number in range(6)]
    writers = [make(database) for _ in range(3)]
    async with running(writers[0]) as dying, running(writers[1]), running(writers[2]):
        await until(lambda: sorted(map(len, followed(*writers))) == [2, 2, 2])
        assert set().union(*followed(*writers)) == {instrument.ticker for instrument in instruments}
        dying.cancel()
        await asyncio.wait([dying])
        await until(lambda: sorted(map(len, followed(*writers[1:]))) == [3, 3])
        for instrument in instruments:
            owner = next(writer for writer in writers[1:] if instrument.id in writer.following)
            owner.push(series(instrument, 10))
        await until(lambda: sum(writer.counters.stored for writer in writers) == 60)
    for instrument in instruments:
        assert stored(database, instrument) == series(instrument, 10)


async def test_peer_that_stopped_in_the_middle_of_a_copy_loses_what_it_owned(database: Database) -> None:
    """Regression: no timeout of the server's own ends such a session."""
    instrument = await add_instrument(database)
    async with peers(database, 2) as (stalled, other):
        assert (await stalled.look()).keep
        conn = stalled._conn
        with contextlib.suppress(psycopg.OperationalError):
            async with conn.cursor() as cursor, cursor.copy(sql.load("ingest")["copy_ticks"]) as copy:
                await copy.write(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8)
                async with asyncio.timeout(15):
                    while not (await other.look()).keep:  # noqa: ASYNC110  # a look asks the server
                        await asyncio.sleep(0.2)
        assert (await other.look()).keep.keys() == {instrument.id}
        assert conn.broken
