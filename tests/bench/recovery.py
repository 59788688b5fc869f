"""How soon all is well again: a late tick in its candle, the instruments of a killed ingester with another."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import aiohttp
import msgspec
import psycopg
import uvloop
import websockets

from tests.bench.harness import Database, Figure, add_instrument, process, serve

PORT = 18_436
EXCHANGE_PORT = 18_437
LATE = 10
KILLS = 5
RATE = "200"
STORE = "INSERT INTO market.ticks (time, instrument_id, trade_id, price, size) VALUES (%s, %s, %s, 1, 1)"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC")


def figures(db: Database) -> list[Figure]:
    with _exchange(), _ingest(db, "refreshing"):
        _until(lambda: _owned(db, "refreshing"))
        late = _late(db)
    return [late, _taken_over(db)]


def _late(db: Database) -> Figure:
    """Seconds from the commit of a tick ten minutes old to REST, and to the correction at a client."""
    instrument_id = add_instrument(db.operator, "LATE")
    with serve(db, PORT), psycopg.connect(db.operator, autocommit=True) as conn:
        conn.execute("SELECT market.make_room(ARRAY[current_date - 1, current_date])")
        conn.execute(STORE, (datetime.now(UTC), instrument_id, 1000))
        rest, stream = uvloop.run(_tell_late(conn, instrument_id))
        control = _refresh(conn, db.engine)
    name = f"late tick → REST and stream, {LATE} times"
    ours = f"REST {median(rest):.2f} s (worst {max(rest):.2f}), correction {median(stream):.2f} s ({max(stream):.2f})"
    return Figure(name, ours, f"its refresh alone {control:.2f} s", f"{median(rest) - control:+.2f} s", "≤ 2 s")


async def _tell_late(conn: psycopg.Connection[Any], instrument_id: int) -> tuple[list[float], list[float]]:
    rest, stream = [], []
    subscribe = '{"op":"subscribe","channel":"candles","symbols":["BENCH:LATE"],"interval":"1m"}'
    async with (
        aiohttp.ClientSession() as session,
        websockets.connect(f"ws://127.0.0.1:{PORT}/api/v1/stream") as socket,
    ):
        await socket.send(subscribe)
        await socket.recv()
        for number in range(1, LATE + 1):
            moment = datetime.now(UTC) - timedelta(minutes=10 + number)
            await asyncio.to_thread(conn.execute, STORE, (moment, instrument_id, 1000 - number))
            committed = time.perf_counter()
            told = asyncio.create_task(_corrected(socket, 1000 - number))
            while not await _in_rest(session, 1000 - number):
                await asyncio.sleep(0.01)
            rest.append(time.perf_counter() - committed)
            stream.append(await told - committed)
    return rest, stream


async def _in_rest(session: aiohttp.ClientSession, trade_id: int) -> bool:
    async with session.get(f"http://127.0.0.1:{PORT}/api/v1/candles/BENCH:LATE?interval=1m") as response:
        return any(candle["first_id"] <= trade_id <= candle["last_id"] for candle in (await response.json())["candles"])


async def _corrected(socket: websockets.ClientConnection, trade_id: int) -> float:
    async with asyncio.timeout(30):
        while True:
            for event in msgspec.json.decode(await socket.recv()):
                if event["type"] == "correction" and event["first_id"] <= trade_id <= event["last_id"]:
                    return time.perf_counter()


def _refresh(conn: psycopg.Connection[Any], engine: str) -> float:
    """Seconds that it takes to refresh an hour on each level, where a level is refreshed at all."""
    if engine != "timescaledb":
        return 0.0
    started = time.perf_counter()
    for level in ("1m", "1h", "1d"):
        window = "date_trunc('day', now()) - interval '1 day', date_trunc('day', now())"
        conn.execute(f"CALL refresh_continuous_aggregate('market.candles_{level}', {window}, force => true)")
    return time.perf_counter() - started


def _taken_over(db: Database) -> Figure:
    """Seconds from kill -9 of one of two ingesters to a tick of each of its instruments, stored by the other."""
    stored = "SELECT count(DISTINCT instrument_id) FROM market.ticks WHERE instrument_id = ANY(%s) AND time > %s"
    durations, freed = [], []
    with _exchange(), _ingest(db, "staying"), psycopg.connect(db.operator, autocommit=True) as conn:
        for number in range(KILLS):
            name = f"dying {number}"
            with _ingest(db, name) as dying:
                theirs = _share(db, name)
                dying.send_signal(signal.SIGKILL)
                killed, moment = time.perf_counter(), datetime.now(UTC)
                while _owned(db, name):
                    time.sleep(0.005)
                freed.append(time.perf_counter() - killed)
                while conn.execute(stored, (theirs, moment)).fetchone() != (len(theirs),):
                    time.sleep(0.005)
                durations.append(time.perf_counter() - killed)
    name = f"kill -9 of one of two ingesters → its instruments' ticks, {KILLS} times"
    control = median(freed)
    ours = f"{median(durations):.2f} s (worst {max(durations):.2f})"
    return Figure(name, ours, f"its locks free {control:.2f} s", f"{median(durations) - control:+.2f} s", "≤ 5 s")


def _owned(db: Database, name: str) -> list[int]:
    """The instruments that an ingester owns, which its sessions are told by."""
    query = (
        "SELECT objid::int FROM pg_locks JOIN pg_stat_activity AS session USING (pid)"
        " WHERE locktype = 'advisory' AND classid = hashtext('tickwick.instrument')::oid AND application_name = %s"
    )
    with psycopg.connect(db.operator, autocommit=True) as conn:
        return [each for (each,) in conn.execute(query, (name,)).fetchall()]


def _share(db: Database, name: str) -> list[int]:
    """What an ingester owns once it has its half."""
    _until(lambda: len(_owned(db, name)) == len(SYMBOLS) // 2)
    return _owned(db, name)


def _until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    symbols = [part for symbol in SYMBOLS for part in ("--symbol", symbol)]
    with process("-m", "app", "simulate", "--port", str(EXCHANGE_PORT), "--rate", RATE, *symbols, wait_for="trading"):
        yield


def _ingest(db: Database, name: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """`tickwick ingest`, with sessions of that name."""
    options = ("--source", "simulator", "--url", f"ws://127.0.0.1:{EXCHANGE_PORT}", "--instruments", ",".join(SYMBOLS))
    quiet = ("--spool-bytes", "0", "--log-level", "error")
    return process("-m", "app", "ingest", "--dsn", f"{db.writer} application_name='{name}'", *options, *quiet)
