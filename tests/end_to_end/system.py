"""The whole system in one event loop: simulated exchange, ingest, server; and a client that follows the stream."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import websockets

from app.main import bind, serve_on
from app.settings import Settings
from ingest.service import run as ingest
from ingest.simulator.exchange import Exchange
from tests.databases import Database


class System:
    """Addresses of what runs, and questions about it."""

    def __init__(self, database: Database, exchange: Exchange, http: str, session: aiohttp.ClientSession) -> None:
        self.database = database
        self.exchange = exchange
        self.http = http
        self.ws = http.replace("http", "ws", 1) + "/api/v1/stream"
        self._session = session

    async def get(self, path: str) -> Any:
        """The JSON of a REST answer, whatever its status."""
        async with self._session.get(self.http + path) as response:
            return await response.json(content_type=None)

    async def status(self, path: str) -> int:
        async with self._session.get(self.http + path) as response:
            return response.status

    def stored(self, symbol: str) -> dict[int, tuple[int, Decimal, Decimal, bool]]:
        """The stored ticks of a symbol by id: time in microseconds, price, size, whether the buyer is the maker."""
        rows = self.database.execute(
            "SELECT trade_id, (extract(epoch FROM time) * 1000000)::bigint, price, size, buyer_is_maker"
            " FROM market.ticks JOIN market.instruments AS i ON i.id = instrument_id WHERE symbol = %s",
            (symbol,),
        )
        return {row[0]: row[1:] for row in rows}

    def traded(self, ticker: str, from_id: int, to_id: int) -> dict[int, tuple[int, Decimal, Decimal, bool]]:
        """What the exchange truly traded, both ids inclusive, in the form of `stored`."""
        trades = self.exchange.tape(ticker).trades(from_id, to_id - from_id + 1)
        return {t.id: (t.time_us, Decimal(t.price), Decimal(t.size), t.buyer_is_maker) for t in trades}


@asynccontextmanager
async def running(
    database: Database, exchange: Exchange, feed: Any = "trade", source: Any = "simulator", tickers: str = ""
) -> AsyncIterator[System]:
    """Everything up and following the exchange; all stopped afterwards, and a failure of any of it raised.

    `tickers` are the exchange's where the source speaks its own protocol.
    """
    serving_ready, ingest_ready = asyncio.Event(), asyncio.Event()
    address: list[str] = []

    def served(at: str) -> None:
        address.append(at)
        serving_ready.set()

    async with exchange.serve() as venue, aiohttp.ClientSession() as session:
        tickers = tickers or ",".join(exchange.symbols)
        settings = Settings(dsn=database.writer, source=source, url=venue.ws, instruments=tickers, feed=feed)
        taking = asyncio.create_task(ingest(settings, lambda _: ingest_ready.set()))
        await _first(ingest_ready, taking)
        serving = asyncio.create_task(serve_on(bind("127.0.0.1", 0), Settings(dsn=database.app), served))
        await _first(serving_ready, serving)
        system = System(database, exchange, address[0], session)
        try:
            await until(lambda: _ready(system))
            yield system
        finally:
            for task in (serving, taking):
                task.cancel()
            results = await asyncio.gather(serving, taking, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _first(event: asyncio.Event, task: asyncio.Task[Any]) -> None:
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    waiting.cancel()
    if task.done():
        task.result()
    assert event.is_set()


async def _ready(system: System) -> bool:
    return await system.status("/readyz") == 200


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Ask again and again until the condition holds."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.02)


class Follower:
    """A websocket client that keeps all events it got, by type, and checks that trades go by rising id."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.order: list[dict[str, Any]] = []
        self.closed = False

    def trade_ids(self, symbol: str) -> list[int]:
        return [event["trade_id"] for event in self.events["trade"] if event["symbol"] == symbol]

    def unexplained_jumps(self, symbol: str) -> list[tuple[int, int]]:
        """Jumps of the trade id that no `gap` event told of beforehand, repeats, and steps back."""
        found, last = [], None
        for event in self.order:
            if event.get("symbol") != symbol:
                continue
            if event["type"] == "gap" and event["reason"] != "late":
                if last is not None and event["from_id"] != last + 1:
                    found.append((last, event["from_id"]))
                last = event["to_id"]
            elif event["type"] == "trade":
                if last is not None and event["trade_id"] != last + 1:
                    found.append((last, event["trade_id"]))
                last = event["trade_id"]
            elif event["type"] == "snapshot" and event["channel"] == "trades" and event["trades"]:
                last = event["trades"][-1]["trade_id"]
        return found


@asynccontextmanager
async def following(system: System, *subscriptions: dict[str, Any]) -> AsyncIterator[Follower]:
    """A client with these subscriptions, until the block ends."""
    follower = Follower()

    async def read(socket: websockets.ClientConnection) -> None:
        async for frame in socket:
            for event in json.loads(frame):
                follower.order.append(event)
                follower.events[event["type"]].append(event)
        follower.closed = True

    async with websockets.connect(system.ws, max_size=None) as socket:
        reading = asyncio.create_task(read(socket))
        for number, subscription in enumerate(subscriptions):
            await socket.send(json.dumps({"op": "subscribe", "id": number, **subscription}))
        await until(lambda: len(follower.events["subscribed"]) == len(subscriptions))
        try:
            yield follower
        finally:
            reading.cancel()


def candles_of(
    ticks: dict[int, tuple[int, Decimal, Decimal, bool]], seconds: int
) -> dict[int, tuple[Decimal, Decimal, Decimal, Decimal, Decimal, Decimal, int, int, int]]:
    """Candles by the second of their bucket, straight from the definition.

    Open, high, low, close, volume, quote volume, trades, first id, last id.
    """
    buckets: dict[int, list[int]] = defaultdict(list)
    for trade_id, (time_us, *_) in ticks.items():
        buckets[time_us // 1_000_000 // seconds * seconds].append(trade_id)
    candles = {}
    for bucket, ids in buckets.items():
        ids.sort()
        prices = [ticks[i][1] for i in ids]
        sizes = [ticks[i][2] for i in ids]
        quote = sum(price * size for price, size in zip(prices, sizes, strict=True))
        candles[bucket] = (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(sizes),
            quote,
            len(ids),
            ids[0],
            ids[-1],
        )
    return candles
