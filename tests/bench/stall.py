"""What clients that stop reading, and clients that vanish, cost another: its latency beside that of who stays alone.

`python -m tests.bench.stall PORT SYMBOL FIRST LAST` is the other client: it prints its latencies between two ids.
"""

import os
import re
import resource
import signal
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import aiohttp
import msgspec
import uvloop

from tests.bench.fanout import TICKS_PER_SECOND, trade
from tests.bench.harness import Database, Figure, add_instrument, process, serve

PORT = 18_435
CLIENTS = 1_000
STALLED = 100
VANISHED = 100
CALM_SECONDS = 5
SECONDS = 30
"""Long enough for those that stalled to be closed, all in the same second, while it is measured."""
SAMPLE_SECONDS = 0.25


class Run(NamedTuple):
    """Milliseconds of each event after the calm, bytes by which the server grew since, and whom it closed as slow."""

    latencies: list[float]
    grown: int
    closed: int

    @property
    def p99(self) -> float:
        return quantiles(self.latencies, n=100)[98]

    def __str__(self) -> str:
        return f"p50 {median(self.latencies):.1f}, p99 {self.p99:.1f}, max {max(self.latencies):.0f} ms"


def figures(db: Database) -> list[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    # Beside those who stay, and nobody else: what is above it, the others cost.
    control = _run(db, "CALM", CLIENTS - STALLED - VANISHED, stalled=0, vanished=0)
    ours = _run(db, "STALL", CLIENTS, stalled=STALLED, vanished=VANISHED)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    name = f"another's latency, {CLIENTS:,} clients, {STALLED} stall ({ours.closed} closed), {VANISHED} vanish"
    grown = (ours.grown - control.grown) / STALLED / 1e6
    return [
        Figure(name, str(ours), str(control), f"{ours.p99 - control.p99:+.1f} ms", "p99 ≤ control + 50 ms"),
        Figure("memory of a stalled client", f"{grown:.2f} MB", "", "", "≤ 4.5 MB"),
    ]


def _run(db: Database, ticker: str, clients: int, *, stalled: int, vanished: int) -> Run:
    instrument_id = add_instrument(db.operator, ticker)
    cores = sorted(os.sched_getaffinity(0))
    ticks = TICKS_PER_SECOND * SECONDS
    symbol = f"BENCH:{ticker}"
    subscribe = f'{{"op":"subscribe","channel":"trades","symbols":["{symbol}"]}}'
    with ExitStack() as stack:
        server = stack.enter_context(serve(db, PORT, cores[0]))

        def crowd(count: int) -> int:
            arguments = ("-m", "tests.bench.readers", str(PORT), "/api/v1/stream", subscribe, str(count), "never")
            return stack.enter_context(process(*arguments, core=cores[-1], wait_for="ready")).pid

        crowd(clients - 1 - stalled - vanished)
        faults = [
            (crowd(count), kill) for count, kill in ((stalled, signal.SIGSTOP), (vanished, signal.SIGKILL)) if count
        ]
        first = TICKS_PER_SECOND * CALM_SECONDS
        arguments = ("-m", "tests.bench.stall", str(PORT), symbol, str(first), str(ticks))
        client = stack.enter_context(process(*arguments, core=cores[-1], wait_for="ready"))
        memory = stack.enter_context(Memory(server.pid, faults))
        trade(db, instrument_id, ticks)
        assert client.stdout is not None
        latencies = msgspec.json.decode(client.stdout.readline(), type=list[float])
        closed = _closed()
    return Run(latencies, memory.grown, closed)


def _closed() -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics") as answer:
        page = answer.read().decode()
    return int(float(re.findall(r"^tickwick_stream_slow_clients_total (.+)$", page, re.MULTILINE)[0]))


class Memory:
    """Watches a process's resident memory, and commits the faults when the calm is over."""

    def __init__(self, pid: int, faults: list[tuple[int, signal.Signals]]) -> None:
        self.grown = 0
        self._pid = pid
        self._faults = faults
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for pid, kill in self._faults:
            if kill == signal.SIGSTOP:
                os.kill(pid, signal.SIGCONT)

    def _watch(self) -> None:
        self._done.wait(CALM_SECONDS)
        for pid, kill in self._faults:
            os.kill(pid, kill)
        before = self._resident()
        while not self._done.wait(SAMPLE_SECONDS):
            self.grown = max(self.grown, self._resident() - before)

    def _resident(self) -> int:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def _follow(port: int, symbol: str, first: int, last: int) -> None:
    latencies: list[float] = []
    url = f"ws://127.0.0.1:{port}/api/v1/stream"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=0) as socket:
        await socket.send_json({"op": "subscribe", "channel": "trades", "symbols": [symbol]})
        await socket.receive()
        print("ready", flush=True)
        async for message in socket:
            now = time.time()
            trades = [event for event in msgspec.json.decode(message.data) if event["type"] == "trade"]
            latencies.extend(
                (now - datetime.fromisoformat(event["time"]).timestamp()) * 1e3
                for event in trades
                if event["trade_id"] > first
            )
            if trades and trades[-1]["trade_id"] >= last:
                break
    print(msgspec.json.encode(latencies).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_follow(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
