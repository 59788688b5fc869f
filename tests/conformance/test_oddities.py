"""What real clients do beside the book: each oddity that conventions.md lists."""

import asyncio
import json
from typing import Any

import pytest
import websockets

from app.market.intervals import Interval
from tests.conformance.market import BTC, ETH, PATIENCE, SILENT, Market
from tests.integration.reckoning import reckon

BACKLOG = 5_000


async def ask(socket: websockets.ClientConnection, method: str, *params: Any) -> Any:
    """The result of a request; events before it are passed over."""
    await socket.send(json.dumps({"method": method, "params": params, "id": 7}))
    async with asyncio.timeout(PATIENCE):
        while (answer := json.loads(await socket.recv())).get("id") != 7:
            pass
    return answer["result"]


async def event(market: Market, socket: websockets.ClientConnection) -> Any:
    return json.loads(await market.trade_until(ETH, asyncio.ensure_future(socket.recv())))


@pytest.mark.parametrize("path", ["/ws/0", "/ws/1", "/ws", "/ws/"])
async def test_path_that_names_no_stream_opens_a_raw_connection_without_any(market: Market, path: str) -> None:
    async with websockets.connect(market.ws + path) as socket:
        assert await ask(socket, "LIST_SUBSCRIPTIONS") == []
        assert await ask(socket, "SUBSCRIBE", "ethusdt@trade") is None
        assert (await event(market, socket))["e"] == "trade"


@pytest.mark.parametrize("path", ["/stream?streams=", "/stream"])
async def test_empty_list_of_streams_opens_a_combined_connection_without_any(market: Market, path: str) -> None:
    async with websockets.connect(market.ws + path) as socket:
        assert await ask(socket, "LIST_SUBSCRIPTIONS") == []
        assert await ask(socket, "GET_PROPERTY", "combined") is True
        assert await ask(socket, "SUBSCRIBE", "ethusdt@trade") is None
        told = await event(market, socket)
        assert (told["stream"], told["data"]["e"]) == ("ethusdt@trade", "trade")


@pytest.mark.parametrize("interval", Interval)
def test_klines_from_the_beginning_of_time_start_with_the_oldest_candle(market: Market, interval: Interval) -> None:
    (oldest,) = market.get("/api/v3/klines", symbol=BTC.name, interval=interval, startTime=0, limit=1)
    time, *numbers = reckon(market.trades[BTC], interval)[0][:6]
    assert oldest[:6] == [int(time.timestamp()) * 1000, *numbers]


def test_klines_from_the_beginning_of_time_are_none_where_nothing_traded(market: Market) -> None:
    assert market.get("/api/v3/klines", symbol=SILENT.name, interval="1d", startTime=0, limit=1) == []


class Overflow(Exception):
    """More frames waited than the client has room for."""


class Brittle:
    """A client that takes what has arrived as fast as it comes into a queue of 100, and gives up where that is full.

    Its reader does not let its consumer run while frames are there to be read: a burst has to fit into the queue.
    """

    ROOM = 100

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.fullest = 0

    async def read(self) -> None:
        while True:
            message = json.loads(await self._socket.recv())
            if self._queue.qsize() >= self.ROOM:
                raise Overflow
            self._queue.put_nowait(message)
            self.fullest = max(self.fullest, self._queue.qsize())

    async def take(self, last_id: int) -> list[int]:
        """Trade ids up to a last one, as the streams tell them."""
        ids = []
        while not ids or ids[-1] != last_id:
            message = await self._queue.get()
            ids.append(message.get("data", message)["t"])
        return ids


@pytest.mark.parametrize("path", ["/ws/ethusdt@trade?resume={}", "/stream?streams=ethusdt@trade&resume={}"])
async def test_resume_of_thousands_of_trades_never_overruns_a_client_with_room_for_a_hundred(
    market: Market, path: str
) -> None:
    seen = (await market.trade(ETH))[0].trade_id
    await market.trade(ETH, BACKLOG)
    async with websockets.connect(market.ws + path.format(seen), compression=None) as socket:
        brittle = Brittle(socket)
        reading = asyncio.ensure_future(brittle.read())
        last = market.trades[ETH][-1].trade_id + 3
        taking = asyncio.ensure_future(brittle.take(last))
        for _ in range(3):  # live ones come in between, and in their place
            await market.trade(ETH)
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([reading, taking], return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        assert not reading.done() or reading.cancelled() or reading.exception() is None, "overrun"
        assert await taking == list(range(seen + 1, last + 1))
    assert brittle.fullest > 1
