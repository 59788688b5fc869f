"""PostgreSQL dies with all its processes, under load, and recovers from its log."""

from pathlib import Path

from sql.engine import Engine
from tests.chaos.processes import crash, revive
from tests.chaos.system import Measured, own_server, running
from tests.databases import Databases


async def test_database_killed_again_and_again_under_load_loses_nothing(
    databases: Databases, engine: Engine, measured: Measured, folder: Path
) -> None:
    async with (
        own_server(databases, engine) as (server, database),
        running(f"kill -9 of PostgreSQL ({engine})", folder, database, measured) as system,
    ):
        for _ in range(3):
            crash(server)
            await system.traded(300)
            await revive(server)
            await system.recovered()
            await system.flowing()
        assert system.ingesters[0].restarts == system.web.restarts == 0
        assert [follower.connects for follower in system.followers] == [1]
        await system.verdict()
