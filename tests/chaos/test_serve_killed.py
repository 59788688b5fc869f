"""The server of the live feed dies: clients come back with their last id, and miss nothing."""

from pathlib import Path

from tests.chaos.system import Measured, running
from tests.databases import Database


async def test_server_killed_or_terminated_again_and_again_clients_resume_without_hole_or_repeat(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with running("kill -9 of serve", folder, best_database, measured, followers=3) as system:
        for times in range(1, 4):
            system.web.kill()
            await system.recovered()
            assert system.web.restarts == times
            await system.flowing()
        system.name = "SIGTERM of serve"
        for _ in range(3):
            assert await system.web.terminate() == 0
            system.web.start()
            await system.recovered()
            await system.flowing()
        assert [follower.connects for follower in system.followers] == [7] * 3
        await system.verdict()
