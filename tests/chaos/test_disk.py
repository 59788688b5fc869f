"""The disk under the spool: it fills up, and it is all that is left of what a killed ingester had received."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.embedded import Server
from ingest.spool import RESERVE_BYTES
from sql.engine import Engine
from tests.chaos.equipment import metrics, reaches
from tests.chaos.processes import until
from tests.chaos.system import Measured, System, own_server, running
from tests.chaos.truth import held
from tests.databases import Database, Databases

FULL = "spool takes no more ticks"
BEYOND = 600
"""Ticks more than counted on in the spool: symbols do not arrive in step."""


class Outage:
    """A system of which the database may be away, and where its only ingester tells how it is."""

    def __init__(self, system: System, server: Server) -> None:
        self.system = system
        self.server = server

    @property
    def database(self) -> Database:
        return self.system.database

    async def told(self, name: str) -> float:
        metrics_at = self.system.ingesters[0].metrics_at
        assert metrics_at
        return (await metrics(self.system.session, metrics_at)).get(name, 0.0)

    async def begins(self) -> dict[str, int]:
        """The database stops; answers the last id stored of each symbol."""
        stored: dict[str, int] = {}

        def note() -> None:
            stored.update({symbol: each.last_id for symbol, each in held(self.database).items()})

        note()
        self.server.stop()
        return stored

    async def reached_disk(self, stored: dict[str, int]) -> dict[str, int]:
        """Wait until all that was traded before this call is in the spool; answers its last ids."""
        wanted = self.system.truth.last_ids()
        ticks = sum(wanted[symbol] - last_id for symbol, last_id in stored.items()) + BEYOND
        await self.reaches("ingest_spool_ticks", ticks)
        return wanted

    async def reaches(self, name: str, value: float) -> None:
        await reaches(self.system.session, self.system.ingesters[0], name, value)


@asynccontextmanager
async def outage(
    databases: Databases, engine: Engine, measured: Measured, folder: Path, name: str, **environ: str
) -> AsyncIterator[Outage]:
    """A system whose ingester runs with these variables; it is not supervised."""
    async with (
        own_server(databases, engine) as (server, database),
        running(name, folder, database, measured, server=server, supervised=False) as system,
    ):
        ingester = system.ingesters[0]
        assert await ingester.terminate() == 0
        ingester.environ |= {"TICKWICK_SPOOL_DIR": str(folder / "spool"), **environ}
        ingester.start()
        await system.recovered()
        await system.flowing()
        yield Outage(system, server)


async def _kept_or_repaired(away: Outage) -> None:
    """After spool and memory were full: what fitted was kept, and no more than the rest was fetched anew."""
    refused = await away.told("ingest_overflow_total")
    assert refused > 0
    away.server.start()
    await away.system.recovered()
    assert 0 < await away.told("ingest_repaired_ticks_total") <= await away.told("ingest_overflow_total")
    assert away.database.execute("SELECT DISTINCT state FROM market.gaps") == [("filled",)]
    await away.system.flowing()
    await away.system.verdict()


async def test_spool_at_its_limit_keeps_what_fits_and_the_rest_is_repaired(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    limits = {"TICKWICK_SPOOL_BYTES": "65536", "TICKWICK_BUFFER_TICKS": "1000"}
    async with outage(databases, best_engine, measured, folder, "spool at its limit", **limits) as away:
        await away.begins()
        await away.reaches("ingest_overflow_total", 500)
        assert FULL in away.system.ingesters[0].output
        assert 0 < await away.told("ingest_spool_bytes") <= 65_536
        await _kept_or_repaired(away)


async def test_disk_full_under_the_spool_keeps_what_fits_and_the_rest_is_repaired(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    with _small_disk(folder / "spool", RESERVE_BYTES + (1 << 18)) as disk:
        name, limit = "disk full under the spool", {"TICKWICK_BUFFER_TICKS": "1000"}
        async with outage(databases, best_engine, measured, folder, name, **limit) as away:
            (disk / "others").write_bytes(bytes(1 << 18))
            await away.begins()
            await away.reaches("ingest_overflow_total", 500)
            assert FULL in away.system.ingesters[0].output
            assert await away.told("ingest_spool_ticks") == 0
            (disk / "others").unlink()
            await away.reaches("ingest_spool_ticks", 1_000)
            await _kept_or_repaired(away)


@contextmanager
def _small_disk(path: Path, size: int) -> Iterator[Path]:
    """A disk in memory of so many bytes."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tickwick-chaos", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk, and not everywhere")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_ingester_killed_with_ticks_in_the_spool_they_are_stored_though_the_exchange_has_forgotten_them(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    async with outage(databases, best_engine, measured, folder, "kill -9 with ticks in the spool") as away:
        system = away.system
        for _ in range(3):
            stored = await away.begins()
            spooled = await away.reached_disk(stored)
            system.ingesters[0].kill()
            forgotten = {symbol.partition(":")[2]: [(stored[symbol] + 1, last)] for symbol, last in spooled.items()}
            await system.order(void=forgotten)
            away.server.start()
            system.ingesters[0].start()
            await system.recovered()
            assert _told_missing(system, stored, spooled) == []
            await system.order(void={})
            await system.flowing()
        assert away.database.execute("SELECT count(*) FROM market.gaps WHERE state = 'unfillable'") == [(0,)]
        await system.verdict()


def _told_missing(system: System, after: dict[str, int], until_id: dict[str, int]) -> list[dict[str, Any]]:
    """What clients were told to be missing of the ids between."""
    gaps = [gap for follower in system.followers for gap in follower.gaps]
    return [gap for gap in gaps if gap["from_id"] <= until_id[gap["symbol"]] and gap["to_id"] > after[gap["symbol"]]]


async def test_ingester_terminated_while_the_database_is_away_loses_nothing(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    async with outage(databases, best_engine, measured, folder, "SIGTERM while the database is away") as away:
        system = away.system
        ingester = system.ingesters[0]
        stored = await away.begins()
        # The last ticks are in memory alone when it is asked to end.
        await system.traded(300)
        last = system.truth.last_ids()
        await until(lambda: all(i > last[s] + 50 for s, i in system.truth.last_ids().items()), "some more are received")
        assert await ingester.terminate(seconds=5) == 0
        assert "ticks lost" not in ingester.output
        forgotten = {symbol.partition(":")[2]: [(stored[symbol] + 1, last_id)] for symbol, last_id in last.items()}
        await system.order(void=forgotten)
        away.server.start()
        ingester.start()
        await system.recovered()
        await system.verdict()
