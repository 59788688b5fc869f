"""One Binance client's outbox: an event a frame, conflation, arrays, bursts, and an end instead of a silent loss."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from app.binance import outbox as outbox_module
from app.binance.outbox import Array, Outbox
from app.stream import subscriber as subscriber_module
from app.stream.protocol import Close
from app.stream.subscriber import Batch, Chunk

TRADES = "one@trade"
KLINES = "one@kline_1m"


def array(*members: int) -> Array:
    return Array({number: str(number) for number in members})


def chunk(first: int, last: int, size: int = 0) -> Chunk:
    return Chunk("ONE", [(i, f'"{i}{"." * size}"') for i in range(first, last + 1)])


def drained(outbox: Outbox) -> list[Any]:
    return [json.loads(frame) for frame in iter(outbox.take, None)]


async def test_each_event_is_a_frame_in_the_order_it_was_pushed() -> None:
    outbox = Outbox(1_000_000)
    outbox.push('{"result":null}')
    outbox.push_all(Batch(["1", "2"]), KLINES)
    outbox.push("3", TRADES)
    assert drained(outbox) == [{"result": None}, 1, 2, 3]
    assert outbox.take() is None


async def test_combined_frames_tell_their_stream_and_answers_do_not() -> None:
    outbox = Outbox(1_000_000, combined=True)
    outbox.follow_trades(TRADES, 0)
    outbox.push('{"result":null}')
    outbox.push_trades(TRADES, chunk(1, 1))
    outbox.push_latest(KLINES, "2")
    outbox.push_array("!ticker@arr", array(3))
    assert drained(outbox) == [
        {"result": None},
        {"stream": "one@trade", "data": "1"},
        {"stream": "one@kline_1m", "data": 2},
        {"stream": "!ticker@arr", "data": [3]},
    ]


async def test_what_was_queued_before_the_property_changed_is_written_as_before() -> None:
    outbox = Outbox(1_000_000, combined=True)
    outbox.push("1", TRADES)
    outbox.combined = False
    outbox.push("2", TRADES)
    assert drained(outbox) == [{"stream": "one@trade", "data": 1}, 2]


async def test_trades_that_the_client_has_are_left_out() -> None:
    outbox = Outbox(1_000_000)
    outbox.follow_trades(TRADES, 5)
    for first, last in ((1, 4), (3, 7), (6, 7), (8, 9)):
        outbox.push_trades(TRADES, chunk(first, last))
    assert drained(outbox) == ["6", "7", "8", "9"]


async def test_newest_kline_takes_the_place_of_the_unsent_and_a_closed_one_does_not() -> None:
    outbox = Outbox(1_000_000)
    outbox.push_latest(KLINES, "1")
    outbox.push_latest(KLINES, "2")
    outbox.forget_latest(KLINES)
    outbox.push("3", KLINES)
    outbox.push_latest(KLINES, "4")
    assert drained(outbox) == [3, 4]
    assert outbox.conflated == 1


async def test_unsent_tickers_of_an_array_are_joined_by_newer_ones_each_its_newest() -> None:
    outbox = Outbox(1_000_000)
    outbox.push_array("!miniTicker@arr", array(7))
    outbox.push_array("!ticker@arr", array(1, 2))
    outbox.push_array("!ticker@arr", Array({2: "20", 3: "30"}))
    assert sorted(drained(outbox)) == [[1, 20, 30], [7]]
    assert outbox.conflated == 1
    outbox.push_array("!ticker@arr", array(1))
    outbox.forget_array("!ticker@arr")
    assert outbox.take() is None
    outbox.end(Close.SLOW_CONSUMER)
    outbox.push_array("!ticker@arr", array(1))
    assert outbox.take() is None


async def test_array_is_written_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def write(members: Iterable[str]) -> str:
        nonlocal written
        written += 1
        return "[]"

    monkeypatch.setattr(outbox_module.events, "array", write)
    shared = array(1, 2)
    for combined in (False, True):
        outbox = Outbox(1_000_000, combined=combined)
        outbox.push_array("!ticker@arr", shared)
        assert drained(outbox)
    assert written == 1


async def test_client_for_which_more_than_its_bound_waits_is_ended_and_costs_nothing_more() -> None:
    outbox = Outbox(10_000)
    outbox.follow_trades(TRADES, 0)
    outbox.push_array("!ticker@arr", array(1))
    for first in range(1, 31, 10):
        outbox.push_trades(TRADES, chunk(first, first + 9, size=1_000))
    assert outbox.ended.result() is Close.SLOW_CONSUMER
    outbox.push_array("!ticker@arr", array(1))
    assert outbox.take() is None
    assert outbox.dropped == 0


async def test_replay_waits_until_the_client_has_taken_what_was_queued() -> None:
    outbox = Outbox(10_000)
    outbox.push_all(Batch(['"' + "x" * 998 + '"'] * 6), TRADES)
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(4):
        outbox.take()
    await asyncio.wait_for(waiting, 1)


async def test_burst_of_frames_is_broken_by_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(1_000_000)
    sent: list[str] = []
    bursts: list[int] = []

    async def send(frame: str) -> None:
        sent.append(frame)

    async def sleep(seconds: float) -> None:
        if seconds:
            bursts.append(len(sent))
        await yielded(0)

    yielded = asyncio.sleep
    monkeypatch.setattr(outbox_module.asyncio, "sleep", sleep)
    outbox.push_all(Batch([str(number) for number in range(220)]), TRADES)
    outbox.retire()
    await outbox.deliver(send)
    assert [int(frame) for frame in sent] == [*range(220)]
    assert bursts == [50, 100, 150, 200]


async def test_backlog_beyond_what_a_replay_queues_is_sent_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BURST_PAUSE", 3_600)
    outbox = Outbox(1_000)
    outbox.push_all(Batch(['"' + "x" * 8 + '"'] * 199), TRADES)
    sent: list[str] = []

    async def send(frame: str) -> None:
        sent.append(frame)

    delivering = asyncio.create_task(outbox.deliver(send))
    for _ in range(500):
        await asyncio.sleep(0)
    assert len(sent) == 99
    delivering.cancel()
    await asyncio.wait([delivering])


async def test_shutdown_is_told_after_what_waits_in_the_form_of_the_connection() -> None:
    sent: list[Any] = []

    async def send(frame: str) -> None:
        sent.append(json.loads(frame))

    for combined in (False, True):
        outbox = Outbox(1_000_000, combined=combined, unit=1)
        outbox.push("1", TRADES)
        outbox.tell_shutdown()
        outbox.push("2", TRADES)
        await outbox.deliver(send)
    raw, wrapped = sent[1], sent[3]
    assert set(raw) == {"e", "E"}
    assert raw["e"] == "serverShutdown"
    assert raw["E"] > 10**15, "microseconds"
    assert wrapped == {"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": wrapped["data"]["E"]}}
    assert len(sent) == 4


async def test_retired_without_anything_waiting_is_done() -> None:
    outbox = Outbox(1_000_000)

    async def send(frame: str) -> None:
        raise AssertionError(frame)

    delivering = asyncio.create_task(outbox.deliver(send))
    await asyncio.sleep(0)
    outbox.retire()
    await asyncio.wait_for(delivering, 1)


async def test_silence_brings_no_heartbeat_and_a_frame_that_is_not_taken_ends_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscriber_module, "STALL_SECONDS", -1.0)
    outbox = Outbox(1_000_000)
    assert outbox.check(0, "heartbeat")
    assert outbox.take() is None
    outbox.push("1", TRADES)
    delivering = asyncio.create_task(outbox.deliver(lambda _: asyncio.Event().wait()))  # type: ignore[arg-type, return-value]
    await asyncio.sleep(0)
    assert not outbox.check(0, "heartbeat")
    assert outbox.ended.result() is Close.SLOW_CONSUMER
    delivering.cancel()
    await asyncio.wait([delivering])
