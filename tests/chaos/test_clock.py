"""Clocks jump, forward and back: the exchange's, ours, and the database's. Order is by trade id, and nothing is lost.

Ours and the database's are moved by libfaketime (Debian's package `libfaketime`), which leaves the monotonic clock be,
as a clock that is set leaves it.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import websockets

from app.embedded import Server
from sql.engine import Engine
from tests.chaos.equipment import faketime_library
from tests.chaos.processes import Process, until
from tests.chaos.system import Measured, System, own_server, running
from tests.chaos.truth import stored
from tests.databases import Database, Databases
from tests.integration.reckoning import reckon

HOUR: Final = 3_600
BRIDGED: Final = 6
"""Gaps that may be filled at once, before clients are told of later trades; the others are repaired behind."""
CLOSED_CANDLES: Final = 3
"""Candles of a second that each symbol has to close, once the clock is right again."""


class Clock:
    """A clock that differs from the true one, and whoever lives by it."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._file = folder / "offset"
        self._library = library
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set(self, seconds: int) -> None:
        """Ahead of the true time by so many seconds; nobody reads it half written."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{seconds:+d}")
        written.chmod(0o644)
        written.rename(self._file)

    async def live_by_it(self, process: Process) -> None:
        """Start a process anew, by this clock."""
        process.environ |= self.environment
        assert await process.terminate() == 0
        process.start()


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A clock that is right so far. Anybody can read it: PostgreSQL may run as somebody else."""
    library = faketime_library()
    if library is None:
        pytest.skip("libfaketime, which moves a process's clock, is not installed")
    with tempfile.TemporaryDirectory(prefix="tickwick-clock-") as folder:
        Path(folder).chmod(0o755)
        yield Clock(Path(folder), library)


class Candles:
    """A client that follows candles of a second: the newest word on each bucket of each symbol, and those closed."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, datetime], dict[str, Any]] = {}

    @property
    def closed(self) -> dict[tuple[str, datetime], dict[str, Any]]:
        return {key: candle for key, candle in self.told.items() if candle["closed"]}

    async def run(self, address: str, symbols: Sequence[str]) -> None:
        async with websockets.connect(address, max_size=None) as socket:
            request = {"op": "subscribe", "id": 1, "channel": "candles", "interval": "1s", "symbols": symbols}
            await socket.send(json.dumps(request))
            async for frame in socket:
                for event in json.loads(frame):
                    assert event["type"] != "error", event
                    if event["type"] in {"candle", "correction"}:
                        self.told[event["symbol"], datetime.fromisoformat(event["time"])] = event


@asynccontextmanager
async def following_candles(system: System) -> AsyncIterator[Candles]:
    candles = Candles()
    address = f"ws://127.0.0.1:{system.web_port}/api/v1/stream"
    task = asyncio.create_task(candles.run(address, system.truth.symbols))
    try:
        yield candles
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def check_live_candles(system: System, candles: Candles) -> None:
    """Candles that close from now on are told of as the ticks make them."""
    began = datetime.now(UTC)

    def closed_since(symbol: str) -> list[datetime]:
        return [time for of, time in candles.closed if of == symbol and time > began]

    await until(
        lambda: all(len(closed_since(symbol)) >= CLOSED_CANDLES for symbol in system.truth.symbols), "candles close"
    )
    closed = {key: candle for key, candle in candles.closed.items() if key[1] > began}
    await system.recovered()
    for symbol, ticks in stored(system.database).items():
        wanted = {row[0]: row for row in reckon(ticks, "1s")}
        for (of, time), candle in closed.items():
            if of == symbol:
                told = [Decimal(candle[name]) for name in ("open", "high", "low", "close", "volume")]
                assert told == [Decimal(value) for value in wanted[time][1:6]], (symbol, time)
                assert candle["trades"] == wanted[time][7], (symbol, time)


async def test_exchanges_clock_jumps_what_was_not_sent_is_fetched(
    best_database: Database, measured: Measured, folder: Path
) -> None:
    async with running("clock of the exchange jumps", folder, best_database, measured) as system:
        await system.order(clock=6)
        await system.recovered()
        await system.flowing()
        assert best_database.execute("SELECT DISTINCT state FROM market.gaps") == [("filled",)]
        await system.order(clock=-6)
        await system.flowing()
        await system.recovered()
        await system.verdict()


async def test_our_clocks_jump_by_an_hour_nothing_is_lost_and_live_candles_are_right_afterwards(
    best_database: Database, measured: Measured, folder: Path, clock: Clock
) -> None:
    async with running("our clocks jump by an hour", folder, best_database, measured, supervised=False) as system:
        for process in (*system.ingesters, system.web):
            await clock.live_by_it(process)
        await system.recovered()
        async with following_candles(system) as candles:
            for seconds in (HOUR, 0, -HOUR, 0):
                clock.set(seconds)
                await system.flowing(300)
                await system.recovered()
            await check_live_candles(system, candles)
        assert best_database.execute("SELECT count(*) FROM market.gaps WHERE state <> 'filled'") == [(0,)]
        await system.verdict()


@pytest.fixture
def clocked_databases(databases: Databases, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Databases:
    """Databases whose servers live by the clock, from their start on; a process of the product does not."""
    start = Server.start

    def start_by_it(server: Server) -> None:
        with monkeypatch.context() as patched:
            for name, value in clock.environment.items():
                patched.setenv(name, value)
            start(server)

    monkeypatch.setattr(Server, "start", start_by_it)
    return databases


async def test_clock_of_the_database_jumps_by_an_hour_nothing_is_lost(
    clocked_databases: Databases, measured: Measured, folder: Path, clock: Clock
) -> None:
    """Not on TimescaleDB, which may materialise the minute being traded then: among the README's caveats."""
    async with (
        own_server(clocked_databases, Engine.POSTGRES) as (_, database),
        running("clock of the database jumps by an hour", folder, database, measured) as system,
    ):
        for seconds in (HOUR, -HOUR):
            clock.set(seconds)
            await system.flowing()
            with database.connect() as conn:
                assert abs(_database_clock(conn) - seconds) < HOUR / 2
            await system.order(skip=0.05)
            await until(lambda: _open_gaps(database) > BRIDGED, "gaps are open when the clock is set right")
            clock.set(0)
            await system.order(skip=0)
            await system.recovered()
        await system.verdict()


def _database_clock(conn: psycopg.Connection[Any]) -> float:
    """Seconds by which it is ahead of the true time."""
    row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0]) - datetime.now(UTC).timestamp()


def _open_gaps(database: Database) -> int:
    ((count,),) = database.execute("SELECT count(*) FROM market.gaps WHERE state = 'open'")
    return int(count)
