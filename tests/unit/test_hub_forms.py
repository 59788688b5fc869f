"""Clients of several kinds on one topic: each is told in its form, at its pace, and each form is written once."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from app.market.intervals import Interval
from app.market.model import Candle, Instrument, Trade
from app.stream.form import NATIVE, NativeForm
from app.stream.hub import Hub
from app.stream.keys import CandlesKey, Key, TickerKey, TradesKey
from app.stream.subscriber import Subscriber
from app.stream.subscription import Subscription
from tests.unit.stream_table import Table, instrument, tick


class Paced(NativeForm):
    """Tells an open candle and a ticker every two seconds; counts what it writes."""

    pace = 2
    snapshot_trades = 0

    def __init__(self) -> None:
        self.written = 0

    def trade(self, instrument: Instrument, trade: Trade) -> str:
        self.written += 1
        return super().trade(instrument, trade)

    def candle(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> str:
        self.written += 1
        return super().candle(instrument, key, candle)

    def correction(self, instrument: Instrument, key: CandlesKey, candle: Candle) -> None:  # type: ignore[override]
        return None

    def first_trades(self, instrument: Instrument, trades: list[Trade]) -> str:
        raise AssertionError("no snapshot is wanted")


class World:
    def __init__(self) -> None:
        self.table = Table()
        self.hub = Hub(self.table, flush_seconds=0.02, clock=lambda: self.table.now)
        self.hub.go_live()
        self.form = Paced()
        self.native, self.paced = Subscriber(1 << 20), Subscriber(1 << 20)
        self.reading = asyncio.create_task(self.hub._read_for_ever())

    async def join(self, key: Key) -> None:
        for subscriber, form in ((self.native, NATIVE), (self.paced, self.form)):
            await Subscription(self.hub, self.table, subscriber, instrument(), key, form).join()  # type: ignore[arg-type]
        self.read(self.native)
        self.read(self.paced)
        self.form.written = 0

    def trade(self, *ids: int) -> None:
        start = self.table.now
        ticks = [tick(i, (start - tick(1).time).total_seconds()) for i in ids]
        self.table.commit(*ticks)
        self.hub.publish(ticks)
        self.hub.flush()

    def turn(self, seconds: float) -> None:
        self.table.now += timedelta(seconds=seconds)
        self.hub.turn_clock()
        self.hub.flush()

    @staticmethod
    def read(subscriber: Subscriber) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while (frame := subscriber.take()) is not None:
            events.extend(json.loads(frame))
        return events


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.table.now = tick(1).time + timedelta(seconds=10)
    made.hub.flush()
    yield made
    made.reading.cancel()
    await asyncio.wait([made.reading])


async def test_trades_reach_clients_of_each_form_at_once_and_are_written_once_for_all(world: World) -> None:
    await world.join(TradesKey(instrument().id))
    another = Subscriber(1 << 20)
    key = TradesKey(instrument().id)
    await Subscription(world.hub, world.table, another, instrument(), key, world.form).join()  # type: ignore[arg-type]
    world.trade(1, 2, 4)
    for subscriber in (world.native, world.paced, another):
        told = [event.get("trade_id", event["type"]) for event in world.read(subscriber)]
        assert told == [1, 2, "gap", 4]
    assert world.form.written == 3


async def test_open_candle_is_told_at_the_pace_of_each_form(world: World) -> None:
    world.trade(1)
    await world.join(CandlesKey(instrument().id, Interval.M1, "UTC"))
    world.trade(2)
    world.turn(1)
    assert [event["trades"] for event in world.read(world.native)] == [2]
    assert world.read(world.paced) == []
    world.trade(3)
    world.turn(1)
    assert [event["trades"] for event in world.read(world.paced)] == [3]
    world.turn(2)
    assert world.read(world.paced) == [], "nothing changed"


async def test_closed_candle_is_told_at_once_in_every_form(world: World) -> None:
    world.trade(1)
    await world.join(CandlesKey(instrument().id, Interval.M1, "UTC"))
    world.trade(2)
    world.turn(50.5)
    for subscriber in (world.native, world.paced):
        assert [(e["trades"], e["closed"]) for e in world.read(subscriber)][-1:] == [(2, True)]


async def test_ticker_is_told_at_the_pace_of_each_form_and_overslept_beats_are_made_up_for(world: World) -> None:
    world.trade(1)
    await world.join(TickerKey(instrument().id))
    world.turn(1)
    world.trade(2)
    assert len(world.read(world.native)) == 1
    assert world.read(world.paced) == []
    world.turn(7)
    assert [event["trades"] for event in world.read(world.paced)] == [2]


async def test_form_without_an_audience_is_neither_written_nor_kept(world: World) -> None:
    key = TradesKey(instrument().id)
    subscription = Subscription(world.hub, world.table, world.paced, instrument(), key, world.form)  # type: ignore[arg-type]
    await subscription.join()
    (topic,) = world.hub.topics
    assert [*topic.audiences] == [world.form]
    subscription.leave()
    assert not topic.audiences
    assert not world.hub.topics
