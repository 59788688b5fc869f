"""Readings of the past that are cancelled end, whatever the moment."""

import asyncio

from app import db
from app.market.model import Instrument
from app.stream.history import StoredHistory
from tests.databases import Database


async def test_reading_cancelled_in_the_moment_it_gets_a_connection_is_cancelled(
    any_database: Database, instrument: Instrument
) -> None:
    async with db.pool(any_database.app, "test", 1) as pool:
        history = StoredHistory(pool)
        for turns in range(12):
            held = await pool.getconn()
            reading = asyncio.create_task(history.newest_trades(instrument, 1))
            for _ in range(10):
                await asyncio.sleep(0)
            returning = asyncio.create_task(pool.putconn(held))
            for _ in range(turns):
                await asyncio.sleep(0)
            underway = reading.cancel()
            await asyncio.wait([reading, returning])
            assert reading.cancelled() is underway, turns
