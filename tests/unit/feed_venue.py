"""A venue under the tests' control: it speaks Binance's combined socket and does what a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from app.market.model import Tick

TIME_MS = 1_700_000_000_000


def trade_frame(trade_id: int, ticker: str = "BTCUSDT") -> str:
    data = {"e": "trade", "E": TIME_MS, "s": ticker, "t": trade_id, "p": "1.5", "q": "2", "T": TIME_MS, "m": False}
    return json.dumps({"stream": f"{ticker.lower()}@trade", "data": data})


class Peer:
    """The venue's end of one connection. `lag` ticks are kept back, as a slower server would."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.socket = web.WebSocketResponse(autoping=False)
        self.requests: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.streams: set[str] = set()
        self.lag = 0
        self.delayed: list[str] = []
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.deaf = False

    async def trade(self, trade_id: int, ticker: str = "BTCUSDT") -> None:
        if f"{ticker.lower()}@trade" not in self.streams or self.socket.closed:
            return
        self.delayed.append(trade_frame(trade_id, ticker))
        while len(self.delayed) > self.lag:
            await self.send(self.delayed.pop(0))

    async def send(self, frame: str) -> None:
        try:
            await self.socket.send_str(frame)
        except ConnectionError:
            return

    async def send_raw(self, payload: bytes) -> None:
        """A text frame with any bytes, valid UTF-8 or not."""
        assert self.socket._writer is not None
        await self.socket._writer.send_frame(payload, aiohttp.WSMsgType.TEXT)

    def abort(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()


class Venue:
    """Peers come in the order of their connections; `on_subscribe` may delay or refuse what a peer asks for."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.arrivals: asyncio.Queue[Peer] = asyncio.Queue()
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.prepare: Callable[[Peer, int], None] = lambda peer, number: None
        self.subscribing = asyncio.Event()
        self.subscribing.set()
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        app = web.Application()
        app.router.add_get("/stream", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def shut(self) -> None:
        for peer in self.peers:
            if peer.request.transport is not None:
                peer.abort()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def arrival(self) -> Peer:
        """The next peer, once it has subscribed to something."""
        async with asyncio.timeout(5):
            return await self.arrivals.get()

    async def trade(self, trade_id: int, ticker: str = "BTCUSDT") -> None:
        for peer in self.peers:
            await peer.trade(trade_id, ticker)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.answers:
            return web.Response(status=self.answers.pop(0), headers=self.headers)
        peer = Peer(request)
        self.prepare(peer, len(self.peers))
        await peer.socket.prepare(request)
        self.peers.append(peer)
        try:
            await self._listen(peer)
        finally:
            peer.closed.set_result(peer.socket.close_code)
        return peer.socket

    async def _listen(self, peer: Peer) -> None:
        arrived = False
        async for message in peer.socket:
            if message.type is aiohttp.WSMsgType.PONG:
                peer.pongs.put_nowait(bytes(message.data))
                continue
            await self.subscribing.wait()
            request = json.loads(message.data)
            change = peer.streams.update if request["method"] == "SUBSCRIBE" else peer.streams.difference_update
            change(request["params"])
            await peer.send(json.dumps({"result": None, "id": request["id"]}))
            peer.requests.put_nowait(request)
            if not arrived:
                arrived = True
                self.arrivals.put_nowait(peer)
            if peer.deaf:
                await asyncio.Event().wait()


@asynccontextmanager
async def open_venue() -> AsyncIterator[Venue]:
    venue = Venue()
    await venue.open()
    try:
        yield venue
    finally:
        await venue.shut()


class Sink:
    """Takes a feed's ticks, says it is full when told to, and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.full = False
        self.waiting = asyncio.Event()
        self.released = asyncio.Event()
        self._changed = asyncio.Event()

    def push(self, ticks: Sequence[Tick]) -> bool:
        self.ticks += ticks
        self._changed.set()
        return not self.full

    async def room(self) -> None:
        self.waiting.set()
        await self.released.wait()

    def ids(self, instrument: int = 1) -> list[int]:
        return [tick.trade_id for tick in self.ticks if tick.instrument_id == instrument]

    async def until(self, condition: Callable[[list[int]], bool], instrument: int = 1) -> None:
        async with asyncio.timeout(5):
            while not condition(self.ids(instrument)):
                self._changed.clear()
                await self._changed.wait()
