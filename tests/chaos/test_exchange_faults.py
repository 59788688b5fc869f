"""The exchange fails: it cuts, resets, falls silent, freezes, goes away, dies; what it traded meanwhile is fetched."""

from pathlib import Path

from tests.chaos.system import Measured, running
from tests.databases import Database

SECONDS = 2.0


async def test_exchange_cuts_or_resets_its_connections_nothing_is_lost(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with running("connections of the exchange end", folder, best_database, measured) as system:
        for how in ("reset", "drop") * 3:
            system.name = f"connections of the exchange end: {how}"
            await system.order(**{how: True})
            await system.recovered()
            await system.flowing()
        assert system.ingesters[0].restarts == 0
        await system.verdict()


async def test_exchange_away_in_every_way_nothing_is_lost(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    """Silent: the connections stand, and bring nothing. Frozen: nor does REST answer. Closed: new ones are refused."""
    async with running("exchange", folder, best_database, measured) as system:
        for fault in ("silence", "freeze", "close"):
            system.name = f"exchange away for {SECONDS:g} s: {fault}"
            await system.order(**{fault: SECONDS})
            await system.elapsed(SECONDS)
            await system.recovered()
            await system.flowing()
        for _ in range(3):
            system.name = "kill -9 of the exchange"
            system.exchange.kill()
            await system.elapsed(SECONDS / 2)
            system.exchange.start()
            await system.exchange.printed(r"trading at (\S+)")
            await system.recovered()
            await system.flowing()
        assert system.ingesters[0].restarts == 0
        await system.verdict()
