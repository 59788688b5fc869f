"""The pool of requests, when all of its connections were lost."""

import asyncio

from app import db
from tests.databases import Database


async def test_first_request_after_all_connections_were_lost_is_answered(any_database: Database) -> None:
    """Regression: the dead ones were tried one after the other, with growing pauses, and requests failed meanwhile."""
    async with db.pool(any_database.app, "tickwick serve", 8) as pool:
        together = asyncio.Barrier(8)

        async def work() -> None:
            async with pool.connection(timeout=10) as conn:
                await conn.execute("SELECT 1")
                await together.wait()

        await asyncio.gather(*(work() for _ in range(8)))
        assert await asyncio.to_thread(any_database.terminate, "tickwick serve") == 8
        async with pool.connection() as conn:
            cursor = await conn.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
