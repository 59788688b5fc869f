"""Ingesters die in mid-batch: their next run, or their peers, go on where they stopped."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.processes import Process, until
from tests.chaos.system import Measured, running
from tests.databases import Database

SIX = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC", "DOGEUSDC", "SUIUSDC")


def spread(database: Database) -> list[int]:
    """How many instruments each ingester owns that owns any, ascending."""
    rows = database.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        " AND classid = hashtext('tickwick.instrument')::oid"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid ORDER BY 1"
    )
    return [count for (count,) in rows]


async def test_only_ingester_killed_again_and_again_loses_nothing(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with running("kill -9 of the only ingester", folder, best_database, measured) as system:
        for times in range(1, 6):
            system.ingesters[0].kill()
            await system.recovered()
            assert system.ingesters[0].restarts == times
            await system.flowing()
        await system.verdict()


async def test_one_of_three_ingesters_killed_others_take_over_and_share_evenly(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    name = "kill -9 of one of three ingesters"
    async with running(
        name, folder, best_database, measured, tickers=SIX, rate=100, ingesters=3, followers=2, supervised=False
    ) as system:
        await until(lambda: spread(best_database) == [2, 2, 2], "three ingesters share six instruments")
        for victim in system.ingesters:
            victim.kill()
            began = time.monotonic()
            await until(lambda: spread(best_database) == [3, 3], "two ingesters share six instruments")
            measured.note(f"{name}: hand-over", time.monotonic() - began)
            await system.recovered()
            victim.start()
            await until(lambda: spread(best_database) == [2, 2, 2], "three ingesters share six instruments")
            await system.recovered()
        await system.verdict()


@pytest.mark.parametrize("moment", ["between batches", "in mid-batch"])
async def test_one_of_three_ingesters_stopped_others_take_over_and_it_returns_without_a_tick_twice(
    best_database: Database, measured: Measured, folder: Path, moment: str
) -> None:
    name = f"SIGSTOP of one of three ingesters {moment}"
    async with running(
        name, folder, best_database, measured, tickers=SIX, rate=100, ingesters=3, supervised=False
    ) as system:
        await until(lambda: spread(best_database) == [2, 2, 2], "three ingesters share six instruments")
        victim = system.ingesters[0]
        await _stop(victim, best_database, in_batch=moment == "in mid-batch")
        began = time.monotonic()
        await until(lambda: spread(best_database) == [3, 3], "two ingesters share six instruments")
        measured.note(f"{name}: hand-over", time.monotonic() - began)
        await system.recovered()
        victim.signal(signal.SIGCONT)
        await until(lambda: spread(best_database) == [2, 2, 2], "three ingesters share six instruments")
        await system.recovered()
        await system.verdict()


async def _stop(victim: Process, database: Database, *, in_batch: bool) -> None:
    """Stop a process while the server waits for the rest of its batch, or while it does not; tries until it is so."""
    for _ in range(200):
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)
        stuck = database.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'tickwick ingest' AND state <> 'idle'"
            " AND datname = current_database() AND wait_event = 'ClientRead'"
            " AND state_change < clock_timestamp() - interval '0.08 s'"
        )
        if bool(stuck) == in_batch:
            return
        victim.signal(signal.SIGCONT)
        await asyncio.sleep(0.03)
    pytest.fail("the process was not caught at the right moment")


async def test_ingester_terminated_in_mid_batch_stores_all_it_has_and_the_next_run_goes_on(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with running("SIGTERM of the ingester", folder, best_database, measured) as system:
        ingester = system.ingesters[0]
        for _ in range(3):
            assert await ingester.terminate(seconds=5) == 0
            assert "ticks lost" not in ingester.output
            ingester.start()
            await system.recovered()
            await system.flowing()
        await system.verdict()
