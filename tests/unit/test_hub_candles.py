"""Candles and tickers of the hub: seeded from the table, closed by the clock, corrected, and in the end equal to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DatabaseUnavailable
from app.market.intervals import Interval
from app.market.model import Candle, Tick, to_micros
from app.market.registry import Registry
from app.stream import hub as hub_module
from app.stream import topic as topic_module
from app.stream import topics
from app.stream.hub import Hub
from app.stream.session import Session
from app.stream.subscriber import Subscriber
from tests.unit.stream_table import START, Table, candles_of, instrument, tick

MINUTE = timedelta(minutes=1)


class World:
    """A hub whose clock is turned by hand, and one client that keeps what it is told of one-minute candles."""

    def __init__(self) -> None:
        self.table = Table()
        self.hub = Hub(self.table, flush_seconds=0.02, clock=lambda: self.table.now)
        self.instrument = instrument()
        registry = Registry()
        registry.replace([self.instrument])
        self.subscriber = Subscriber(1 << 20)
        self.session = Session(self.hub, self.table, registry, self.subscriber)  # type: ignore[arg-type]
        self.tasks = [
            asyncio.create_task(self.session.join_for_ever()),
            asyncio.create_task(self.hub._read_for_ever()),
        ]
        self.events: list[dict[str, Any]] = []
        self.known: dict[datetime, Candle] = {}
        self.since: datetime | None = None
        self.hub.go_live()

    async def subscribe(self, channel: str = "candles", **more: Any) -> None:
        if channel == "candles":
            more = {"interval": "1m", **more}
        request = {"op": "subscribe", "channel": channel, "symbols": ["T1"], **more}
        self.session.receive(json.dumps(request))
        await self.turns()
        self.read()

    async def turns(self, count: int = 25) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    def pass_time(self, seconds: float) -> None:
        self.table.now += timedelta(seconds=seconds)

    def trade(self, *ticks: Tick) -> None:
        self.table.commit(*ticks)
        self.hub.publish(ticks)

    def read(self) -> list[dict[str, Any]]:
        """Hand out, and answer what the client was told since the last time."""
        self.hub.turn_clock()
        self.hub.flush()
        fresh: list[dict[str, Any]] = []
        while (frame := self.subscriber.take()) is not None:
            fresh.extend(json.loads(frame))
        for event in fresh:
            self._take(event)
        self.events.extend(fresh)
        return fresh

    def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "snapshot" if event["channel"] == "candles":
                for raw in event["candles"]:
                    self._keep(raw)
                if self.since is None:
                    self.since = min(self.known, default=self.table.now - MINUTE)
            case "candle" | "correction":
                self._keep(event)
            case "reset":
                self.known = {candle.time: candle for candle in self.truth()}

    def _keep(self, raw: dict[str, Any]) -> None:
        fields = {name: value for name, value in raw.items() if name in Candle.__struct_fields__}
        candle = msgspec.convert(fields, Candle)
        self.known[candle.time] = candle

    def truth(self) -> list[Candle]:
        return candles_of(self.table.ticks, Interval.M1, self.table.now)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        made.session.leave()
        for task in made.tasks:
            task.cancel()
        results = await asyncio.gather(*made.tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
        assert not made.hub.topics
        assert not made.hub._topics


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


async def test_candle_is_closed_by_the_clock_within_250_ms_though_nothing_trades() -> None:
    async with world() as w:
        await w.subscribe()
        w.trade(tick(1, 1))
        w.pass_time(60)
        assert kinds(w.read()) == ["candle"]
        assert not w.events[-1]["closed"]
        w.pass_time(0.250 - hub_module.CLOCK_SECONDS - 2 * 0.02)
        (closed,) = w.read()
        assert closed["closed"]
        assert closed["complete"]
        assert list(w.known.values()) == w.truth()
        assert w.read() == []


async def test_snapshot_of_candles_is_the_last_closed_one_and_the_open_one() -> None:
    async with world() as w:
        w.table.commit(tick(1, -130), tick(2, -30), tick(3, 1))
        await w.subscribe()
        snapshot = w.events[1]
        assert [candle["closed"] for candle in snapshot["candles"]] == [True, False]
        assert list(w.known.values()) == w.truth()[-2:]


async def test_snapshot_comes_before_all_other_events_of_its_topic() -> None:
    async with world() as w:
        w.table.pause = 3
        w.session.receive('{"op":"subscribe","channel":"candles","symbols":["T1"],"interval":"1m"}')
        for number in range(12):
            w.trade(tick(number, number))
            w.read()
            await asyncio.sleep(0)
        await w.turns()
        w.read()
        assert kinds(w.events)[:3] == ["subscribed", "snapshot", "candle"]
        assert list(w.known.values()) == w.truth()


async def test_late_tick_of_a_past_candle_sends_its_correction() -> None:
    async with world() as w:
        w.table.commit(tick(1, -30), tick(3, 1))
        await w.subscribe()
        w.trade(tick(3 + 1, 2))
        w.trade(tick(2, -29.5, price="77.00"))
        await w.turns()
        correction = next(event for event in w.read() if event["type"] == "correction")
        assert correction["low"] == "77.00"
        assert list(w.known.values()) == w.truth()
        assert w.hub.counters.late == 1


async def test_candle_that_the_clock_closed_before_a_gap_showed_is_corrected_to_incomplete() -> None:
    async with world() as w:
        await w.subscribe()
        w.trade(tick(1, 0), tick(2, 10))
        w.pass_time(61)
        (closed,) = [event for event in w.read() if event["closed"]]
        assert (closed["type"], closed["complete"]) == ("candle", True)
        w.trade(tick(5, 61))
        await w.turns()
        (correction,) = [event for event in w.read() if event["type"] == "correction"]
        assert correction == {**closed, "type": "correction", "complete": False}
        w.pass_time(61)
        (closed,) = [event for event in w.read() if event["closed"]]
        assert closed["complete"] is False


async def test_late_tick_that_comes_while_its_candle_is_read_for_another_is_not_forgotten() -> None:
    async with world() as w:
        w.trade(tick(1_000, 0))
        await w.subscribe()
        w.pass_time(60)
        w.trade(tick(1_001, 60))
        w.table.pause = 2
        w.trade(tick(999, 59, price="77.00"))
        await w.turns(4)
        w.trade(tick(998, 59, price="66.00"))
        await asyncio.sleep(2 * hub_module.READ_PAUSE)
        w.read()
        assert w.known[START] == w.truth()[0]


async def test_late_tick_that_makes_a_candle_where_there_was_none_tells_of_it() -> None:
    async with world() as w:
        w.trade(tick(1_000, 0))
        await w.subscribe()
        w.trade(tick(999, 0))
        w.pass_time(120)
        w.trade(
            tick(1_001, 120),
        )
        w.trade(tick(998, 119, price="66.00"))
        await asyncio.sleep(2 * hub_module.READ_PAUSE)
        w.read()
        assert [w.known[time] for time in sorted(w.known)] == w.truth()


async def test_late_tick_of_the_open_candle_has_it_read_anew() -> None:
    async with world() as w:
        w.trade(tick(5, 1))
        await w.subscribe()
        w.trade(tick(4, 0.5, price="50.00"))
        await w.turns()
        w.read()
        assert list(w.known.values()) == w.truth()
        assert "correction" not in kinds(w.events)


async def test_candle_closed_while_it_is_read_anew_is_told_of_once_and_whole() -> None:
    async with world() as w:
        w.trade(tick(5, 59))
        await w.subscribe()
        w.table.pause = 4
        w.trade(tick(4, 58.5, price="50.00"))
        w.pass_time(62)
        w.read()
        assert not any(event.get("closed") for event in w.events if event["type"] == "candle"), "known to be stale"
        await w.turns(40)
        w.read()
        assert [event["low"] for event in w.events if event.get("closed")] == ["50.00"]


async def test_late_tick_that_a_reading_finds_in_a_closed_candle_is_told_as_correction() -> None:
    """The clock has closed the candle between the late tick's commit and its notification."""
    async with world() as w:
        w.trade(tick(5, 59))
        await w.subscribe()
        late = tick(4, 58.5, price="50.00")
        w.table.commit(late)
        w.pass_time(61)
        assert [event["low"] for event in w.read()] == ["100.00"]
        w.hub.go_live()
        await w.turns()
        w.read()
        assert any(event["type"] == "correction" and event["low"] == "50.00" for event in w.events)
        assert w.known[START] == w.truth()[0]


