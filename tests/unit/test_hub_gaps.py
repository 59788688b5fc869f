"""Gaps that were told and then filled: who was told that trades are missing is told that they are there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.errors import DatabaseUnavailable
from app.market.model import Instrument, Trade
from app.market.registry import Registry
from app.market.store import Place
from app.stream import hub as hub_module
from app.stream.hub import Hub
from app.stream.ranges import IdRange
from app.stream.session import Session
from app.stream.subscriber import Subscriber
from tests.unit.stream_table import Table, instrument, tick

Told = tuple[int, int, str]


class Slow(Table):
    """A table whose pages of trades, once read, are held back until `gate` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Event()

    async def trades_after(self, of: Instrument, place: Place, after_id: int, limit: int) -> list[Trade]:
        page = await super().trades_after(of, place, after_id, limit)
        self.held.set()
        await self.gate.wait()
        return page


class Client:
    def __init__(self, world: "World") -> None:
        self.subscriber = Subscriber(1 << 20)
        self.session = Session(world.hub, world.table, world.registry, self.subscriber)  # type: ignore[arg-type]
        self.joiner = asyncio.create_task(self.session.join_for_ever())

    async def subscribe(self, channel: str = "trades", **more: Any) -> None:
        self.session.receive(json.dumps({"op": "subscribe", "channel": channel, "symbols": ["T1"], **more}))
        await turns()

    def read(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while (frame := self.subscriber.take()) is not None:
            events.extend(json.loads(frame))
        return events

    def gaps(self) -> list[Told]:
        return [(e["from_id"], e["to_id"], e["reason"]) for e in self.read() if e["type"] == "gap"]


class World:
    def __init__(self) -> None:
        self.table = Slow()
        self.hub = Hub(self.table, flush_seconds=0.02, clock=lambda: self.table.now)
        self.registry = Registry()
        self.registry.replace([instrument()])
        self.hub.go_live()
        self.reading = asyncio.create_task(self.hub._read_for_ever())
        self.tasks = [self.reading]

    def client(self) -> Client:
        made = Client(self)
        self.tasks.append(made.joiner)
        return made

    def trade(self, *ids: int) -> None:
        ticks = [tick(i, i / 1000) for i in ids]
        self.table.commit(*ticks)
        self.hub.publish(ticks)
        self.hub.flush()

    async def fill(self, from_id: int, to_id: int, *, told: bool = True) -> None:
        """As a repair does: not a word of the ticks, and then that the gap is filled."""
        ticks = [tick(i, i / 1000) for i in range(from_id, to_id + 1)]
        self.table.commit(*ticks)
        self.table.filled.append(IdRange(from_id, to_id))
        if told:
            self.hub.doubt(ticks[0].instrument_id)
            self.hub.touch(ticks[0].instrument_id, ticks[0].time, ticks[-1].time)
        await turns()
        self.hub.flush()


async def turns(count: int = 40) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "READ_PAUSE", 0)
    monkeypatch.setattr(hub_module, "RETRY_SECONDS", 0)


async def test_gap_that_was_told_and_is_filled_is_told_as_late_as_far_as_it_was_told() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe()
        w.trade(1, 5, 9)
        assert client.gaps() == [(2, 4, "missing"), (6, 8, "missing")]
        await w.fill(6, 8)
        assert client.gaps() == [(6, 8, "late")]
        await w.fill(2, 4)
        assert client.gaps() == [(2, 4, "late")]
        w.hub.doubt(instrument().id)
        await turns()
        assert client.gaps() == [], "told once"
        assert w.hub.gaps == 4


async def test_hole_that_was_bridged_in_order_is_told_to_nobody() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe()
        w.trade(1, 2, 3, 4)
        await w.fill(2, 3)
        assert client.gaps() == []


async def test_late_ticks_without_a_hole_between_them_settle_what_was_missing() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe()
        w.trade(1, 9)
        w.trade(3, 4)
        assert client.gaps() == [(2, 8, "missing"), (3, 4, "late")]
        w.trade(5, 7)
        assert client.gaps() == [(5, 7, "late")], "of which 6 is not there"
        await w.fill(2, 8)
        assert client.gaps() == [(2, 2, "late"), (5, 8, "late")]


async def test_gap_comes_before_the_corrections_that_it_causes() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe("candles", interval="1s")
        await client.subscribe()
        w.trade(1, 4, 1_500)
        client.read()
        await w.fill(2, 3)
        kinds = [event["type"] for event in client.read()]
        assert kinds == ["gap", "correction"]


async def test_gap_filled_while_the_listener_was_away_is_told_once_it_is_back() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe()
        w.trade(1, 9)
        client.read()
        w.hub.lose_feed()
        await w.fill(2, 8, told=False)
        assert client.gaps() == []
        w.hub.go_live()
        await turns()
        assert client.gaps() == [(2, 8, "late")]


async def test_gap_is_told_as_filled_though_the_first_reading_failed() -> None:
    async with world() as w:
        client = w.client()
        await client.subscribe()
        w.trade(1, 9)
        client.read()
        w.table.failure = DatabaseUnavailable("gone")
        await w.fill(2, 8)
        assert client.gaps() == []
        w.table.failure = None
        await turns()
        assert client.gaps() == [(2, 8, "late")]


async def test_gap_filled_between_the_reading_of_a_replay_and_its_telling_is_told_after_it() -> None:
    async with world() as w:
        w.trade(1, 9)
        client = w.client()
        w.table.gate.clear()
        await client.subscribe(since={"T1": 0})
        await w.table.held.wait()
        await w.fill(2, 8)
        w.table.gate.set()
        await turns()
        assert client.gaps() == [(2, 8, "missing"), (2, 8, "late")]


async def test_gap_told_and_filled_while_a_client_joins_reaches_it_in_that_order() -> None:
    async with world() as w:
        w.trade(1)
        client = w.client()
        w.table.gate.clear()
        await client.subscribe(since={"T1": 0})
        await w.table.held.wait()
        w.trade(9)
        await w.fill(2, 8)
        w.table.gate.set()
        await turns()
        assert client.gaps()[-2:] == [(2, 8, "missing"), (2, 8, "late")]


async def test_client_that_came_back_is_told_that_what_it_misses_is_there() -> None:
    async with world() as w:
        stays, comes_back = w.client(), w.client()
        await stays.subscribe()
        w.trade(1, 9)
        await comes_back.subscribe(since={"T1": 9})
        await w.fill(2, 8)
        assert comes_back.gaps() == [(2, 8, "late")]
