"""Bridges: after a reconnect the live ticks wait for those missed before them, for a while, and only theirs."""

import asyncio
from collections.abc import Iterable
from decimal import Decimal
from typing import Literal

import pytest

from app.market.model import Feed, Instrument, InstrumentId, Tick
from ingest import bridge
from ingest.bridge import Bridges
from ingest.history import HistoryUnavailable
from ingest.sequence import Hole, Sequence

ONE, TWO = InstrumentId(1), InstrumentId(2)
FEED: Feed = "trade"
KIND: Literal["spot"] = "spot"


def instrument(number: InstrumentId) -> Instrument:
    ticker = f"COIN{number}"
    return Instrument(number, f"SIM:{ticker}", "SIM", ticker, None, None, KIND, 2, FEED, True, True)


def tick(trade_id: int, instrument_id: InstrumentId = ONE) -> Tick:
    return Tick(instrument_id, trade_id, trade_id * 1000, Decimal(1), Decimal(1), None)


def ids(ticks: Iterable[Tick]) -> list[int]:
    return [tick.trade_id for tick in ticks]


class Past:
    """A venue's past: ids that it has, its errors, and what it was asked."""

    def __init__(self, known: Iterable[int] = (), page: int = 1000) -> None:
        self.known = sorted(known)
        self.asked: list[tuple[str, int, int]] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self._page = page

    async def page(self, ticker: str, instrument_id: InstrumentId, from_id: int, from_time_us: int) -> list[Tick]:
        self.asked.append((ticker, from_id, from_time_us))
        await self.answers.wait()
        if self.error:
            raise self.error
        return [tick(number, instrument_id) for number in self.known if number >= from_id][: self._page]


class Run:
    """Bridges over a past, fed as the writer feeds them."""

    def __init__(self, past: Past | None, last: int = 10) -> None:
        self.woken = asyncio.Event()
        instruments = {number: instrument(number) for number in (ONE, TWO)}
        self.bridges = Bridges(past.page if past else None, instruments, self.woken.set)
        self.sequence = Sequence({ONE: (last, last * 1000), TWO: (last, last * 1000)})
        self.holes: list[Hole] = []

    def feed(self, *batch: Tick) -> list[int]:
        holes, _ = self.sequence.observe(batch)
        self.holes += holes
        return ids(self.bridges.divert(list(batch), holes))

    async def released(self) -> list[int]:
        async with asyncio.timeout(5):
            await self.woken.wait()
        return ids(self.bridges.released())


async def test_hole_after_a_connection_began_is_fetched_and_goes_before_the_live_ticks() -> None:
    run = Run(Past(range(1, 30)))
    run.bridges.expect([ONE])
    assert run.feed(tick(15), tick(16)) == []
    assert run.feed(tick(17)) == []
    assert run.bridges.instruments == {ONE}
    assert await run.released() == [*range(11, 18)]
    assert run.feed(tick(18)) == [18]
    assert [hole[:3] for hole in run.holes] == [(ONE, 11, 14)], "the hole is told all the same"


async def test_other_instruments_go_on_meanwhile() -> None:
    past = Past(range(1, 30))
    past.answers.clear()
    run = Run(past)
    run.bridges.expect([ONE])
    assert run.feed(tick(15), tick(11, TWO), tick(16)) == [11]
    assert run.feed(tick(12, TWO)) == [12]
    past.answers.set()
    assert await run.released() == [*range(11, 17)]


async def test_ticks_before_the_hole_go_on_at_once() -> None:
    run = Run(Past(range(1, 30)))
    run.bridges.expect([ONE])
    assert run.feed(tick(11), tick(12), tick(20)) == [11, 12]
    assert await run.released() == [*range(13, 21)]


async def test_hole_that_no_connection_explains_is_left_to_the_repair() -> None:
    run = Run(Past(range(1, 30)))
    assert run.feed(tick(15)) == [15]
    run.bridges.expect([TWO])
    assert run.feed(tick(18)) == [18]


async def test_second_hole_of_a_connection_is_left_to_the_repair() -> None:
    run = Run(Past(range(1, 90)))
    run.bridges.expect([ONE])
    run.feed(tick(15))
    await run.released()
    assert run.feed(tick(30)) == [30]


async def test_past_is_paged_until_the_ids_meet() -> None:
    past = Past(range(1, 200), page=20)
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(tick(100))
    assert await run.released() == [*range(11, 101)]
    assert past.asked[:2] == [("COIN1", 11, 10_000), ("COIN1", 31, 30_000)]
    assert len(past.asked) == 5


async def test_past_that_lags_behind_is_asked_again() -> None:
    past = Past(range(1, 12))
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(tick(14))
    while len(past.asked) < 3:  # noqa: ASYNC110  # a list has no event
        await asyncio.sleep(0)
    past.known = [*range(1, 20)]
    assert await run.released() == [11, 12, 13, 14]


async def test_ids_that_the_venue_does_not_have_are_not_waited_for() -> None:
    run = Run(Past([11, 12, 16, 17]))
    run.bridges.expect([ONE])
    run.feed(tick(16))
    assert await run.released() == [11, 12, 16]


@pytest.mark.parametrize("error", [HistoryUnavailable("away", 60.0), TimeoutError()])
async def test_venue_that_does_not_answer_is_given_up(error: Exception) -> None:
    past = Past(range(1, 30))
    past.error = error
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(tick(15))
    assert await run.released() == [15]


async def test_venue_that_hangs_is_waited_for_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "WAIT_SECONDS", 0.05)
    past = Past(range(1, 30))
    past.answers.clear()
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(tick(15))
    assert await run.released() == [15]


async def test_hole_that_is_too_large_is_left_to_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "LARGEST_HOLE", 100)
    run = Run(Past(range(1, 300)))
    run.bridges.expect([ONE])
    assert run.feed(tick(200)) == [200]


async def test_too_many_held_ticks_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "MOST_HELD", 50)
    past = Past(range(1, 300))
    past.answers.clear()
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(*[tick(number) for number in range(15, 70)])
    assert ids(run.bridges.released()) == [*range(15, 70)]
    await run.bridges.close()


async def test_closing_gives_back_all_that_was_held() -> None:
    past = Past(range(1, 30))
    past.answers.clear()
    run = Run(past)
    run.bridges.expect([ONE])
    run.feed(tick(15), tick(16))
    assert ids(await run.bridges.close()) == [15, 16]
    assert not run.bridges.instruments


async def test_without_a_past_nothing_is_held() -> None:
    run = Run(None)
    run.bridges.expect([ONE])
    assert run.feed(tick(15)) == [15]
