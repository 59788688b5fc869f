"""Ticks to disk and back, beside writing and syncing the same bytes bare."""

import asyncio
import os
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from app.market.model import InstrumentId, Tick
from ingest.spool import Spool
from tests.bench.harness import Database, Figure, now_us

COUNT = 1_000_000
BATCH = 4_096
ONE = InstrumentId(1)


def figures(_: Database) -> list[Figure]:
    base = now_us()
    ticks = [
        Tick(ONE, i, base + i, Decimal(f"{40_000 + i % 500}.{i % 100:02}000000"), Decimal("0.00437600"), i % 2 == 0)
        for i in range(COUNT)
    ]
    with tempfile.TemporaryDirectory(prefix="tickwick-bench-") as folder:
        append, drain, size = asyncio.run(_spool(Path(folder, "spool"), ticks))
        bare = _bare(Path(folder, "bare"), size)
    return [
        Figure(
            f"spool, {COUNT // 1_000_000} M ticks in records of {BATCH:,}, each synced",
            f"{append:,.0f} ticks/s in, {drain:,.0f} out ({size / COUNT:.0f} bytes each)",
            f"{bare:,.0f} ticks/s",
            f"{append / bare:.2f}",
            "≥ 100,000/s",
        )
    ]


async def _spool(folder: Path, ticks: list[Tick]) -> tuple[float, float, int]:
    """Ticks a second in and out, and what they take on disk."""
    spool = Spool.open(folder, 1 << 40, reserve_bytes=0)
    started = time.perf_counter()
    for start in range(0, COUNT, BATCH):
        await spool.append(ticks[start : start + BATCH], {ONE: "BENCH:SPOOL"})
    append, size = COUNT / (time.perf_counter() - started), spool.size
    started = time.perf_counter()
    while await spool.peek():
        await spool.advance()
    drain = COUNT / (time.perf_counter() - started)
    spool.close()
    return append, drain, size


def _bare(path: Path, size: int) -> float:
    """As many bytes a record, written and synced with nothing else."""
    record = os.urandom(size * BATCH // COUNT)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(0, COUNT, BATCH):
            file.write(record)
            os.fsync(file.fileno())
    return COUNT / (time.perf_counter() - started)