async def test_candles_that_closed_while_reading_took_long_are_all_told_of() -> None:
    async with world() as w:
        w.trade(tick(1, 1))
        await w.subscribe()
        w.table.pause = 20
        w.hub.touch(w.instrument.id, START, START)
        await w.turns(5)
        for number, second in enumerate((61, 121, 181, 241), 2):
            w.pass_time(60)
            w.trade(tick(number, second))
            w.read()
        w.table.pause = 1
        for _ in range(4):
            await w.turns(60)
            await asyncio.sleep(hub_module.READ_PAUSE)
        w.read()
        assert sorted(w.known) == [candle.time for candle in w.truth()]
        assert [w.known[t] for t in sorted(w.known)] == w.truth()


async def test_change_wider_than_a_hundred_candles_sends_reset() -> None:
    async with world() as w:
        w.table.commit(tick(500, 1))
        await w.subscribe()
        w.table.commit(*(tick(n, -60 * (n + 1)) for n in range(101)))
        w.hub.touch(w.instrument.id, START - timedelta(hours=2), START - MINUTE)
        await w.turns()
        assert "reset" in kinds(w.read())
        assert "correction" not in kinds(w.events)


async def test_clock_closes_nothing_while_the_feed_is_lost() -> None:
    async with world() as w:
        w.trade(tick(1, 1))
        await w.subscribe()
        w.hub.lose_feed()
        w.table.commit(tick(2, 59, price="120.00"))
        w.pass_time(65)
        assert w.read() == []
        w.hub.publish([tick(2, 59, price="120.00")])
        w.hub.go_live()
        await w.turns()
        w.read()
        assert [event["close"] for event in w.events if event.get("closed")] == ["120.00"]
        assert "reset" in kinds(w.events)


