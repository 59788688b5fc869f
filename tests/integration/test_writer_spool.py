"""The writer with a spool: what the database does not take goes to disk, and comes back in order, told once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded import Server
from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from app.settings import Settings
from ingest import service, writer
from ingest.simulator.exchange import Exchange
from ingest.spool import Spool
from tests.databases import Database
from tests.integration.test_writer import make, running, until
from tests.integration.ticks import add_instrument, decoded, heard, listening, series, store, stored

NO_GAPS = [(0,)]
GAPS = "SELECT count(*) FROM market.gaps"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool.open(tmp_path, 1 << 30, reserve_bytes=0)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SPILL_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(writer, "SPILL_SECONDS", 0.01)


async def test_ticks_spill_while_the_server_is_away_and_come_back_in_order(
    any_database: Database, any_server: Server, spool: Spool
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 3000)
    made = make(any_database, spool=spool, buffer_ticks=200)
    async with running(made):
        await made.ready.wait()
        made.push(ticks[:100])
        await until(lambda: made.counters.stored == 100)
        await asyncio.to_thread(any_server.stop)
        for begin in range(100, 2000, 100):
            made.push(ticks[begin : begin + 100])
            await until(lambda: made.backlog.in_memory == 0)
        assert spool.ticks == 1900
        await asyncio.to_thread(any_server.start)
        made.push(ticks[2000:])
        await until(lambda: made.depth == 0, 30)
    assert stored(any_database, instrument) == ticks
    assert any_database.execute(GAPS) == NO_GAPS
    assert made.backlog.refused == 0


async def test_writer_cancelled_while_the_server_is_away_leaves_all_in_the_spool(
    any_database: Database, any_server: Server, tmp_path: Path
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 500)
    left = Spool.open(tmp_path, 1 << 30, reserve_bytes=0)
    first = make(any_database, spool=left)
    async with running(first):
        await first.ready.wait()
        first.push(ticks[:100])
        await until(lambda: first.counters.stored == 100)
        await asyncio.to_thread(any_server.stop)
        first.push(ticks[100:])
        await until(lambda: not first.counters.connected)
    assert left.ticks == 400
    left.close()
    await asyncio.to_thread(any_server.start)
    found = Spool.open(tmp_path, 1 << 30, reserve_bytes=0)
    assert found.symbols == {instrument.id: instrument.symbol}
    second = make(any_database, spool=found)
    async with listening(any_database, "ticks") as listener, running(second):
        await until(lambda: second.depth == 0, 30)
        assert decoded(await heard(listener)) == ticks[100:]
    found.close()
    assert stored(any_database, instrument) == ticks


async def test_batch_that_hangs_in_the_database_goes_to_disk_and_is_stored_once(
    any_database: Database, spool: Spool
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 400)
    made = make(any_database, spool=spool)
    async with running(made):
        await made.ready.wait()
        with any_database.connect() as blocker, blocker.transaction():
            blocker.execute("LOCK market.ticks IN EXCLUSIVE MODE")
            made.push(ticks[:100])
            made.push(ticks[100:])
            await until(lambda: spool.ticks == 400)
        await until(lambda: made.depth == 0)
    assert stored(any_database, instrument) == ticks
    assert any_database.execute(GAPS) == NO_GAPS


async def test_ticks_from_disk_do_not_wait_in_memory_for_what_is_missing_before_them(
    any_database: Database, spool: Spool
) -> None:
    """Regression: what the spool had forgotten as done was lost by a kill while it was held."""
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 60)
    await store(any_database, ticks[:10])
    await spool.append(ticks[30:], {instrument.id: instrument.symbol})

    async def never(*_: object) -> list[Tick]:
        await asyncio.get_running_loop().create_future()
        return []

    made = make(any_database, spool=spool, page=never)
    async with running(made):
        await until(lambda: made.counters.stored == 30 and spool.ticks == 0)
    assert any_database.execute("SELECT from_id, to_id FROM market.gaps") == [(11, 30)]


def settings(database: Database, exchange: str, folder: Path) -> Settings:
    return Settings(dsn=database.writer, source="simulator", url=exchange, instruments="BTCUSDT", spool_dir=str(folder))


def identity(database: Database) -> str:
    query = (
        "SELECT (SELECT system_identifier FROM pg_control_system()) || '-' || oid FROM pg_database WHERE datname = %s"
    )
    return str(database.execute(query, (database.name,))[0][0])


async def test_ingest_stores_what_waits_in_the_spool_of_its_database(any_database: Database, tmp_path: Path) -> None:
    instrument = await add_instrument(any_database, "OLDUSDT")
    left = Spool.open(tmp_path / identity(any_database), 1 << 30, reserve_bytes=0)
    ticks = series(instrument, 50)
    await left.append(ticks, {instrument.id: instrument.symbol})
    left.close()
    async with Exchange(["BTCUSDT", "OLDUSDT"]).serve() as venue:
        task = asyncio.create_task(service.run(settings(any_database, venue.ws, tmp_path)))
        query = "SELECT count(*) FROM market.ticks WHERE instrument_id = %s AND trade_id <= 50"
        await until(lambda: any_database.execute(query, (instrument.id,)) == [(50,)])
        task.cancel()
        await asyncio.wait([task])


async def test_ingest_refuses_a_spool_whose_instruments_the_database_does_not_have(
    any_database: Database, tmp_path: Path
) -> None:
    instrument = await add_instrument(any_database)
    left = Spool.open(tmp_path / identity(any_database), 1 << 30, reserve_bytes=0)
    await left.append(series(instrument, 5), {InstrumentId(instrument.id): "SIM:GHOST"})
    left.close()
    async with Exchange(["BTCUSDT"]).serve() as venue:
        with pytest.raises(OperatorError, match="are of instruments that this database does not have"):
            await service.run(settings(any_database, venue.ws, tmp_path))
