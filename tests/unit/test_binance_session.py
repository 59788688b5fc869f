"""One Binance client's conversation: what it may ask, what it holds, and when streams come to life."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from app.binance import session as session_module
from app.binance.arrays import Arrays
from app.binance.forms import Forms
from app.binance.handshake import handshake
from app.binance.names import Names
from app.binance.outbox import Outbox
from app.binance.session import MAX_FRAME_BYTES, Session, Shared
from app.market.model import Instrument
from app.market.registry import Registry
from app.stream import budget
from app.stream.budget import TooManyMessages
from app.stream.hub import Hub
from app.stream.protocol import BadFrame, Close
from app.stream.ranges import IdRange
from tests.unit.stream_table import START, Table, instrument, tick

DAY = 86_400.0


class Floor:
    """A hub over a table, and the sessions of one process."""

    def __init__(self, instruments: list[Instrument]) -> None:
        self.table = Table()
        self.now = START
        self.hub = Hub(self.table, flush_seconds=0.02, clock=lambda: self.now)
        self.registry = Registry()
        self.registry.replace(instruments)
        names = Names(self.registry)
        history: Any = self.table
        self.arrays = Arrays(self.hub, history, self.registry)
        self.market = Shared(self.hub, history, self.registry, names, Forms(names), self.arrays)

    def trade(self, *ids: int, of: int = 1, seconds: float = 0) -> None:
        ticks = [tick(number, seconds, of=of) for number in ids]
        self.table.commit(*ticks)
        self.hub.publish(ticks)


class Talk:
    """A session, and what it was sent."""

    def __init__(self, floor: Floor, url: str, life: float) -> None:
        path, _, query = url.partition("?")
        asked = handshake(path, query)
        self.floor = floor
        self.outbox = Outbox(1 << 22, combined=asked.combined, unit=asked.unit)
        self.session = Session(floor.market, self.outbox, asked, life)
        self.joiner = asyncio.create_task(self.session.join_for_ever())
        self.frames: list[Any] = []

    def say(self, method: str, *params: Any, id: Any = 1, **more: Any) -> Any:  # noqa: A002  # as the wire calls it
        """Send a control frame; answers what has come since, its answer last."""
        frame = {"method": method, **({"params": [*params]} if params else {}), "id": id, **more}
        self.session.receive(json.dumps(frame))
        return self.read()[-1]

    def read(self) -> list[Any]:
        self.floor.hub.flush()
        fresh = [json.loads(frame) for frame in iter(self.outbox.take, None)]
        self.frames.extend(fresh)
        return fresh

    async def turns(self, count: int = 40) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
        self.read()

    async def second(self, number: int) -> list[list[str]]:
        """The symbols of each array that comes when so many seconds have passed since the start."""
        self.frames.clear()
        self.floor.now = START + timedelta(seconds=number)
        self.floor.hub.turn_clock()
        self.floor.hub.flush()
        await self.turns(5)
        return [sorted(one["s"] for one in frame) for frame in self.frames if isinstance(frame, list)]

    @property
    def trade_ids(self) -> list[int]:
        return [frame["t"] for frame in self.frames if frame.get("e") == "trade"]


@contextmanager
def patient() -> Iterator[pytest.MonkeyPatch]:
    """Any number of messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "MESSAGES_PER_SECOND", 10_000)
        yield patch


@asynccontextmanager
async def talk(
    url: str = "/ws", instruments: int = 2, *, floor: Floor | None = None, life: float = DAY
) -> AsyncIterator[Talk]:
    floor = floor or Floor([instrument(number) for number in range(1, instruments + 1)])
    floor.hub.go_live()
    arrays = asyncio.create_task(floor.arrays.run())
    with patient():
        made = Talk(floor, url, life)
        await made.turns()
        try:
            yield made
        finally:
            made.session.leave()
            for task in (made.joiner, arrays):
                task.cancel()
            await asyncio.wait([made.joiner, arrays])
    assert floor.hub.topics == []


async def test_streams_of_the_url_begin_at_once_and_go_on_live() -> None:
    async with talk("/stream?streams=t1@trade/t2@aggTrade&timeUnit=MICROSECOND") as t:
        t.floor.trade(1)
        t.floor.trade(2, of=2)
        assert [(frame["stream"], frame["data"]["s"]) for frame in t.read()] == [
            ("t1@trade", "T1"),
            ("t2@aggTrade", "T2"),
        ]
        assert t.frames[0]["data"]["T"] == tick(1).time_us


async def test_subscribe_is_answered_before_its_events_and_unsubscribe_after() -> None:
    async with talk() as t:
        t.floor.trade(1)
        assert t.say("SUBSCRIBE", "t1@ticker", "t1@trade", "t1@trade", id="x") == {"result": None, "id": "x"}
        await t.turns()
        t.floor.trade(2)
        t.read()
        assert [frame.get("e") for frame in t.frames] == [None, "24hrTicker", "trade"]
        assert t.say("LIST_SUBSCRIPTIONS", id=None) == {"result": ["t1@ticker", "t1@trade"], "id": None}
        t.floor.trade(3)
        assert t.say("UNSUBSCRIBE", "t1@trade", "t1@ticker", "t2@trade") == {"result": None, "id": 1}
        t.floor.trade(4)
        assert t.read() == []
        assert t.say("LIST_SUBSCRIPTIONS")["result"] == []


