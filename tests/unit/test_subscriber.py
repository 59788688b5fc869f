"""One client's outbox: what it keeps, what it drops and tells of, and when it gives the client up."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.stream import subscriber as subscriber_module
from app.stream.protocol import Close
from app.stream.subscriber import FRAME_BYTES, Chunk, Subscriber

SYMBOL = "TEST:ONE"


def chunk(first: int, last: int, *, size: int = 0) -> Chunk:
    events = [(i, json.dumps({"type": "trade", "trade_id": i, "x": "." * size})) for i in range(first, last + 1)]
    return Chunk(SYMBOL, events)


def drained(subscriber: Subscriber) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    while (frame := subscriber.take()) is not None:
        events.extend(json.loads(frame))
    return events


async def test_frame_joins_what_waits_in_the_order_it_was_pushed() -> None:
    subscriber = Subscriber(1_000_000)
    for number in range(3):
        subscriber.push(str(number))
    subscriber.push_latest("ticker", '"t"')
    assert subscriber.take() == '[0,1,2,"t"]'
    assert subscriber.take() is None


async def test_trades_below_what_the_client_has_are_left_out() -> None:
    subscriber = Subscriber(1_000_000)
    subscriber.follow_trades(SYMBOL, 5)
    for first, last in ((1, 4), (3, 7), (6, 7), (8, 9)):
        subscriber.push_trades(SYMBOL, chunk(first, last))
    assert [event["trade_id"] for event in drained(subscriber)] == [6, 7, 8, 9]


async def test_trades_beyond_the_limit_become_one_gap_after_what_was_queued_before() -> None:
    subscriber = Subscriber(10_000)
    subscriber.follow_trades(SYMBOL, 0)
    for first in range(1, 101, 10):
        subscriber.push_trades(SYMBOL, chunk(first, first + 9, size=200))
    kept = 100 - subscriber.dropped
    assert 0 < kept < 100
    events = drained(subscriber)
    assert [event.get("trade_id") for event in events[:-1]] == [*range(1, kept + 1)]
    assert events[-1] == {"type": "gap", "symbol": SYMBOL, "from_id": kept + 1, "to_id": 100, "reason": "slow"}
    subscriber.push_trades(SYMBOL, chunk(101, 101))
    assert [event["trade_id"] for event in drained(subscriber)] == [101]


async def test_newest_of_a_key_takes_the_place_of_the_unsent() -> None:
    subscriber = Subscriber(1_000_000)
    for number in range(3):
        subscriber.push_latest("candle", f'"{number}"')
        subscriber.push_latest("ticker", f'"t{number}"')
    subscriber.forget_latest("ticker")
    assert subscriber.take() == '["2"]'
    assert subscriber.conflated == 4


async def test_frame_is_closed_with_the_event_that_passes_its_size() -> None:
    subscriber = Subscriber(10_000_000)
    for _ in range(100):
        subscriber.push('"' + "x" * 9_998 + '"')
    for number in range(100):
        subscriber.push_latest(number, '"' + "y" * 9_998 + '"')
    frames = []
    while (frame := subscriber.take()) is not None:
        frames.append(frame)
    assert max(map(len, frames)) < FRAME_BYTES + 10_100
    assert sum(len(json.loads(frame)) for frame in frames) == 200


async def test_outbox_of_what_may_not_be_dropped_ends_the_client_at_twice_its_limit() -> None:
    subscriber = Subscriber(10_000)
    for _ in range(20):
        subscriber.push('"' + "x" * 998 + '"')
        assert not subscriber.ended.done()
    subscriber.push("1")
    assert subscriber.ended.result() is Close.SLOW_CONSUMER
    assert subscriber.take() is None
    subscriber.push("2")
    subscriber.push_latest("key", "3")
    assert subscriber.take() is None


async def test_room_is_there_until_half_the_limit_is_filled_and_again_at_a_quarter() -> None:
    subscriber = Subscriber(400_000)
    text = '"' + "x" * 65_534 + '"'
    for _ in range(4):
        subscriber.push(text)
    waiting = asyncio.ensure_future(subscriber.room())
    for left in (3, 2):
        subscriber.take()
        await asyncio.sleep(0)
        assert not waiting.done(), left
    subscriber.take()
    await waiting


async def test_frame_not_taken_in_time_ends_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber_module, "STALL_SECONDS", -1.0)
    subscriber = Subscriber(100_000)
    subscriber.push("1")
    blocked = asyncio.Event()

    async def send(_: str) -> None:
        await blocked.wait()

    sender = asyncio.create_task(subscriber.deliver(send))
    assert subscriber.check(60, "2")
    assert not subscriber.ended.done(), "nothing is on its way yet"
    await asyncio.sleep(0)
    assert not subscriber.check(60, "2")
    assert subscriber.check(60, "2"), "ended once"
    assert await subscriber.ended is Close.SLOW_CONSUMER
    sender.cancel()
    await asyncio.wait([sender])


async def test_silence_is_broken_by_a_heartbeat_and_nothing_else_is() -> None:
    subscriber = Subscriber(100_000)
    subscriber.check(60, '"beat"')
    assert subscriber.take() is None
    subscriber.check(0, '"beat"')
    subscriber.check(0, '"beat"')
    assert subscriber.take() == '["beat"]'


async def test_finish_delivers_what_waits_and_its_own_event_last() -> None:
    subscriber = Subscriber(100_000)
    sent: list[str] = []

    async def send(frame: str) -> None:
        sent.append(frame)

    sender = asyncio.create_task(subscriber.deliver(send))
    await asyncio.sleep(0)
    subscriber.push("1")
    subscriber.finish('"bye"')
    subscriber.push("2")
    await sender
    assert sent == ['[1,"bye"]']


async def test_other_tasks_run_between_the_frames_of_a_backlog() -> None:
    subscriber = Subscriber(10_000_000)
    for _ in range(50):
        subscriber.push('"' + "x" * FRAME_BYTES + '"')
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(_: str) -> None:
        """As uvicorn's, which does not wait while the socket takes more."""

    counting = asyncio.create_task(count())
    subscriber.finish('"bye"')
    await subscriber.deliver(send)
    counting.cancel()
    assert turns >= 49


STEPS = st.lists(st.one_of(st.integers(1, 40), st.just("take"), st.just("latest")), max_size=60)


@given(steps=STEPS, limit=st.integers(1_000, 20_000))
@settings(max_examples=200, deadline=None)
def test_outbox_never_holds_more_than_its_limit_of_trades_and_tells_of_all_it_dropped(
    steps: list[int | str], limit: int
) -> None:
    async def run() -> None:
        subscriber = Subscriber(limit)
        subscriber.follow_trades(SYMBOL, 0)
        last, reached, events = 0, 0, []
        for step in steps:
            if step == "take":
                events += json.loads(subscriber.take() or "[]")
            elif step == "latest":
                subscriber.push_latest("ticker", '{"type":"ticker"}')
            else:
                assert isinstance(step, int)
                subscriber.push_trades(SYMBOL, chunk(last + 1, last + step, size=20))
                last += step
            assert subscriber._bytes == sum(map(len, subscriber._queue))
            assert subscriber._bytes <= limit + 100  # and a gap event
        events += drained(subscriber)
        for event in events:
            if event["type"] == "trade":
                assert event["trade_id"] == reached + 1
                reached += 1
            elif event["type"] == "gap":
                assert event["from_id"] == reached + 1
                reached = event["to_id"]
        assert reached == last

    asyncio.run(run())
