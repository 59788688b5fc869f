"""A venue's REST that serves the past, right or wrong as a test wishes, and remembers what it was asked."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.market.model import Tick
from ingest.history import HistoryClient, Patience
from ingest.sources import ByTime, History

PAGE = 10
Answer = Callable[[int], list[Tick]]
_ticks = msgspec.json.Decoder(list[Tick])


class Past:
    """Serves `ticks`, pages of ten. `failures` are answered first, each once; `answer` stands in for what is true."""

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self.ticks = list(ticks)
        self.asked: list[int] = []
        """The first id wanted of each page, in order."""
        self.asked_times: list[int] = []
        self.failures: deque[web.Response] = deque()
        self.answer: Answer | None = None
        self.before: Callable[[int], Any] | None = None
        """Awaited before a page is served."""
        self.url = ""

    def history(self) -> History:
        return History(
            name="SIM",
            url=self.url,
            page=lambda ticker, from_id, _: f"/page?{urlencode({'ticker': ticker, 'from_id': from_id})}",
            parse=lambda body, instrument: _ticks.decode(body),
            locate=ByTime(request=lambda ticker, us: f"/first?{urlencode({'from_us': us})}", parse=_first),
            requests_per_second=10_000,
            page_ticks=PAGE,
        )

    async def _page(self, request: web.Request) -> web.Response:
        from_id = int(request.query["from_id"])
        self.asked.append(from_id)
        if self.before:
            await self.before(from_id)
        if self.failures:
            return self.failures.popleft()
        if self.answer:
            return _json(self.answer(from_id))
        return _json([tick for tick in self.ticks if tick.trade_id >= from_id][:PAGE])

    async def _first(self, request: web.Request) -> web.Response:
        from_us = int(request.query["from_us"])
        self.asked_times.append(from_us)
        if self.failures:
            return self.failures.popleft()
        return _json([tick for tick in self.ticks if tick.time_us >= from_us][:1])

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application()
        app.add_routes([web.get("/page", self._page), web.get("/first", self._first)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()


@asynccontextmanager
async def past(ticks: Sequence[Tick]) -> AsyncIterator[tuple[Past, HistoryClient]]:
    """A venue that knows these ticks, and a client that asks it."""
    venue = Past(ticks)
    async with venue.serve(), HistoryClient(venue.history(), patience=Patience(attempts=1)) as client:
        yield venue, client


def busy(seconds: int) -> web.Response:
    return web.Response(status=429, headers={"Retry-After": str(seconds)})


def broken() -> web.Response:
    return web.Response(status=500)


def unknown() -> web.Response:
    return web.json_response({"msg": "Invalid symbol."}, status=400)


def _json(ticks: Sequence[Tick]) -> web.Response:
    return web.Response(body=msgspec.json.encode(ticks), content_type="application/json")


def _first(body: bytes) -> int | None:
    return next((tick.trade_id for tick in _ticks.decode(body)), None)
