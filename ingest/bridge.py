"""After a reconnect: what the venue traded meanwhile is fetched first, so that clients see no hole.

The live ticks of an instrument whose first one jumps wait here, for a few seconds at most, while its REST is asked for
those between. What does not come in time stays a gap, and is repaired behind the live ticks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

import structlog

from app.errors import TickwickError
from app.market.model import Instrument, InstrumentId, Tick
from ingest.sequence import Hole

Page = Callable[[str, InstrumentId, int, int], Awaitable[list[Tick]]]
"""Ticks of a ticker from an id on, ascending, none where there are none yet: `HistoryClient.page`."""

WAIT_SECONDS: Final = 3.0
LARGEST_HOLE: Final = 20_000
MOST_HELD: Final = 100_000
RETRY_SECONDS: Final = 0.2
"""A venue's REST may lag behind its websocket."""

_log = structlog.get_logger()


class _Bridge:
    """What is held of one instrument, and what was fetched to go before it."""

    def __init__(self) -> None:
        self.fetched: list[Tick] = []
        self.held: list[Tick] = []
        self.done = False


class Bridges:
    """Keeps back at most `MOST_HELD` ticks, each for `WAIT_SECONDS` at most. Owned by the writer."""

    def __init__(
        self, page: Page | None, instruments: Mapping[InstrumentId, Instrument], wake: Callable[[], None]
    ) -> None:
        """`page` is None where the venue has no history; `wake` is called when there is something to release."""
        self._page = page
        self._instruments = instruments
        self._wake = wake
        self._expected: set[InstrumentId] = set()
        self._open: dict[InstrumentId, _Bridge] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def instruments(self) -> Collection[InstrumentId]:
        """Those whose ticks are held back."""
        return self._open.keys()

    @property
    def held(self) -> int:
        return sum(len(bridge.held) + len(bridge.fetched) for bridge in self._open.values())

    def expect(self, instruments: Iterable[InstrumentId]) -> None:
        """A connection for these has begun: the next hole of each is taken for what was missed before it."""
        if self._page:
            self._expected.update(instruments)

    def divert(self, batch: list[Tick], holes: Iterable[Hole]) -> list[Tick]:
        """The ticks of a batch, observed to have these holes, that go on at once."""
        if self._open:
            batch = self._hold(batch)
        for hole in holes:
            if hole.instrument_id in self._expected:
                self._expected.discard(hole.instrument_id)
                batch = self._begin(hole, batch)
        if self.held > MOST_HELD:
            for task in self._tasks:
                task.cancel()
            for bridge in self._open.values():
                bridge.done = True
        return batch

    def released(self) -> list[Tick]:
        """The ticks of the instruments whose wait is over: those fetched, then those held, each in order."""
        ticks: list[Tick] = []
        for instrument_id in [i for i, bridge in self._open.items() if bridge.done]:
            bridge = self._open.pop(instrument_id)
            ticks += bridge.fetched
            ticks += bridge.held
        return ticks

    async def close(self) -> list[Tick]:
        """End all waits; answers as `released` does."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for bridge in self._open.values():
            bridge.done = True
        return self.released()

    def _hold(self, batch: list[Tick]) -> list[Tick]:
        straight: list[Tick] = []
        for tick in batch:
            bridge = self._open.get(tick.instrument_id)
            (bridge.held if bridge else straight).append(tick)
        return straight

    def _begin(self, hole: Hole, batch: list[Tick]) -> list[Tick]:
        """Hold the hole's instrument back from behind it on; answers the batch without those."""
        instrument = self._instruments.get(hole.instrument_id)
        if not (self._page and instrument) or hole.to_id - hole.from_id >= LARGEST_HOLE:
            return batch
        if hole.instrument_id in self._open:
            return batch
        bridge = self._open[hole.instrument_id] = _Bridge()
        before: list[Tick] = []
        for tick in batch:
            behind = tick.instrument_id == hole.instrument_id and tick.trade_id > hole.to_id
            (bridge.held if behind else before).append(tick)
        fetching = self._fetch(bridge, hole, instrument.ticker, self._page)
        task = asyncio.create_task(fetching, name=f"bridge of {instrument.symbol}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return before

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("bridge failed", task=task.get_name(), error=repr(error))  # the gap is recorded, and repaired

    async def _fetch(self, bridge: _Bridge, hole: Hole, ticker: str, page: Page) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await _fill(bridge.fetched, hole, ticker, page)
        except (TimeoutError, TickwickError) as error:
            _log.info("bridge given up", ticker=ticker, reason=str(error) or "took too long")
        finally:
            bridge.done = True
            self._wake()


async def _fill(fetched: list[Tick], hole: Hole, ticker: str, page: Page) -> None:
    """Fetch until the ids meet, or the venue tells of later ones but not of these."""
    next_id, time_us = hole.from_id, hole.from_time_us
    while next_id <= hole.to_id:
        ticks = await page(ticker, hole.instrument_id, next_id, time_us)
        inside = [tick for tick in ticks if tick.trade_id <= hole.to_id]
        if inside:
            fetched += inside
            next_id, time_us = inside[-1].trade_id + 1, inside[-1].time_us
        elif ticks:
            return
        else:
            await asyncio.sleep(RETRY_SECONDS)