async def test_replayed_ticks_are_closed_by_the_next_tick_and_by_the_clock_once_the_replay_stops() -> None:
    async with world() as w:
        w.pass_time(86_400 * 400)
        await w.subscribe()
        w.hub.publish([tick(1, 0)])
        w.read()
        w.pass_time(1)
        assert not any(event.get("closed") for event in w.read())
        w.hub.publish([tick(2, 61)])
        assert [event["closed"] for event in w.read()] == [True, False]
        w.pass_time(topics.REPLAY_LAG.total_seconds() + 1)
        assert [event["closed"] for event in w.read()] == [True]


async def test_reading_that_fails_is_made_again_and_the_topic_goes_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RETRY_SECONDS", 0.0)
    async with world() as w:
        await w.subscribe()
        w.table.failure = DatabaseUnavailable("gone")
        w.hub.go_live()
        await w.turns()
        w.trade(tick(1, 1))
        assert not [event for event in w.read() if event["type"] == "candle"]
        w.table.failure = None
        await asyncio.sleep(2 * hub_module.READ_PAUSE)
        w.read()
        assert list(w.known.values()) == w.truth()


async def test_topic_whose_reading_was_cancelled_is_read_for_those_who_still_wait() -> None:
    async with world() as w:
        await w.subscribe()
        (topic,) = w.hub.topics
        assert isinstance(topic, topics.CandlesTopic)
        topic.reading.begin()
        w.table.pause = 50
        reading = asyncio.create_task(w.hub.ready(topic))
        await w.turns(5)
        reading.cancel()
        await asyncio.wait([reading])
        w.table.pause = 0
        await asyncio.sleep(2 * hub_module.READ_PAUSE)
        w.trade(tick(1, 1))
        assert [event["type"] for event in w.read() if event["type"] == "candle"] == ["candle"]


async def test_ticks_that_outgrow_the_wait_for_a_reading_make_it_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_module, "MAX_WAITING", 10)
    async with world() as w:
        w.table.pause = 3
        w.session.receive('{"op":"subscribe","channel":"candles","symbols":["T1"],"interval":"1m"}')
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number in range(5):
            w.trade(*(tick(4 * number + n, number) for n in range(4)))
            await asyncio.sleep(0)
        await w.turns(40)
        w.read()
        assert list(w.known.values()) == w.truth()


async def test_ticker_given_a_tick_of_a_past_minute_is_read_anew() -> None:
    async with world() as w:
        w.pass_time(62)
        w.trade(tick(1, 61))
        await w.subscribe("ticker")
        # A higher id with an earlier time: fresh to the hub, but of a minute that the day has left behind.
        w.trade(tick(2, 1, price="1.00"))
        await w.turns()
        ticker = [event for event in w.read() if event["type"] == "ticker"][-1]
        assert (ticker["low"], ticker["trades"]) == ("1.00", 2)


