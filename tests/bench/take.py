"""Ingest for the latency figure, as `tickwick ingest` does: `python -m tests.bench.take DSN ADDRESS SYMBOL`."""

import asyncio
import sys

import uvloop

from app import db
from app.settings import Settings
from ingest import instruments
from ingest.feed import Feed
from ingest.sources.binance import binance
from ingest.writer import Writer


async def main(dsn: str, address: str, symbol: str) -> None:
    settings = Settings()
    async with await db.connect(dsn, "bench") as conn:
        found = await instruments.by_symbol(conn, [symbol])
    writer = Writer(
        dsn,
        "BENCH",
        "trade",
        flush_ticks=settings.flush_ticks,
        flush_seconds=settings.flush_ms / 1000,
        buffer_ticks=settings.buffer_ticks,
    )
    feed = Feed(binance("trade", address), {i.ticker: i.id for i in found}, writer.push, writer.room)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        await writer.ready.wait()
        tasks.create_task(feed.run())


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