async def test_stream_of_an_unknown_symbol_comes_to_life_with_its_instrument() -> None:
    async with talk("/ws/t3@trade") as t:
        assert t.say("SUBSCRIBE", "t3@miniTicker", "T1@trade")["result"] is None
        assert t.say("LIST_SUBSCRIPTIONS")["result"] == ["t3@trade", "t3@miniTicker", "T1@trade"]
        assert t.floor.hub.topics == []
        t.floor.registry.replace([instrument(number) for number in range(1, 4)])
        await t.turns()
        t.floor.trade(1, of=1)
        t.floor.trade(1, of=3)
        assert [frame["s"] for frame in t.read()] == ["T3"]


@pytest.mark.parametrize("name", ["t1@depth", "t1", "", "t1@kline_2m", "!trade@arr", "t 1@trade", '"@trade'])
async def test_name_that_no_stream_can_have_is_refused_and_nothing_of_the_request_is_done(name: str) -> None:
    async with talk() as t:
        refused = t.say("SUBSCRIBE", "t1@trade", name, id=9)
        assert (refused["code"], refused["id"]) == (2, 9)
        assert repr(name) in refused["msg"]
        assert t.say("LIST_SUBSCRIPTIONS")["result"] == []
        assert t.say("UNSUBSCRIBE", name)["result"] is None


async def test_connection_holds_1024_streams_and_not_one_more() -> None:
    async with talk() as t:
        names = [f"coinbase.ticker{number}@kline_15m@+05:45" for number in range(1, 1_025)]
        assert t.say("SUBSCRIBE", *names)["result"] is None, "all in one message"
        assert t.say("SUBSCRIBE", *names[:9])["result"] is None
        refused = t.say("SUBSCRIBE", names[0], "t1@ticker", id=4)
        assert (refused["code"], refused["id"]) == (2, 4)
        assert len(t.say("LIST_SUBSCRIPTIONS")["result"]) == 1_024
        assert t.say("UNSUBSCRIBE", names[0])["result"] is None
        assert t.say("SUBSCRIBE", "t1@ticker")["result"] is None


async def test_property_combined_switches_how_events_are_wrapped() -> None:
    async with talk("/ws/t1@trade") as t:
        assert t.say("GET_PROPERTY", "combined")["result"] is False
        t.floor.trade(1)
        t.read()
        assert t.say("SET_PROPERTY", "combined", True)["result"] is None
        t.floor.trade(2)
        t.read()
        assert t.say("GET_PROPERTY", "combined")["result"] is True
        events = [frame for frame in t.frames if "result" not in frame]
        assert events[0]["t"] == 1
        assert (events[1]["stream"], events[1]["data"]["t"]) == ("t1@trade", 2)


async def test_kline_is_told_each_two_seconds_and_at_once_where_it_closes() -> None:
    async with talk("/ws/t1@kline_1m") as t:
        t.floor.trade(1)
        assert t.read() == []
        t.floor.now = tick(1, 1.9).time
        t.floor.trade(2, seconds=1)
        assert t.read() == []
        t.floor.now = tick(1, 2).time
        assert [(k["k"]["n"], k["k"]["x"]) for k in t.read()] == [(2, False)]
        t.floor.trade(3, seconds=60)
        assert [(k["k"]["n"], k["k"]["x"]) for k in t.read()] == [(2, True)]
        t.floor.now = tick(1, 64).time
        assert [(k["k"]["n"], k["k"]["x"]) for k in t.read()] == [(1, False)]


async def test_array_brings_the_tickers_that_changed_in_one_frame_each_second() -> None:
    async with talk("/ws/!miniTicker@arr", 3) as t:
        await t.turns(200)
        assert await t.second(1) == []
        t.floor.trade(1, of=1)
        t.floor.trade(1, of=3)
        await t.turns()
        assert t.frames == []
        assert await t.second(2) == [["T1", "T3"]]
        t.floor.registry.replace([instrument(number) for number in (1, 4)])
        await t.turns(200)
        t.floor.trade(2, of=1)
        t.floor.trade(2, of=3)
        t.floor.trade(1, of=4)
        assert await t.second(3) == [["T1", "T4"]]


async def test_array_leaves_out_what_the_turn_of_a_minute_does_not_change() -> None:
    async with talk("/ws/!ticker@arr", 3) as t:
        await t.turns(200)
        t.floor.trade(1, of=1)
        assert await t.second(1) == [["T1"]]
        # The trade leaves the five minutes of the average price, which another stream tells of.
        assert [second for second in range(2, 400) if await t.second(second)] == [360]
        t.floor.now = START + timedelta(days=1, seconds=30)
        t.floor.hub.turn_clock()
        assert await t.second(86_400 + 60) == [["T1"]], "the trade left the window"


