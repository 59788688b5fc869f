"""The database is lost in the middle of things: clients stay, and are caught up without hole or repeat."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from app.embedded import Server
from app.errors import DatabaseRefused
from app.stream import hub, listener, subscription
from app.stream.listener import Listener
from tests.databases import Database
from tests.integration.stream_harness import Client, Market, eventually, serving


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hub, listener, subscription):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)


@asynccontextmanager
async def trading(market: Market, instrument_id: int, first: int, batch: int = 10) -> AsyncIterator[list[int]]:
    """Trades go on, batch after batch; afterwards the list holds the last id."""
    stopping = asyncio.Event()
    last = [first - 1]

    async def trade() -> None:
        while not stopping.is_set():
            await asyncio.to_thread(market.trade, instrument_id, range(last[0] + 1, last[0] + 1 + batch))
            last[0] += batch

    task = asyncio.create_task(trade())
    try:
        yield last
    finally:
        stopping.set()
        await task


async def test_listener_cut_off_in_mid_flow_leaves_no_hole_and_no_repeat(
    any_database: Database, market: Market
) -> None:
    one, other = market.add("ONE"), market.add("OTHER", contiguous=False)
    market.trade(other, range(1, 5))
    async with serving(any_database) as running, running.client() as client, running.client() as late:
        await client.subscribe("trades", "ONE")
        await client.subscribe("candles", "ONE", interval="1m")
        await client.until_type("snapshot")
        async with trading(market, one, 1) as last:
            for _ in range(4):
                seen = last[0]
                while not await asyncio.to_thread(any_database.terminate, "tickwick listener"):
                    pass  # it is just connecting
                await late.subscribe("trades", "ONE", since={"ONE": seen // 2})
                await client.until_trade(seen + 20)
                await late.ask(op="unsubscribe", channel="trades", symbols=["ONE"])
        await late.subscribe("trades", "ONE", since={"ONE": 0})
        await client.until_trade(last[0])
        await late.until(lambda event: event["type"] == "trade" and event["trade_id"] == last[0])
        assert client.trade_ids == [*range(1, last[0] + 1)]
        assert not client.of_type("gap")
        assert late.trade_ids[-last[0] :] == [*range(1, last[0] + 1)]
        assert client.of_type("reset"), "past candles may have changed meanwhile"
        assert running.stream.listener.reconnects >= 4
        market.trade(other, range(7, 9))
        await late.subscribe("trades", "OTHER", since={"OTHER": 2})
        await late.until(lambda event: event.get("symbol") == "TEST:OTHER" and event.get("trade_id") == 8)
        ids = [event["trade_id"] for event in late.of_type("trade") if event["symbol"] == "TEST:OTHER"]
        assert ids == [3, 4, 7, 8]


async def test_pool_cut_off_in_the_middle_of_a_replay_holds_it_up_and_no_more(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "REPLAY_PAGE", 200)
    one = market.add("ONE")
    market.trade(one, range(1, 20_001), at=datetime.now(UTC) - timedelta(hours=5), step=100_000)
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE", since={"ONE": 0})
        for reached in (1, 3_000, 6_000):
            await client.until_trade(reached)
            await asyncio.to_thread(any_database.terminate, "tickwick serve")
        market.trade(one, [20_001])
        await client.until_trade(20_001)
        assert client.trade_ids == [*range(1, 20_002)]
        assert not client.of_type("error")


async def test_server_stopped_and_started_again_catches_clients_up(
    any_server: Server, any_database: Database, market: Market
) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 11))
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.subscribe("candles", "ONE", interval="1s")
        await client.until(lambda event: event["type"] == "snapshot" and event["channel"] == "candles")
        market.close()
        await asyncio.to_thread(any_server.stop)
        await eventually(lambda: not running.stream.hub.live)
        # Asked while the database is away: answered when it is back.
        await client.subscribe("ticker", "ONE")
        await client.ask(op="ping", id="still there")
        await client.until(lambda event: event.get("id") == "still there")
        await asyncio.to_thread(any_server.start)
        await asyncio.to_thread(market.reconnect)
        market.trade(one, range(11, 31), price="101.00")
        await client.until_trade(30)
        market.trade(one, range(31, 41), price="102.00")
        await client.until_trade(40)
        assert client.trade_ids == [*range(1, 41)]
        await eventually(lambda: running.stream.listener.live.is_set())
        await client.until(lambda event: event["type"] in ("ticker", "snapshot") and _last(event) == "102.00")
        await _candles_agree(client, running.get)


def _last(event: dict[str, object]) -> object:
    ticker = event.get("ticker") or event
    assert isinstance(ticker, dict)
    return ticker.get("last")


async def _candles_agree(client: Client, get: object) -> None:
    """Once the last bucket is over, all that the client was told equals what REST answers."""
    await client.until(lambda event: event.get("closed") and event.get("last_id") == 40)
    answer = await get("/api/v1/candles/TEST:ONE?interval=1s")  # type: ignore[operator]
    truth = {candle["time"]: candle for candle in answer["candles"]}
    told: dict[str, dict[str, object]] = {}
    for event in client.events:
        candles = event.get("candles", []) if event["type"] == "snapshot" else [event]
        for candle in candles:
            if event["type"] in ("snapshot", "candle", "correction") and "last_id" in candle:
                told[candle["time"]] = candle
    closed = {time: candle for time, candle in told.items() if candle["closed"]}
    assert closed
    for time, candle in closed.items():
        assert {name: candle[name] for name in truth[time]} == truth[time]


async def test_ticks_stored_while_nobody_listened_are_replayed_to_those_who_watch(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PAGE", 300)
    monkeypatch.setattr(listener, "RETRY_SECONDS", 0.5)
    one, unwatched = market.add("ONE"), market.add("UNWATCHED")
    market.trade(one, [1])
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.until_type("snapshot")
        any_database.terminate("tickwick listener")
        await eventually(lambda: not running.stream.hub.live)
        market.trade(one, range(2, 1_501), step=10)
        market.trade(unwatched, range(1, 101))
        await client.until_trade(1_500)
        assert client.trade_ids == [*range(1, 1_501)]
        await eventually(lambda: running.stream.hub.live)
        assert running.stream.hub.last_id(unwatched) == 100  # type: ignore[arg-type]


async def test_listener_that_is_refused_ends_its_task(any_database: Database, market: Market) -> None:
    market.add("ONE")
    async with serving(any_database) as running:
        refused = Listener(any_database.dsn + " dbname=absent", running.stream.hub, running.stream.listener._registry)
        with pytest.raises(DatabaseRefused):
            await refused.run()
