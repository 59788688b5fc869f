"""A real server in this process, real clients, and a hand on the database: what the tests of the stream share."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from unittest import mock

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from app import main
from app.settings import Settings
from app.stream.service import Stream
from tests.databases import Database

PATIENCE = 20.0
"""Seconds after which something that should have come counts as missing."""

Event = dict[str, Any]


class Market:
    """Instruments and ticks, written as ingest writes them: one statement, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conn = database.connect(database.writer)

    def close(self) -> None:
        self._conn.close()

    def reconnect(self) -> None:
        self._conn.close()
        self._conn = self._database.connect(self._database.writer)

    def add(self, ticker: str, *, contiguous: bool = True) -> int:
        """A new instrument `TEST:ticker`; answers its id."""
        row = self._conn.execute(
            "INSERT INTO market.instruments (source, ticker, feed, contiguous_ids) VALUES ('TEST', %s, 'trade', %s)"
            " RETURNING id",
            (ticker, contiguous),
        ).fetchone()
        assert row is not None
        return int(row[0])

    def trade(
        self,
        instrument_id: int,
        ids: Iterable[int],
        *,
        at: datetime | None = None,
        price: str = "100.00",
        step: int = 0,
    ) -> None:
        """Ticks of these ids in one transaction, `step` microseconds apart, from `at` or from now on."""
        start = at or datetime.now(UTC)
        rows = [
            (start + timedelta(microseconds=step * n), instrument_id, i, Decimal(price), Decimal("0.50"), i % 2 == 0)
            for n, i in enumerate(ids)
        ]
        days = sorted({row[0].date() for row in rows})
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute("SELECT market.make_room(%s)", (days,))
            with cursor.copy(
                "COPY market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker) FROM STDIN"
            ) as copy:
                for row in rows:
                    copy.write_row(row)


class Client:
    """A websocket client that keeps every event it was sent, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[Event] = []
        self._next = 0

    async def ask(self, **request: Any) -> None:
        await self.socket.send(json.dumps(request))

    async def subscribe(self, channel: str, *symbols: str, **more: Any) -> None:
        await self.ask(op="subscribe", channel=channel, symbols=list(symbols), **more)

    async def until(self, wanted: Callable[[Event], object]) -> Event:
        """The next event that is wanted; those before it are kept in `events`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self._next < len(self.events):
                    self._next += 1
                    if wanted(self.events[self._next - 1]):
                        return self.events[self._next - 1]
                self.events.extend(json.loads(await self.socket.recv()))

    async def until_type(self, kind: str) -> Event:
        return await self.until(lambda event: event["type"] == kind)

    async def until_trade(self, trade_id: int) -> Event:
        return await self.until(lambda event: event.get("trade_id") == trade_id)

    async def closed(self) -> int | None:
        """The code that the server closes with."""
        async with asyncio.timeout(PATIENCE):
            await self.socket.wait_closed()
        return self.socket.close_code

    def of_type(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def trade_ids(self) -> list[int]:
        """Ids delivered, those of a snapshot included, in order."""
        ids: list[int] = []
        for event in self.events:
            if event["type"] == "snapshot":
                ids.extend(trade["trade_id"] for trade in event.get("trades", []))
            elif event["type"] == "trade":
                ids.append(event["trade_id"])
        return ids


async def eventually(condition: Callable[[], object]) -> None:
    """Return once the condition holds, which nothing announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


class Deaf:
    """A client that subscribes and then reads nothing, with as small a receive buffer as the system gives."""

    def __init__(self, url: str) -> None:
        self._address = (url.rpartition("/")[2].partition(":")[0], int(url.rpartition(":")[2]))
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self.socket.setblocking(False)

    async def ask(self, **request: Any) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, self._address)
        handshake = (
            "GET /api/v1/stream HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await loop.sock_sendall(self.socket, handshake.encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += await loop.sock_recv(self.socket, 1)
        payload = json.dumps(request).encode()
        frame = b"\x81" + bytes([0xFE]) + len(payload).to_bytes(2, "big") + bytes(4) + payload
        await loop.sock_sendall(self.socket, frame)

    def __enter__(self) -> "Deaf":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Running(NamedTuple):
    """A server that listens on a free port."""

    url: str
    stream: Stream
    connections: set[Any]
    """The server's sockets that are not closed yet."""
    stop: Callable[[], "asyncio.Future[Any]"]

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        address = self.url.replace("http", "ws", 1) + "/api/v1/stream"
        async with connect(address, compression=None, **options) as socket:
            yield Client(socket)

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()


@asynccontextmanager
async def serving(database: Database, **settings: Any) -> AsyncIterator[Running]:
    """A server on a database, live; it must shut down within its patience, and leaves no task behind."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    servers: list[main.Server] = []

    class Server(main.Server):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            servers.append(self)

    before = asyncio.all_tasks()
    listening = main.bind("127.0.0.1", 0)
    given = Settings(dsn=database.app, **settings)
    with mock.patch.object(main, "Server", Server):
        task = asyncio.create_task(main.serve_on(listening, given, ready.set_result), name="served by a test")
        done, _ = await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            await task
    stream: Stream = servers[0]._app.state.stream

    def stop() -> asyncio.Future[Any]:
        task.cancel()
        return asyncio.gather(task, return_exceptions=True)

    try:
        async with asyncio.timeout(PATIENCE):
            await stream.listener.live.wait()
        yield Running(ready.result(), stream, servers[0].server_state.connections, stop)
    finally:
        async with asyncio.timeout(PATIENCE):
            await stop()
    left = asyncio.all_tasks() - before
    assert not left, left