async def test_ticker_moves_with_the_minute_though_nothing_trades() -> None:
    async with world() as w:
        w.table.commit(tick(1, -86_400 + 30), tick(2, 1))
        w.pass_time(5)
        await w.subscribe("ticker")
        assert w.events[-1]["ticker"]["trades"] == 2
        w.pass_time(60)
        assert [event["trades"] for event in w.read()] == [1]
        w.pass_time(60)
        assert w.read() == [], "nothing left the window"


async def test_topics_of_several_zones_are_apart_and_end_with_their_subscriptions() -> None:
    async with world() as w:
        w.trade(tick(1, 1))
        for zone in ("UTC", "Europe/Berlin", "Asia/Kathmandu"):
            await w.subscribe(interval="1d", timezone=zone)
        assert {topic.key[2] for topic in w.hub.topics} == {"UTC", "Europe/Berlin", "Asia/Kathmandu"}
        starts = {event["timezone"]: event["candles"][-1]["time"] for event in w.events if event["type"] == "snapshot"}
        assert starts["UTC"] == "2026-03-02T00:00:00Z"
        w.session.receive('{"op":"unsubscribe","channel":"candles","symbols":["*"],"interval":"1d"}')
        assert len(w.hub.topics) == 2


SECONDS = st.floats(0.01, 90)
ACTIONS = st.one_of(
    st.tuples(st.just("trade"), SECONDS, st.integers(1, 3)),
    st.tuples(st.just("late"), st.integers(0, 3), st.floats(0, 200)),
    st.tuples(st.just("unread"), st.integers(0, 3)),
    st.tuples(st.just("time"), SECONDS),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("read")),
    st.tuples(st.just("lose")),
)


@given(actions=st.lists(ACTIONS, max_size=40), pause=st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_candles_told_after_any_interleaving_equal_the_table(  # noqa: C901  # a list of actions, one line or two each
    actions: list[tuple[Any, ...]], pause: int
) -> None:
    async def run() -> None:
        async with world() as w:
            w.table.pause = pause
            w.table.commit(tick(1_000, 0))
            w.hub.publish([tick(1_000, 0)])
            await w.subscribe()
            next_id, late_id = 1_001, 999
            for action in actions:
                match action:
                    case ("trade", seconds, count):
                        w.pass_time(seconds)
                        at = (to_micros(w.table.now) - to_micros(START)) / 1e6
                        w.trade(*(tick(next_id + n, at, price=f"{90 + next_id % 20}.5") for n in range(count)))
                        next_id += count
                    case ("late", _, back):
                        at = max(0.0, (to_micros(w.table.now) - to_micros(START)) / 1e6 - back)
                        w.trade(tick(late_id, at, price=f"{90 + late_id % 20}.25"))
                        late_id -= 1
                    case ("time", seconds):
                        w.pass_time(seconds)
                    case ("turns", count):
                        await w.turns(count)
                    case ("read",):
                        w.read()
                    case ("lose",):
                        w.hub.lose_feed()
                        w.hub.go_live()
            # Ticks that were old when they were applied look like a replay, which the clock leaves alone for a while.
            for seconds in (0.0, topics.REPLAY_LAG.total_seconds() + 1):
                w.pass_time(seconds)
                for _ in range(6):
                    await w.turns(60)
                    w.read()
            assert w.since is not None
            truth = {candle.time: candle for candle in w.truth() if candle.time >= w.since}
            assert {time: candle for time, candle in w.known.items() if time >= w.since} == truth

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_module, "READ_PAUSE", 0)
        asyncio.run(run())


def test_clock_of_these_tests_is_in_utc() -> None:
    assert START.tzinfo is UTC


@pytest.mark.parametrize("channel", ["candles", "ticker"])
async def test_tick_that_was_read_before_it_was_notified_counts_once(channel: str) -> None:
    async with world() as w:
        w.trade(tick(1, 1), tick(2, 2))
        # Committed, and so read by whoever joins now; the notification is still on its way.
        w.table.commit(tick(3, 3))
        await w.subscribe(channel)
        w.hub.publish([tick(3, 3), tick(4, 4)])
        w.table.commit(tick(4, 4))
        told = [event for event in w.read() if event["type"] in ("candle", "ticker")]
        assert [(event["trades"], event["volume"]) for event in told] == [(4, "2.00")]
