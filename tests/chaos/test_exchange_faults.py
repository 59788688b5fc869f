"""The exchange fails: it resets, falls silent, freezes, goes away, or dies; what it traded meanwhile is fetched."""

from pathlib import Path

from sql.engine import Engine
from tests.chaos.system import Measured, own_server, running
from tests.databases import Databases

SECONDS = 2.0


async def test_exchange_resets_its_connections_nothing_is_lost(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    async with (
        own_server(databases, best_engine) as (_, database),
        running("connections of the exchange reset", folder, database, measured) as system,
    ):
        for _ in range(5):
            await system.order(drop=True)
            await system.recovered()
            await system.flowing()
        assert system.ingesters[0].restarts == 0
        await system.verdict()


async def test_exchange_away_in_every_way_nothing_is_lost(
    databases: Databases, best_engine: Engine, measured: Measured, folder: Path
) -> None:
    """Silent: the connections stand, and bring nothing. Frozen: nor does REST answer. Closed: new ones are refused."""
    async with (
        own_server(databases, best_engine) as (_, database),
        running("exchange", folder, database, measured) as system,
    ):
        for fault in ("silence", "freeze", "close"):
            system.name = f"exchange away for {SECONDS:g} s: {fault}"
            await system.order(**{fault: SECONDS})
            await system.elapsed(SECONDS)
            await system.recovered()
            await system.flowing()
        for _ in range(2):
            system.name = "kill -9 of the exchange"
            system.exchange.kill()
            await system.elapsed(SECONDS / 2)
            system.exchange.start()
            await system.exchange.printed(r"trading at (\S+)")
            await system.recovered()
            await system.flowing()
        assert system.ingesters[0].restarts == 0
        await system.verdict()
