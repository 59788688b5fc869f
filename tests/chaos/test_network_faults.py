"""The network between us and the database fails, in every way that a proxy can imitate."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.equipment import reaches
from tests.chaos.processes import until
from tests.chaos.proxy import Proxy, proxying_database, through
from tests.chaos.system import Measured, System, running
from tests.databases import Database

HELD_BACK = 150
"""More ticks than wait for the database at any other time."""


async def _delayed(proxy: Proxy, system: System) -> None:
    proxy.up.delay = proxy.down.delay = 1.0
    await system.elapsed(3)


async def _throttled(proxy: Proxy, system: System) -> None:
    proxy.up.rate = proxy.down.rate = 20_000
    await system.elapsed(2)


async def _cut(proxy: Proxy, system: System) -> None:
    before = proxy.accepted
    proxy.cut()
    await _made_anew(proxy, before)


async def _reset(proxy: Proxy, system: System) -> None:
    before = proxy.accepted
    proxy.reset()
    await _made_anew(proxy, before)


async def _refused(proxy: Proxy, system: System) -> None:
    proxy.refusing = True
    proxy.reset()
    await system.elapsed(2)


async def _truncated(proxy: Proxy, system: System) -> None:
    """In the middle of a COPY to the server, or of a notification from it."""
    before = proxy.accepted
    proxy.truncate(2_500)
    await _made_anew(proxy, before)


async def _answers_lost(proxy: Proxy, system: System) -> None:
    """What is sent arrives, and is done; that it is done does not come back."""
    proxy.down.flowing.clear()
    await system.traded(50)
    proxy.reset()


async def _made_anew(proxy: Proxy, before: int) -> None:
    await until(lambda: proxy.accepted > before, "a connection is made anew")


FAULTS: dict[str, tuple[int, Callable[[Proxy, System], Awaitable[None]]]] = {
    "delayed by 1 s": (1, _delayed),
    "throttled": (1, _throttled),
    "cut": (4, _cut),
    "reset": (4, _reset),
    "refused": (1, _refused),
    "truncated": (5, _truncated),
    "answers lost": (5, _answers_lost),
}


@asynccontextmanager
async def behind_proxies(
    database: Database, measured: Measured, folder: Path
) -> AsyncIterator[tuple[System, Proxy, Proxy]]:
    """A system whose ingest and serve reach the database through a proxy each; nothing may end, nobody be cut off."""
    async with (
        proxying_database(database.dsn) as writers,
        proxying_database(database.dsn) as readers,
        running(
            "network to the database",
            folder,
            database,
            measured,
            writer_dsn=through(writers, database.writer),
            app_dsn=through(readers, database.app),
        ) as system,
    ):
        yield system, writers, readers
        assert system.ingesters[0].restarts == system.web.restarts == 0
        assert [follower.connects for follower in system.followers] == [1]
        await system.verdict()


@pytest.mark.parametrize("side", ["ingest", "serve"])
async def test_network_to_the_database_fails_in_every_way_nothing_is_lost(
    best_database: Database, measured: Measured, folder: Path, side: str
) -> None:
    async with behind_proxies(best_database, measured, folder) as (system, writers, readers):
        proxy = writers if side == "ingest" else readers
        for fault, (times, inflict) in FAULTS.items():
            system.name = f"network between {side} and the database {fault}"
            for _ in range(times):
                await inflict(proxy, system)
                proxy.heal()
                await system.recovered()
                await system.flowing()


async def test_network_to_the_database_swallows_everything_for_ten_seconds_nothing_is_lost(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with behind_proxies(best_database, measured, folder) as (system, writers, readers):
        system.name = "network to the database swallows everything for 10 s"
        for proxy in (writers, readers):
            proxy.blackhole()
        await system.elapsed(10)
        for proxy in (writers, readers):
            proxy.heal()
        await system.recovered()
        await system.flowing()


async def test_database_is_lost_while_what_a_reset_cost_is_fetched_nothing_is_lost(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    """Live ticks wait for those fetched before them: neither may go with the connection."""
    async with behind_proxies(best_database, measured, folder) as (system, writers, _):
        system.name = "database lost while ticks are held back"
        await system.order(rest_latency_seconds=1)
        for _ in range(4):
            await system.order(reset=True)
            await reaches(system.session, system.ingesters[0], "ingest_buffer_ticks", HELD_BACK)
            await _reset(writers, system)
            await system.recovered()
            await system.flowing()
        assert best_database.execute("SELECT count(*) FROM market.gaps WHERE state <> 'filled'") == [(0,)]
