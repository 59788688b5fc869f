"""One client's conversation: limits, what it holds, and that nothing holds up its answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.market.registry import Registry
from app.stream import budget, protocol
from app.stream.budget import TooManyMessages
from app.stream.hub import Hub
from app.stream.session import Session
from app.stream.subscriber import Subscriber
from tests.unit.stream_table import Table, instrument, tick


class Talk:
    """A session over a table, and what it answered."""

    def __init__(self, instruments: int) -> None:
        self.table = Table()
        self.hub = Hub(self.table, flush_seconds=0.02)
        self.registry = Registry()
        self.registry.replace([instrument(number) for number in range(1, instruments + 1)])
        self.subscriber = Subscriber(1 << 22)
        self.session = Session(self.hub, self.table, self.registry, self.subscriber)  # type: ignore[arg-type]
        self.joiner = asyncio.create_task(self.session.join_for_ever())
        self.events: list[dict[str, Any]] = []

    def say(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Send a request; answers what has come since, the request's answer last."""
        self.session.receive(json.dumps({"op": op, **fields}))
        return self.read()

    def read(self) -> list[dict[str, Any]]:
        self.hub.flush()
        fresh: list[dict[str, Any]] = []
        while (frame := self.subscriber.take()) is not None:
            fresh.extend(json.loads(frame))
        self.events.extend(fresh)
        return fresh

    async def turns(self, count: int = 30) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
        self.read()


@asynccontextmanager
async def talk(instruments: int = 2, *, live: bool = True) -> AsyncIterator[Talk]:
    made = Talk(instruments)
    if live:
        made.hub.go_live()
    try:
        yield made
    finally:
        made.session.leave()
        made.joiner.cancel()
        await asyncio.wait([made.joiner])
        assert made.hub.topics == []


async def test_messages_beyond_ten_a_second_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(budget.time, "monotonic", lambda: now)
    async with talk() as t:
        for _ in range(10):
            t.say("ping")
        now = 0.1
        t.say("ping")
        with pytest.raises(TooManyMessages):
            t.say("ping")
        now = 1_000.0
        for _ in range(10):
            t.say("ping")
        with pytest.raises(TooManyMessages):
            t.say("ping")


async def test_connection_holds_1024_subscriptions_and_not_one_more() -> None:
    async with talk(600) as t:
        assert t.say("subscribe", channel="trades", symbols=["*"])[-1]["type"] == "subscribed"
        refused = t.say("subscribe", channel="ticker", symbols=["*"], id=9)[-1]
        assert (refused["code"], refused["id"]) == ("too_many_subscriptions", 9)
        some = [f"T{number}" for number in range(1, 425)]
        assert t.say("subscribe", channel="ticker", symbols=some)[-1]["type"] == "subscribed"
        assert t.say("subscribe", channel="ticker", symbols=some[:5])[-1]["type"] == "subscribed"
        assert t.say("subscribe", channel="ticker", symbols=["T425"])[-1]["code"] == "too_many_subscriptions"
        assert len(t.say("list")[-1]["subscriptions"]) == protocol.MAX_SUBSCRIPTIONS


async def test_unsubscribing_from_everything_includes_instruments_that_are_no_longer_active() -> None:
    async with talk(3) as t:
        t.say("subscribe", channel="trades", symbols=["*"])
        t.say("subscribe", channel="ticker", symbols=["T1"])
        await t.turns()
        t.registry.replace([instrument(1)])
        answer = t.say("unsubscribe", channel="trades", symbols=["*"])[-1]
        assert answer["symbols"] == ["TEST:T1", "TEST:T2", "TEST:T3"]
        assert t.say("list")[-1]["subscriptions"] == [{"channel": "ticker", "symbol": "TEST:T1"}]


async def test_answers_come_and_subscriptions_end_while_a_reading_hangs() -> None:
    async with talk() as t:
        t.table.pause = 10_000
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns()
        assert t.say("ping", id=1)[-1]["id"] == 1
        assert t.say("unsubscribe", channel="trades", symbols=["T1"])[-1]["type"] == "unsubscribed"
        assert t.say("list")[-1]["subscriptions"] == []
        assert t.hub.watches(instrument(1).id), "the reading goes on"


async def test_subscription_taken_up_anew_while_it_joined_sends_one_snapshot() -> None:
    async with talk() as t:
        t.table.pause = 3
        t.table.commit(tick(1))
        t.hub.publish([tick(1)])
        t.say("subscribe", channel="trades", symbols=["T1"])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        t.say("unsubscribe", channel="trades", symbols=["T1"])
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns(60)
        t.hub.publish([tick(2)])
        t.read()
        assert [event["type"] for event in t.events] == [
            "subscribed",
            "unsubscribed",
            "subscribed",
            "snapshot",
            "trade",
        ]


async def test_subscribing_again_changes_nothing_but_since_begins_anew() -> None:
    async with talk() as t:
        ticks = [tick(number) for number in range(1, 4)]
        t.table.commit(*ticks)
        t.hub.publish(ticks)
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns()
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns()
        assert [event["type"] for event in t.events] == ["subscribed", "snapshot", "subscribed"]
        t.say("subscribe", channel="trades", symbols=["T1"], since={"T1": 1})
        await t.turns()
        assert [event.get("trade_id") for event in t.events[3:]] == [None, 2, 3]


async def test_joining_waits_until_the_feed_has_begun() -> None:
    async with talk(live=False) as t:
        t.table.commit(tick(1))
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns()
        assert t.table.readings == 0
        t.hub.last[instrument(1).id] = (1, tick(1).time_us)
        t.hub.go_live()
        await t.turns()
        assert t.events[-1]["type"] == "snapshot"


async def test_topic_dropped_by_its_last_subscriber_stays_for_one_who_joins() -> None:
    async with talk() as t:
        other = Subscriber(1 << 20)
        joining = Session(t.hub, t.table, t.registry, other)  # type: ignore[arg-type]
        task = asyncio.create_task(joining.join_for_ever())
        t.say("subscribe", channel="trades", symbols=["T1"])
        await t.turns()
        t.table.pause = 5
        joining.receive('{"op":"subscribe","channel":"trades","symbols":["T1"]}')
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        t.say("unsubscribe", channel="trades", symbols=["T1"])
        t.hub.publish([tick(1)])
        await t.turns()
        t.hub.publish([tick(2)])
        t.hub.flush()
        frames = "".join(iter(lambda: other.take() or "", ""))
        assert frames.count('"type":"trade"') == 2
        joining.leave()
        task.cancel()
        await asyncio.wait([task])
