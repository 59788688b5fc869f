"""From the exchange's send to the event at a websocket client, beside a NOTIFY round trip."""

import asyncio
import time
from datetime import datetime
from statistics import median, quantiles

import aiohttp
import msgspec
import psycopg
import uvloop

from tests.bench.harness import Database, Figure, add_instrument, process, serve

PORT = 18_434
CLIENTS = 200
PER_SECOND = 2_000
SECONDS = 10
WARM_UP = 2 * PER_SECOND
ROUND_TRIPS = 500


def figures(db: Database) -> list[Figure]:
    control = _round_trip(db)
    add_instrument(db.operator, "LATENCY")
    count = PER_SECOND * SECONDS
    with process("-m", "tests.bench.blaster", "LATENCY", str(count), str(PER_SECOND)) as exchange, serve(db, PORT):
        assert exchange.stdout is not None
        address = exchange.stdout.readline().split()[1]
        latencies = sorted(uvloop.run(_measure(db, address, count)))
    p50, p99 = median(latencies), quantiles(latencies, n=100)[98]
    name = f"exchange → client, {PER_SECOND:,} ticks/s, {CLIENTS} clients"
    ours = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    return [
        Figure(name, ours, f"NOTIFY {control:.1f} ms", f"+{p50 - control:.1f} ms", "p50 ≤ control + 30 ms, p99 ≤ 50 ms")
    ]


async def _measure(db: Database, address: str, count: int) -> list[float]:
    """Milliseconds of every event at one of the clients, after a warm-up."""
    latencies: list[float] = []
    subscribe = '{"op":"subscribe","channel":"trades","symbols":["BENCH:LATENCY"]}'
    ready = asyncio.Barrier(CLIENTS + 1)

    async def follow(session: aiohttp.ClientSession, *, measuring: bool) -> None:
        async with session.ws_connect(f"ws://127.0.0.1:{PORT}/api/v1/stream", compress=0) as socket:
            await socket.send_str(subscribe)
            await socket.receive()
            await ready.wait()
            async for message in socket:
                if not measuring:
                    if f'"trade_id":{count},' in message.data:
                        return
                    continue
                now = time.time()
                latencies.extend(
                    (now - datetime.fromisoformat(event["time"]).timestamp()) * 1e3
                    for event in msgspec.json.decode(message.data)
                    if event["type"] == "trade" and event["trade_id"] > WARM_UP
                )
                if f'"trade_id":{count},' in message.data:
                    return

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow(session, measuring=number == 0)) for number in range(CLIENTS)]
        await ready.wait()
        with process("-m", "tests.bench.take", db.writer, address, "BENCH:LATENCY"):
            await asyncio.wait(followers)
    return latencies


def _round_trip(db: Database) -> float:
    """The median milliseconds from NOTIFY on one connection to its arrival on another."""
    durations = []
    with (
        psycopg.connect(db.app, autocommit=True) as listener,
        psycopg.connect(db.writer, autocommit=True) as notifier,
    ):
        listener.execute("LISTEN bench")
        for _ in range(ROUND_TRIPS):
            started = time.perf_counter()
            notifier.execute("NOTIFY bench, 'x'")
            next(iter(listener.notifies(timeout=5, stop_after=1)))
            durations.append((time.perf_counter() - started) * 1e3)
    return median(durations)
