"""A real server in this process, asked over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

from app.main import bind, serve_on
from app.settings import Settings
from tests.databases import Database


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Rest:
    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Answer:
        if query:
            path = f"{path}?{urlencode(query)}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        return await self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{lines}Connection: close\r\n\r\n".encode())

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that is 200."""
        answer = await self.ask("/api/v1" + path, **query)
        assert answer.status == 200, answer
        return answer.json

    async def problem(self, path: str, **query: Any) -> Any:
        """The problem document of an answer that is not, its status included."""
        answer = await self.ask("/api/v1" + path, **query)
        assert answer.headers["content-type"] == "application/problem+json", answer
        assert answer.json["status"] == answer.status
        return answer.json

    async def walk(self, path: str, key: str, **query: Any) -> list[list[Any]]:
        """All pages from a first one on, by their `next`."""
        page = await self.get(path, **query)
        pages = [page[key]]
        while page["next"]:
            assert len(pages) < 1000
            page = await self.get(page["next"].removeprefix("/api/v1"))
            pages.append(page[key])
        return pages

    async def send(self, request: bytes) -> Answer:
        """The answer to any bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(int(status.split()[1]), headers, body)


@asynccontextmanager
async def serving(database: Database, **options: Any) -> AsyncIterator[Rest]:
    """A server that is ready; stopped afterwards."""
    ready = asyncio.Event()
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    settings = Settings(dsn=database.app, port=port, **options)
    task = asyncio.create_task(serve_on(listening, settings, lambda _: ready.set()))
    rest = Rest(port)
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert ready.is_set()
        await until_ready(rest)
        yield rest
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.wait({task}, timeout=20)


async def until_ready(rest: Rest, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while (await rest.ask("/readyz")).status != 200:  # noqa: ASYNC110  # another process would not tell either
            await asyncio.sleep(0.02)
