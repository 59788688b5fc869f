"""Events a second that one core delivers to 1,000 clients, beside `websockets.broadcast` with a frame per event."""

import asyncio
import os
import resource
import sys
import time

import psycopg
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen

from tests.bench.harness import Database, Figure, add_instrument, cpu_seconds, process, serve

PORT, CONTROL_PORT = 18_432, 18_433
CLIENTS = 1_000
TICKS = 4_000
TICKS_PER_SECOND = 1_000
CONTROL_EVENTS = 200


def figures(db: Database) -> list[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    cores = sorted(os.sched_getaffinity(0))
    ours = _ours(db, cores[0], cores[-1])
    control = _control(cores[0], cores[-1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    name = f"events by one core to {CLIENTS:,} clients, {TICKS_PER_SECOND:,} ticks/s"
    return [Figure(name, f"{ours:,.0f} events/s", f"{control:,.0f} frames/s", f"{ours / control:.1f}", "≥ 3")]


def _ours(db: Database, core: int, other: int) -> float:
    """Events delivered per second of the server's CPU time."""
    instrument_id = add_instrument(db.operator, "FAN")
    subscribe = '{"op":"subscribe","channel":"trades","symbols":["BENCH:FAN"]}'
    with serve(db, PORT, core) as server:
        arguments = (
            "-m",
            "tests.bench.readers",
            str(PORT),
            "/api/v1/stream",
            subscribe,
            str(CLIENTS),
            f'"trade_id":{TICKS},',
        )
        with process(*arguments, core=other, wait_for="ready") as readers:
            before = cpu_seconds(server.pid)
            trade(db, instrument_id, TICKS)
            assert readers.stdout is not None
            assert readers.stdout.readline().startswith("done")
            used = cpu_seconds(server.pid) - before
    return TICKS * CLIENTS / used


def trade(db: Database, instrument_id: int, ticks: int) -> None:
    """Insert ticks, ids from 1 on, a batch each 10 ms."""
    batch = TICKS_PER_SECOND // 100
    with psycopg.connect(db.writer, autocommit=True) as conn:
        conn.execute("SELECT market.make_room(ARRAY[current_date, current_date + 1])")
        for start in range(1, ticks + 1, batch):
            due = time.perf_counter() + batch / TICKS_PER_SECOND
            conn.execute(
                "INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)"
                " SELECT clock_timestamp(), %s, i, 39432.48000000 + i, 0.00026300, true"
                " FROM generate_series(%s::bigint, %s::bigint) AS i",
                (instrument_id, start, start + batch - 1),
            )
            time.sleep(max(0.0, due - time.perf_counter()))


def _control(core: int, other: int) -> float:
    marker = f'"trade_id":{CONTROL_EVENTS},'
    with process("-m", "tests.bench.fanout", str(CONTROL_PORT), core=core, wait_for="listening") as server:
        arguments = ("-m", "tests.bench.readers", str(CONTROL_PORT), "/", "go", str(CLIENTS), marker)
        with process(*arguments, core=other, wait_for="ready") as readers:
            before = cpu_seconds(server.pid)
            os.kill(server.pid, 10)  # SIGUSR1: begin
            assert readers.stdout is not None
            assert readers.stdout.readline().startswith("done")
            used = cpu_seconds(server.pid) - before
    return CONTROL_EVENTS * CLIENTS / used


async def _broadcast(port: int) -> None:
    """The control: a frame per event to everybody, once told to begin."""
    clients: set[ServerConnection] = set()

    async def hold(connection: ServerConnection) -> None:
        clients.add(connection)
        await connection.recv()
        await connection.send("ok")
        await connection.wait_closed()

    begin = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(10, begin.set)
    async with listen(hold, "127.0.0.1", port, compression=None):
        print("listening", flush=True)
        await begin.wait()
        for trade_id in range(1, CONTROL_EVENTS + 1):
            broadcast(
                clients,
                f'{{"type":"trade","trade_id":{trade_id},"time":"2026-11-20T19:00:00.123456Z","price":"39432.48000000",'
                '"size":"0.00026300","side":"sell","symbol":"BENCH:FAN"}',
            )
            await asyncio.sleep(0.005)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_broadcast(int(sys.argv[1])))
