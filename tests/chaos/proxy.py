"""A bad network: a TCP proxy in front of a server, which delays, throttles, cuts, resets, truncates, or swallows."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.sockets import small_socket

CHUNK: Final = 16_384
WAITING: Final = 1_024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no seconds: closing sends RST, and nothing else."""


@dataclass
class Way:
    """One direction of all connections, present and new ones: `delay` in seconds, `rate` in bytes a second (0: any)."""

    delay: float = 0.0
    rate: float = 0.0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, nothing is read nor passed on; what was underway waits."""

    def __post_init__(self) -> None:
        self.flowing.set()


class _Pipe:
    """Carries one direction of one connection. Bounded: WAITING chunks may be underway."""

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.way = way
        self.left: int | None = None
        """Bytes to pass on before the connection is reset; None for any number."""
        self._reader = reader
        self._writer = writer
        self._underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

    async def carry(self) -> bool:
        """Pass on until the end, or until nothing may be passed any more: true for the former."""
        taking = asyncio.create_task(self._take())
        try:
            return await self._give()
        finally:
            taking.cancel()

    async def _take(self) -> None:
        clock = asyncio.get_running_loop().time
        data = b"any"
        while data:
            await self.way.flowing.wait()
            try:
                data = await self._reader.read(CHUNK)
            except OSError:
                data = b""
            await self._underway.put((clock() + self.way.delay, data))

    async def _give(self) -> bool:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await self._underway.get()
            if not data:
                return True
            await asyncio.sleep(max(0.0, due - clock()))
            await self.way.flowing.wait()
            if self.left is not None:
                data = data[: self.left]
                self.left -= len(data)
            self._writer.write(data)
            await self._writer.drain()
            if self.left == 0:
                return False
            if self.way.rate:
                await asyncio.sleep(len(data) / self.way.rate)


class _Connection:
    def __init__(self, up: _Pipe, down: _Pipe, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.up = up
        self.down = down
        self._writers = writers

    async def run(self) -> None:
        """Carry both directions until either ends."""
        carrying = [asyncio.create_task(pipe.carry()) for pipe in (self.up, self.down)]
        try:
            done, _ = await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
            if any(not task.exception() and not task.result() for task in done):
                self.reset()
        finally:
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            await self.close()

    def reset(self) -> None:
        for writer in self._writers:
            connected: socket.socket = writer.get_extra_info("socket")
            if connected.family != socket.AF_UNIX and not writer.is_closing():
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()


class Proxy:
    """Forwards connections to a server. `up` is what clients send, `down` what the server answers."""

    def __init__(self, host: str, port: int, buffer: int = 0) -> None:
        """`host` is the folder of a Unix socket of PostgreSQL where it is a path.

        `buffer` is about how many bytes more it takes from a server of another kind than it can pass on; 0: the usual.
        """
        self.up = Way()
        self.down = Way()
        self.refusing = False
        """New connections are reset at once."""
        self.port = 0
        self.accepted = 0
        self._host = host
        self._target_port = port
        self._buffer = buffer
        self._connections: dict[_Connection, asyncio.Task[None]] = {}

    def cut(self) -> None:
        """End all connections in an orderly way (FIN)."""
        for task in self._connections.values():
            task.cancel()

    def reset(self) -> None:
        """End all connections at once (RST)."""
        for connection in self._connections:
            connection.reset()

    def truncate(self, more: int) -> None:
        """Reset each of the present connections once it has carried so many bytes more either way; the rest is lost."""
        for connection in self._connections:
            connection.up.left = connection.down.left = more

    def blackhole(self) -> None:
        """Neither read nor close, in both directions; new connections are accepted, and that is all."""
        self.up.flowing.clear()
        self.down.flowing.clear()

    def heal(self) -> None:
        """Pass everything on again, what waited too."""
        self.refusing = False
        for way in (self.up, self.down):
            way.delay = way.rate = 0.0
            way.flowing.set()
        for connection in self._connections:
            connection.up.left = connection.down.left = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.accepted += 1
        try:
            await self.up.flowing.wait()
            if not self.refusing:
                await self._serve(reader, writer)
        except OSError:
            pass  # the server is away
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await self._dial()
        pipes = _Pipe(self.up, reader, to_server), _Pipe(self.down, from_server, writer)
        connection = _Connection(*pipes, (writer, to_server))
        task = self._connections[connection] = asyncio.create_task(connection.run())
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del self._connections[connection]

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._target_port}")
        dialled = small_socket(self._buffer)
        try:
            await asyncio.get_running_loop().sock_connect(dialled, (self._host, self._target_port))
        except BaseException:
            dialled.close()
            raise
        return await asyncio.open_connection(sock=dialled)


@asynccontextmanager
async def proxying(host: str, port: int, buffer: int = 0) -> AsyncIterator[Proxy]:
    """A proxy on a free port of 127.0.0.1 in front of a server; all its connections are gone afterwards."""
    proxy = Proxy(host, port, buffer)
    handlers: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.accept(reader, writer))
        handlers.add(task)
        task.add_done_callback(handlers.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.reset()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def proxying_database(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server that a DSN names; `through` gives the DSN of the way through it."""
    parts = conninfo_to_dict(dsn)
    async with proxying(str(parts["host"]), int(parts["port"] or 5432)) as proxy:
        yield proxy


def through(proxy: Proxy, dsn: str) -> str:
    """A DSN that goes through the proxy; in the clear, so that what is cut is what was written."""
    return make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
