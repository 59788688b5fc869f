"""The backlog: batches in order, from memory and from disk, none lost whatever happens to the one in hand."""

import asyncio
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.market.model import InstrumentId, Tick
from ingest.backlog import Backlog
from ingest.spool import Spool

ONE = InstrumentId(1)
SYMBOLS = {ONE: "SIM:ONE"}


def ticks(first: int, last: int) -> list[Tick]:
    return [Tick(ONE, number, number, Decimal(number + 1), Decimal(1), None) for number in range(first, last + 1)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool.open(tmp_path, 1 << 30, reserve_bytes=0)
    yield made
    made.close()


async def drained(backlog: Backlog, limit: int = 7) -> list[int]:
    found: list[int] = []
    while batch := await backlog.take(limit):
        found += [tick.trade_id for tick in batch]
        await backlog.done()
    return found


async def test_batches_come_in_order_and_at_most_as_large_as_asked() -> None:
    backlog = Backlog(100, None, SYMBOLS)
    backlog.push(ticks(1, 10))
    assert [tick.trade_id for tick in await backlog.take(4)] == [1, 2, 3, 4]
    assert backlog.depth == 10
    await backlog.done()
    assert backlog.depth == 6
    assert await drained(backlog) == [5, 6, 7, 8, 9, 10]
    assert (backlog.pushed, backlog.finished, backlog.depth) == (10, 10, 0)


async def test_batch_that_is_put_back_is_handed_out_again_behind_what_goes_before_it() -> None:
    backlog = Backlog(100, None, SYMBOLS)
    backlog.push(ticks(3, 10))
    await backlog.take(4)
    await backlog.put_back(before=ticks(1, 2))
    assert await drained(backlog) == [*range(1, 11)]


async def test_what_is_put_back_and_in_hand_too_comes_once_in_its_place() -> None:
    """Regression: ticks that a bridge took out of the batch in hand came before older ones of the same batch."""
    backlog = Backlog(100, None, SYMBOLS)
    backlog.push(ticks(5, 12))
    await backlog.take(6)
    await backlog.put_back(before=ticks(3, 4) + ticks(8, 10))
    assert await drained(backlog) == [*range(3, 13)]


async def test_ticks_found_in_the_spool_count_as_pushed(spool: Spool) -> None:
    await spool.append(ticks(1, 5), SYMBOLS)
    backlog = Backlog(100, spool, SYMBOLS)
    backlog.push(ticks(6, 9))
    assert (backlog.pushed, backlog.finished) == (9, 0)
    assert await drained(backlog) == [*range(1, 10)]
    assert (backlog.pushed, backlog.finished) == (9, 9)


async def test_full_memory_refuses_the_newest_and_counts_them() -> None:
    backlog = Backlog(10, None, SYMBOLS)
    for first in range(1, 31, 5):
        backlog.push(ticks(first, first + 4))
    assert backlog.refused == 20
    assert await drained(backlog) == [*range(1, 11)]


async def test_spilled_ticks_go_before_those_in_memory(spool: Spool) -> None:
    backlog = Backlog(100, spool, SYMBOLS)
    backlog.push(ticks(1, 5))
    await backlog.spill()
    backlog.push(ticks(6, 9))
    assert (backlog.on_disk, backlog.in_memory, backlog.depth) == (5, 4, 9)
    assert await drained(backlog) == [*range(1, 10)]
    assert backlog.on_disk == 0


async def test_spilling_with_a_batch_in_hand_keeps_the_order_when_it_is_not_stored(spool: Spool) -> None:
    backlog = Backlog(100, spool, SYMBOLS)
    backlog.push(ticks(1, 10))
    await backlog.take(3)
    await backlog.spill()
    await backlog.put_back()
    assert await drained(backlog) == [*range(1, 11)]


async def test_batch_in_hand_that_was_spilled_and_then_stored_comes_twice_but_in_order(spool: Spool) -> None:
    backlog = Backlog(100, spool, SYMBOLS)
    backlog.push(ticks(1, 10))
    await backlog.take(3)
    await backlog.spill()
    await backlog.done()
    assert await drained(backlog) == [*range(1, 11)]
    assert backlog.depth == 0


async def test_what_a_full_spool_does_not_take_stays_in_memory(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, 2_000, reserve_bytes=0)
    backlog = Backlog(100_000, spool, SYMBOLS)
    backlog.push(ticks(1, 20_000))
    await backlog.spill()
    assert 0 <= backlog.on_disk < 20_000
    assert backlog.depth == 20_000
    assert await drained(backlog, 1000) == [*range(1, 20_001)]
    spool.close()


@pytest.mark.parametrize("seed", range(20))
async def test_any_order_of_calls_hands_out_every_tick_in_order(spool: Spool, seed: int) -> None:
    random, backlog = Random(seed), Backlog(1_000_000, spool, SYMBOLS)
    pushed, stored, hand = 0, 0, []
    for _ in range(300):
        match random.choice(["push", "push", "take", "done", "put_back", "spill"]):
            case "push":
                size = random.randint(1, 40)
                backlog.push(ticks(pushed + 1, pushed + size))
                pushed += size
            case "take" if not hand:
                hand = [tick.trade_id for tick in await backlog.take(random.randint(1, 60))]
                assert not hand or hand[0] <= stored + 1, "a hole"
                assert hand == [*range(hand[0], hand[0] + len(hand))] if hand else True
            case "done" if hand:
                await backlog.done()
                stored, hand = max(stored, hand[-1]), []
            case "put_back":
                await backlog.put_back()
                hand = []
            case "spill":
                await backlog.spill()
    await backlog.put_back()
    for number in await drained(backlog):
        assert number <= stored + 1, "a hole"
        stored = max(stored, number)
    assert stored == pushed


async def test_spilling_that_is_cancelled_while_the_disk_is_written_to_keeps_each_tick_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what the thread wrote stayed in memory too, and was written once more."""
    writing, proceed = threading.Event(), threading.Event()
    append = spool._append

    def slowly(*arguments: Any) -> int:
        writing.set()
        proceed.wait(20)
        return append(*arguments)

    monkeypatch.setattr(spool, "_append", slowly)
    backlog = Backlog(100, spool, SYMBOLS)
    backlog.push(ticks(1, 10))
    spilling = asyncio.create_task(backlog.spill())
    await asyncio.to_thread(writing.wait, 20)
    spilling.cancel()
    await asyncio.wait([spilling])
    proceed.set()
    await backlog.spill()
    assert (backlog.on_disk, backlog.in_memory) == (10, 0)
    assert await drained(backlog) == [*range(1, 11)]
