"""A real server in this process, real clients, and a hand on the database: what the tests of the stream share."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from unittest import mock

import aiohttp
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from app import main
from app.settings import Settings
from app.stream.service import Stream
from app.stream.transport import WebSocketProtocol
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


class Running(NamedTuple):
    """A server that listens on a free port."""

    url: str
    stream: Stream
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
    made: list[Any] = []
    create = main.create_app

    def create_app(given: Settings) -> Any:
        made.append(create(given))
        return made[0]

    before = asyncio.all_tasks()
    listening = main.bind("127.0.0.1", 0)
    given = Settings(dsn=database.app, **settings)
    config = functools.partial(uvicorn.Config)

    def configure(app: Any, **options: Any) -> uvicorn.Config:
        return config(app, **{**options, "ws": WebSocketProtocol})

    with mock.patch.object(main, "create_app", create_app), mock.patch.object(uvicorn, "Config", configure):
        task = asyncio.create_task(main.serve_on(listening, given, ready.set_result), name="served by a test")
        done, _ = await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            await task
    stream: Stream = made[0].state.stream

    def stop() -> asyncio.Future[Any]:
        task.cancel()
        return asyncio.gather(task, return_exceptions=True)

    try:
        async with asyncio.timeout(PATIENCE):
            await stream.listener.live.wait()
        yield Running(ready.result(), stream, stop)
    finally:
        async with asyncio.timeout(PATIENCE):
            await stop()
    left = asyncio.all_tasks() - before
    assert not left, left
