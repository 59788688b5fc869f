"""A venue's REST under the tests' control: it answers what a test tells it to, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Answer:
    def __init__(self, body: Any = b"", *, status: int = 200, **headers: str) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class RestVenue:
    """`answers` are given in turn, and then what `otherwise` makes of the request."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.answers: list[Answer] = []
        self.otherwise: Callable[[web.Request], Answer] = lambda _: Answer(status=500)
        self.hang = False
        self.cut = False
        self.url = ""

    @property
    def paths(self) -> list[str]:
        return [request.path_qs for request in self.requests]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.hang:
            await asyncio.Event().wait()
        answer = self.answers.pop(0) if self.answers else self.otherwise(request)
        if self.cut:
            self.cut = False
            response = web.StreamResponse(headers={"Content-Length": str(len(answer.body) + 1)})
            await response.prepare(request)
            await response.write(answer.body)
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for raises no event
            await asyncio.sleep(0.001)


@asynccontextmanager
async def open_rest() -> AsyncIterator[RestVenue]:
    venue = RestVenue()
    app = web.Application()
    app.router.add_get("/{path:.*}", venue.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    venue.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield venue
    finally:
        await runner.cleanup()
