"""What the figures share: a database on the best engine at hand, our processes, and their CPU time and memory."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psycopg

from app.embedded import Server, find_installation
from sql.migrate import migrate

BIG_SERVER = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",
    "timescaledb.max_background_workers": "4",
}


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    ours: str
    control: str
    ratio: str
    goal: str


class Database(NamedTuple):
    operator: str
    writer: str
    app: str
    engine: str
    description: str


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """A migrated database on a server of its own, gone afterwards."""
    installation = find_installation()
    settings = {k: v for k, v in BIG_SERVER.items() if installation.timescaledb or not k.startswith("timescaledb")}
    with tempfile.TemporaryDirectory(prefix="tickwick-bench-") as folder:
        Path(folder).chmod(0o755)
        with Server(installation, Path(folder) / "data", settings=settings) as server:
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute("CREATE DATABASE bench")
            with psycopg.connect(server.dsn("bench"), autocommit=True) as conn:
                engine = migrate(conn).engine
            roles = (server.dsn("bench", user) for user in ("postgres", "tickwick_writer", "tickwick_app"))
            yield Database(*roles, engine, server.installation.describe())


def add_instrument(dsn: str, ticker: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(
            "INSERT INTO market.instruments (source, ticker, feed, contiguous_ids) VALUES ('BENCH', %s, 'trade', true)"
            " RETURNING id",
            (ticker,),
        ).fetchone()
    assert row is not None
    return int(row[0])


@contextlib.contextmanager
def process(*arguments: str, core: int | None = None, wait_for: str = "") -> Iterator[subprocess.Popen[str]]:
    """A Python process of ours, pinned to a core where one is named, once it has printed `wait_for`."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if core is not None else None,
    )
    try:
        assert child.stdout is not None
        while wait_for:
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"{arguments} ended before it printed {wait_for!r}")
            if wait_for in line:
                break
        yield child
    finally:
        child.terminate()
        child.wait(10)


def serve(
    db: Database, port: int, core: int | None = None, *, options: Sequence[str] = ()
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """`tickwick serve`."""
    arguments = ("-m", "app", "serve", "--dsn", db.app, "--port", str(port), "--log-level", "error", *options)
    return process(*arguments, core=core, wait_for="serving")


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def rate(work: "list[float]") -> float:
    """Per second, from the median of some durations."""
    return 1 / median(work)


def now_us() -> int:
    return time.time_ns() // 1000
