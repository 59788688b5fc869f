"""Socket to committed row, candles and NOTIFY on, beside a bare binary COPY of the same rows."""

import asyncio
import contextlib
import subprocess
import sys
import time

import psycopg
import uvloop

from app.market.model import InstrumentId, Tick, from_micros
from app.settings import Settings
from ingest import instruments
from ingest.feed import Feed
from ingest.sources.binance import PARSERS, binance
from ingest.writer import Writer
from tests.bench.blaster import trade
from tests.bench.harness import Database, Figure, add_instrument, now_us, resident_mb

COUNT = 600_000
BATCHES = (500, 1_000, 5_000)


def figures(db: Database) -> list[Figure]:
    return [_figure(db, batch) for batch in BATCHES]


def _figure(db: Database, batch: int) -> Figure:
    ticker = f"INGEST{batch}"
    instrument_id = InstrumentId(add_instrument(db.operator, ticker))
    ours, low, high = uvloop.run(_ingest(db, ticker, batch))
    control = _bare_copy(db, instrument_id, ticker, batch)
    name = f"ingest, socket to committed row, batches of {batch:,}"
    memory = f"{ours:,.0f} ticks/s ({low:.0f} → {high:.0f} MB)"
    return Figure(name, memory, f"{control:,.0f} rows/s", f"{ours / control:.2f}", "≥ 0.7 and ≥ 100,000/s")


async def _ingest(db: Database, ticker: str, batch: int) -> tuple[float, float, float]:
    """Ticks a second from the first flush to the last commit, and this process's memory early and late."""
    blaster = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.blaster", ticker, str(COUNT), "0", stdout=subprocess.PIPE
    )
    assert blaster.stdout is not None
    address = (await blaster.stdout.readline()).decode().split()[1]
    async with await psycopg.AsyncConnection.connect(db.writer, autocommit=True) as conn:
        found = await instruments.by_symbol(conn, [f"BENCH:{ticker}"])
    writer = Writer(
        db.writer, "BENCH", "trade", flush_ticks=batch, flush_seconds=0.01, buffer_ticks=Settings().buffer_ticks
    )
    feed = Feed(binance("trade", address), {i.ticker: i.id for i in found}, writer.push, writer.room)
    tasks = [asyncio.create_task(writer.run())]
    await writer.ready.wait()
    tasks.append(asyncio.create_task(feed.run()))
    while not writer.counters.flushes:
        await asyncio.sleep(0.001)
    started, first = time.perf_counter(), writer.counters.stored
    early = 0.0
    while writer.counters.stored < COUNT:
        await asyncio.sleep(0.01)
        if not early and writer.counters.stored > COUNT // 4:
            early = resident_mb()
    seconds = time.perf_counter() - started
    late = resident_mb()
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    blaster.terminate()
    await blaster.wait()
    return (COUNT - first) / seconds, early, late


def _bare_copy(db: Database, instrument_id: InstrumentId, ticker: str, batch: int) -> float:
    """Rows a second into a table with the same columns and unique key, but no trigger and no candles."""
    base = now_us()
    rows: list[Tick] = []
    for i in range(1, COUNT + 1):
        frame = trade(ticker, i, base + i)
        rows.extend(PARSERS["trade"](frame[4:] if frame[1] == 126 else frame[2:], {ticker: instrument_id}))
    values = [(from_micros(t.time_us), t.instrument_id, t.trade_id, t.price, t.size, t.buyer_is_maker) for t in rows]
    with psycopg.connect(db.operator, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS bare; CREATE TABLE bare (LIKE market.ticks INCLUDING ALL)")
        if db.engine != "postgres":
            conn.execute(
                "SELECT create_hypertable('bare', by_range('time', interval '1 day'), create_default_indexes => false)"
            )
        started = time.perf_counter()
        for start in range(0, COUNT, batch):
            with (
                conn.transaction(),
                conn.cursor() as cursor,
                cursor.copy(
                    "COPY bare (time, instrument_id, trade_id, price, size, buyer_is_maker) FROM STDIN (FORMAT binary)"
                ) as copy,
            ):
                copy.set_types(["timestamptz", "int4", "int8", "numeric", "numeric", "bool"])
                for row in values[start : start + batch]:
                    copy.write_row(row)
        seconds = time.perf_counter() - started
        conn.execute("DROP TABLE bare")
    return COUNT / seconds
