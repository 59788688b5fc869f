"""Clients of `/ws` and `/stream`: what the tests of Binance's streams share."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.stream_harness import PATIENCE, Event, Running


class Listener:
    """A websocket client that keeps every frame it was sent, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Any] = []
        self._next = 0

    async def ask(self, method: str, *params: Any, id: Any = 1) -> Any:  # noqa: A002  # as the wire calls it
        """The answer to a control frame."""
        await self.socket.send(json.dumps({"method": method, "params": [*params], "id": id}))
        return await self.until(lambda frame: isinstance(frame, dict) and frame.get("id", ...) == id)

    async def until(self, wanted: Callable[[Any], object]) -> Any:
        """The next frame that is wanted; those before it are kept in `frames`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self._next < len(self.frames):
                    self._next += 1
                    if wanted(self.frames[self._next - 1]):
                        return self.frames[self._next - 1]
                self.frames.append(json.loads(await self.socket.recv()))

    async def until_event(self, kind: str, **fields: Any) -> Event:
        """The next event of a kind, wrapped or not, with these fields."""

        def wanted(frame: Any) -> bool:
            event = unwrapped(frame)
            return isinstance(event, dict) and {"e": kind, **fields}.items() <= event.items()

        return dict(unwrapped(await self.until(wanted)))

    async def closed(self) -> int | None:
        """The code that the server closes with."""
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    self.frames.append(json.loads(await self.socket.recv()))
            except ConnectionClosed:
                return self.socket.close_code

    @property
    def events(self) -> list[Event]:
        return [event for event in map(unwrapped, self.frames) if isinstance(event, dict) and "e" in event]

    @property
    def trade_ids(self) -> list[int]:
        return [event["t"] for event in self.events if event["e"] == "trade"]


def unwrapped(frame: Any) -> Any:
    return frame.get("data", frame) if isinstance(frame, dict) else frame


@asynccontextmanager
async def listening(running: Running, path: str = "/ws", **options: Any) -> AsyncIterator[Listener]:
    async with connect(running.url.replace("http", "ws", 1) + path, compression=None, **options) as socket:
        yield Listener(socket)


async def refused(running: Running, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers of the answer to a handshake that is refused."""
    try:
        async with listening(running, path, **options):
            raise AssertionError(f"{path} was accepted")
    except InvalidStatus as error:
        headers = {name.lower(): value for name, value in error.response.headers.raw_items()}
        return error.response.status_code, json.loads(error.response.body or b""), headers


PING, PONG, CLOSE = 9, 10, 8


class Wire:
    """A client that does nothing by itself: it sends no pongs, and reads but what it is asked to.

    Its receive buffer is as small as the system makes one.
    """

    def __init__(self, running: Running, path: str) -> None:
        self._address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        self._path = path
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> "Wire":
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, self._address)
        self._reader, self._writer = await asyncio.open_connection(sock=raw, limit=4_096)
        self._writer.write(
            f"GET {self._path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await self._reader.readuntil(b"\r\n\r\n")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    def send(self, opcode: int, payload: bytes) -> None:
        """A frame of at most 125 bytes."""
        self._writer.write(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    async def frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next frame; None once the connection is gone."""
        try:
            async with asyncio.timeout(PATIENCE):
                opcode, length = await self._reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await self._reader.readexactly(2))
                return opcode & 15, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