async def test_array_is_gathered_once_for_all_clients_of_its_form() -> None:
    floor = Floor([instrument(number) for number in (1, 2)])
    async with talk("/ws/!ticker@arr", floor=floor) as one:
        other = Talk(floor, "/stream?streams=!ticker@arr", DAY)
        await one.turns(200)
        assert [len(topic.audiences) for topic in floor.hub.topics] == [1, 1]
        assert [len(topic.subscribers) for topic in floor.hub.topics] == [1, 1]
        floor.trade(1)
        assert await one.second(1) == [["T1"]]
        assert [frame["stream"] for frame in other.read()] == ["!ticker@arr"]
        one.say("UNSUBSCRIBE", "!ticker@arr")
        floor.trade(2)
        assert await one.second(2) == []
        assert [one["s"] for frame in other.read() for one in frame["data"]] == ["T1"]
        other.session.leave()
        other.joiner.cancel()
        await asyncio.wait([other.joiner])


async def test_resumption_brings_what_came_after_the_id_and_then_goes_live() -> None:
    floor = Floor([instrument(1)])
    floor.trade(*range(1, 11))
    async with talk("/ws/t1@trade?resume=4", floor=floor) as t:
        floor.trade(11, 12)
        t.read()
        assert t.trade_ids == [*range(5, 13)]
        t.say("UNSUBSCRIBE", "t1@trade")
        t.say("SUBSCRIBE", "t1@trade")
        await t.turns()
        floor.trade(13)
        t.read()
        assert t.trade_ids == [*range(5, 14)]


async def test_resumption_above_everything_begins_live() -> None:
    floor = Floor([instrument(1)])
    floor.trade(1, 2, 3)
    async with talk("/ws/t1@trade?resume=99&events=gap", floor=floor) as t:
        floor.trade(4)
        t.read()
        assert [(frame["e"], frame["t"]) for frame in t.frames] == [("trade", 4)]


@pytest.mark.parametrize("asked", [True, False])
async def test_gaps_are_told_to_who_asked_and_to_nobody_else(asked: bool) -> None:
    async with talk("/ws/t1@trade" + "?events=gap" * asked) as t:
        t.floor.trade(1)
        t.floor.trade(4)
        t.read()
        t.floor.table.commit(tick(2), tick(3))
        t.floor.table.filled.append(IdRange(2, 3))
        t.floor.hub.doubt(instrument(1).id)
        await t.floor.hub._read_round()
        t.read()
        told = [(frame.get("t"), frame.get("f"), frame.get("l"), frame.get("r")) for frame in t.frames]
        gaps = [(None, 2, 3, "missing"), (None, 2, 3, "late")] if asked else [None, None]
        wanted = [(1, None, None, None), gaps[0], (4, None, None, None), gaps[1]]
        assert told == [one for one in wanted if one is not None]


async def test_messages_beyond_five_a_second_end_the_connection() -> None:
    now = 0.0
    async with talk() as t:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_module, "MESSAGES_PER_SECOND", 5)
            patch.setattr(budget.time, "monotonic", lambda: now)
            fresh = Session(t.floor.market, t.outbox, handshake("/ws", ""), DAY)
            for _ in range(4):
                fresh.receive('{"method":"LIST_SUBSCRIPTIONS","id":1}')
            fresh.heard()
            with pytest.raises(TooManyMessages):
                fresh.receive('{"method":"LIST_SUBSCRIPTIONS","id":1}')
            now = 0.5
            fresh.heard()
            assert not t.outbox.ended.done()
            fresh.heard()
            assert t.outbox.ended.result() is Close.TOO_MANY


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 9_000,
        '{"method":7}',
        '{"method":"SUBSCRIBE","params":{},"id":1}',
        '"\\ud800"',
        "\0",
    ],
)
async def test_frame_that_is_no_request_is_answered_by_an_error(frame: str) -> None:
    async with talk() as t:
        t.session.receive(frame)
        assert set(t.read()[-1]) >= {"code", "msg"}
        assert t.say("LIST_SUBSCRIPTIONS")["result"] == []


async def test_frame_beyond_the_limit_ends_the_connection() -> None:
    async with talk() as t:
        with pytest.raises(BadFrame):
            t.session.receive(" " * (MAX_FRAME_BYTES + 1))
        with pytest.raises(BadFrame):
            t.session.receive("Ä" * (MAX_FRAME_BYTES // 2 + 1))


async def test_connection_ends_with_its_life_and_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    turn = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
            await turn.wait()
            turn.clear()
        await yielded(0)

    yielded = asyncio.sleep
    monkeypatch.setattr(session_module.asyncio, "sleep", sleep)
    async with talk("/stream") as t:
        assert slept == [DAY - 60]
        assert t.frames == []
        turn.set()
        await t.turns()
        assert slept == [DAY - 60, 60]
        assert [frame["stream"] for frame in t.frames] == ["!serverShutdown"]
        delivering = asyncio.create_task(t.outbox.deliver(lambda _: yielded(0)))
        await t.turns()
        assert not delivering.done()
        turn.set()
        await asyncio.wait_for(delivering, 5)
