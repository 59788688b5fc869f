"""Clients whose network is gone, without a FIN or a RST: noticed, freed, and no trouble to others."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect

from app import main
from app.stream import subscriber
from tests.chaos.proxy import Proxy, proxying
from tests.databases import Database
from tests.integration.stream_harness import Client, Market, Running, eventually, serving


@asynccontextmanager
async def far_client(running: Running) -> AsyncIterator[Proxy]:
    """A client that is told of trades through a network that can go away."""
    port = int(running.url.rpartition(":")[2])
    async with (
        proxying("127.0.0.1", port) as proxy,
        connect(f"ws://127.0.0.1:{proxy.port}/api/v1/stream", ping_interval=None) as socket,
    ):
        client = Client(socket)
        await client.subscribe("trades", "ONE")
        await client.until_type("snapshot")
        yield proxy
        socket.transport.abort()


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


def conversations() -> int:
    return sum(task.get_name() in ("stream reader", "stream sender", "stream joiner") for task in asyncio.all_tasks())


async def gone(running: Running) -> None:
    """Return once one client is left, and nothing of the other."""
    await eventually(lambda: len(running.stream.hub.subscribers) == 1)
    await eventually(lambda: len(running.connections) == 1)
    await eventually(lambda: conversations() == 3)


async def test_silent_client_that_vanished_is_noticed_by_pings_it_does_not_answer(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "PING_SECONDS", 1.0)
    market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        async with far_client(running) as proxy:
            proxy.blackhole()
            await gone(running)
        await client.ask(op="ping")
        await client.until_type("heartbeat")


async def test_client_that_vanished_in_mid_flow_is_closed_and_others_miss_nothing(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "STALL_SECONDS", 0.5)
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.until_type("snapshot")
        async with far_client(running) as proxy:
            proxy.blackhole()
            last = 0
            while not running.stream.slow:
                await asyncio.to_thread(market.trade, one, range(last + 1, last + 501))
                last += 500
                await client.until_trade(last)
            await gone(running)
        assert client.trade_ids == [*range(1, last + 1)]
