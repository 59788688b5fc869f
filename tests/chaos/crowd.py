"""Many websocket clients in one process: each looks for holes and repeats, and comes back when it is cut off.

`python -m tests.chaos.crowd PORT COUNT BUFFER SYMBOL…` prints `ready` once all are subscribed; SIGUSR1 stops the
reading, SIGUSR2 resumes it; after SIGTERM it prints a Report as JSON, and ends.

They cost little: clients of one server receive the same bytes, so that a frame is parsed for the first of them alone.
BUFFER, where it is not 0, is the size of a socket's buffer in bytes: a server then feels soon that nobody reads.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from statistics import median, quantiles
from typing import Any, Final, NamedTuple, cast

import msgspec
import uvloop

from tests.bench.readers import masked
from tests.chaos.sockets import small_socket

AGAIN_SECONDS: Final = 0.1
SHOWN: Final = 20
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


class Report(msgspec.Struct):
    """What the clients of a process have seen; `latencies` are p50 and p99 in milliseconds, sent to received."""

    trades: int
    gaps: int
    connects: int
    closed: dict[int, int]
    wrong: list[str]
    latencies: tuple[float, float]


class Step(NamedTuple):
    """Ids of a symbol that follow each other: delivered, told to be missing (`gap`), or of a snapshot (`anew`)."""

    symbol: str
    from_id: int
    to_id: int
    anew: bool
    gap: bool


class Frame(NamedTuple):
    steps: list[Step]
    wrong: list[str]
    newest: float | None
    """Unix time of the last trade, where there is one."""


@lru_cache(maxsize=256)
def parsed(payload: bytes) -> Frame:
    steps: list[Step] = []
    wrong: list[str] = []
    newest = None
    for event in msgspec.json.decode(payload):
        match event["type"]:
            case "trade":
                newest = event["time"]
                _add(steps, event["symbol"], event["trade_id"])
            case "gap" if event["reason"] != "late":
                steps.append(Step(event["symbol"], event["from_id"], event["to_id"], anew=False, gap=True))
            case "snapshot" if event["trades"]:
                ids = [trade["trade_id"] for trade in event["trades"]]
                steps.append(Step(event["symbol"], ids[0], ids[-1], anew=True, gap=False))
            case "error" | "reset":
                wrong.append(str(event))
    return Frame(steps, wrong, None if newest is None else datetime.fromisoformat(newest).timestamp())


def _add(steps: list[Step], symbol: str, trade_id: int) -> None:
    """Join a trade to what the frame brought of its symbol before, where it follows that."""
    for place in range(len(steps) - 1, -1, -1):
        step = steps[place]
        if step.symbol == symbol:
            if not step.gap and step.to_id + 1 == trade_id:
                steps[place] = step._replace(to_id=trade_id)
                return
            break
    steps.append(Step(symbol, trade_id, trade_id, anew=False, gap=False))


class Client(asyncio.Protocol):
    """One connection after the other; `last` is the last id of each symbol, delivered or told to be missing."""

    def __init__(self, crowd: "Crowd") -> None:
        self.last: dict[str, int] = {}
        self.transport: asyncio.Transport | None = None
        self.subscribed = asyncio.get_running_loop().create_future()
        self._crowd = crowd
        self._bytes = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._bytes, self._upgraded = b"", False
        self._crowd.connects += 1
        self.transport.write(
            b"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._crowd.lost(self)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        if not self._upgraded:
            head, separator, rest = self._bytes.partition(b"\r\n\r\n")
            if separator and self.transport:
                if not head.startswith(b"HTTP/1.1 101"):
                    self.transport.close()  # it comes back
                    return
                self._upgraded, self._bytes = True, rest
                self._subscribe()
        if self._upgraded:
            self._read_frames()

    def _subscribe(self) -> None:
        for symbol in self._crowd.symbols:
            since = f',"since":{{"{symbol}":{self.last[symbol]}}}' if symbol in self.last else ""
            self._send(f'{{"op":"subscribe","channel":"trades","symbols":["{symbol}"]{since}}}'.encode())

    def _send(self, payload: bytes, opcode: int = _TEXT) -> None:
        if self.transport:
            self.transport.write(bytes([opcode]) + masked(payload)[1:])

    def _read_frames(self) -> None:
        data, at = self._bytes, 0
        while len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + size:
                break
            self._take(data[at], data[start : start + size])
            at = start + size
        self._bytes = data[at:]

    def _take(self, opcode: int, payload: bytes) -> None:
        crowd = self._crowd
        if opcode == _PING:
            self._send(payload, 0x8A)
        elif opcode == _CLOSE:
            crowd.closed[int.from_bytes(payload[:2], "big")] += 1
            self._send(payload[:2], _CLOSE)
        else:
            frame = parsed(payload)
            crowd.wrong += frame.wrong
            if frame.newest is not None:
                crowd.latencies.append(time.time() - frame.newest)
            for step in frame.steps:
                self._step(step)
            if not self.subscribed.done() and len(self.last) == len(crowd.symbols):
                self.subscribed.set_result(None)

    def _step(self, step: Step) -> None:
        crowd = self._crowd
        before = self.last.get(step.symbol)
        if before is not None and (step.anew or step.from_id != before + 1):
            crowd.wrong.append(f"{step} after {before}")
        if step.gap:
            crowd.gaps += 1
        elif not step.anew:
            crowd.trades += step.to_id - step.from_id + 1
        self.last[step.symbol] = step.to_id


class Crowd:
    """The clients of this process, and what they have seen together."""

    def __init__(self, port: int, buffer: int, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        self.trades = self.gaps = self.connects = 0
        self.closed: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.latencies: list[float] = []
        self._port = port
        self._buffer = buffer
        self._clients: list[Client] = []
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, count: int) -> None:
        """Connect so many more clients, and wait until each has been told where it begins."""
        for _ in range(count):
            client = Client(self)
            self._clients.append(client)
            await self._connect(client)
        await asyncio.gather(*(client.subscribed for client in self._clients))

    def lost(self, client: Client) -> None:
        """Have a client that was cut off come back."""
        if not self._leaving:
            task = asyncio.create_task(self._come_back(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def pause(self) -> None:
        for client in self._clients:
            if client.transport:
                client.transport.pause_reading()

    def resume(self) -> None:
        for client in self._clients:
            if client.transport:
                client.transport.resume_reading()

    def leave(self) -> Report:
        self._leaving = True
        for client in self._clients:
            if client.transport:
                client.transport.close()
        latencies = self.latencies if len(self.latencies) > 1 else [0.0, 0.0]
        shown = 1e3 * median(latencies), 1e3 * quantiles(latencies, n=100)[98]
        return Report(self.trades, self.gaps, self.connects, dict(self.closed), self.wrong[:SHOWN], shown)

    async def _come_back(self, client: Client) -> None:
        while not self._leaving:
            await asyncio.sleep(AGAIN_SECONDS)
            try:
                await self._connect(client)
            except OSError:
                continue
            return

    async def _connect(self, client: Client) -> None:
        connected = small_socket(self._buffer)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connected, ("127.0.0.1", self._port))
        except BaseException:
            connected.close()
            raise
        await loop.create_connection(lambda: client, sock=connected)


async def main(port: int, count: int, buffer: int, symbols: list[str]) -> None:
    crowd, ending = Crowd(port, buffer, symbols), asyncio.Event()
    handlers: Mapping[signal.Signals, Any] = {
        signal.SIGUSR1: crowd.pause,
        signal.SIGUSR2: crowd.resume,
        signal.SIGTERM: ending.set,
    }
    for number, handle in handlers.items():
        asyncio.get_running_loop().add_signal_handler(number, handle)
    await crowd.join(count)
    print("ready", flush=True)
    await ending.wait()
    print(f"report {msgspec.json.encode(crowd.leave()).decode()}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
