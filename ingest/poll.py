"""Polling: asks a source for its quotes again and again and hands on what changed. Knows rounds, nothing of venues."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from time import monotonic
from typing import Final

import aiohttp
import structlog

from app.errors import OperatorError
from app.market.model import InstrumentId, Tick
from ingest.backoff import Backoff, Quota
from ingest.connection import FeedCounters, GarbageLog
from ingest.handover import Push
from ingest.rest import read_bounded, wait_of
from ingest.sources import AccessDenied, GarbageFrame, PollSource, RequestRefused, TryLater

TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
PAUSE: Final = 60.0
"""Seconds without a request after an answer that asks for fewer and does not say when."""


class Poller:
    """Delivers each quote of the tracked instruments to `push` once, with the interfaces of a `Feed`.

    A round is asked at every interval; one that is missed, because the venue was away or asked us to stay away, is not
    made up for: quotes between two rounds are not known to anybody who polls. `push` takes what it is given, and
    returns False when it wants no more for now; then the next request awaits `room()`.
    """

    def __init__(
        self,
        source: PollSource,
        instruments: Mapping[str, InstrumentId],
        push: Push,
        room: Callable[[], Awaitable[None]],
        *,
        backoff: Callable[[], Backoff] = Backoff,
        timeout: aiohttp.ClientTimeout = TIMEOUT,
        burst: float = 10.0,
    ) -> None:
        self.source = source
        self.push = push
        self.room = room
        self.counters = FeedCounters()
        self.instruments = dict(instruments)
        self._last: dict[InstrumentId, int] = {}
        self._backoff = backoff()
        self._timeout = timeout
        self._quota = Quota(source.requests_per_second, 1.0)
        self._tracked = asyncio.Event()
        if self.instruments:
            self._tracked.set()
        self._log = structlog.get_logger().bind(source=source.name, feed=source.feed)
        self._garbage = GarbageLog(self._log, burst)

    async def run(self) -> None:
        """Runs until cancelled. Raises OperatorError when the venue does not accept the key."""
        try:
            async with aiohttp.ClientSession(headers=self.source.headers, timeout=self._timeout) as session:
                while True:
                    await self._tracked.wait()
                    await asyncio.sleep(await self._round(session))
        finally:
            self._garbage.end()

    async def track(self, instruments: Mapping[str, InstrumentId]) -> None:
        """Adds instruments; they are asked for from the next request on."""
        self.instruments.update(instruments)
        if self.instruments:
            self._tracked.set()

    async def untrack(self, tickers: Collection[str]) -> None:
        """Drops instruments: none of their ticks is pushed from here on."""
        for ticker in tickers:
            instrument = self.instruments.pop(ticker, None)
            if instrument is not None:
                self._last.pop(instrument, None)
        if not self.instruments:
            self._tracked.clear()

    async def _round(self, session: aiohttp.ClientSession) -> float:
        """Asks once for everything; returns the seconds until the next round."""
        began = monotonic()
        for path in self.source.requests(list(self.instruments)):
            await self._quota.take()
            try:
                ticks = await self._ask(session, path)
            except AccessDenied as refusal:
                raise OperatorError(f"{self.source.name} does not accept the API key: {refusal}") from None
            except TryLater as busy:
                self._log.warning("polling paused", reason=str(busy), seconds=busy.wait)
                return self._failed(busy.wait)
            except (aiohttp.ClientError, OSError) as error:
                self._log.warning("poll failed", error=str(error) or type(error).__name__)
                return self._failed(self._backoff.next())
            except GarbageFrame as garbage:
                self.counters.garbage += 1
                self._garbage.add(str(garbage), path)
            except RequestRefused as refusal:
                self._log.error("request refused", reason=str(refusal), path=path)
            else:
                self._succeeded()
                await self._deliver(ticks)
        return max(0.0, began + self.source.interval - monotonic())

    async def _ask(self, session: aiohttp.ClientSession, path: str) -> Sequence[Tick]:
        # no redirects: the key is for this host alone
        async with session.get(self.source.url + path, allow_redirects=False) as response:
            self._count_frame()
            body = await read_bounded(response)
            status, wait = response.status, wait_of(response)
        try:
            ticks = self.source.parse(body, self.instruments)
        except TryLater as busy:
            raise TryLater(str(busy), max(busy.wait, wait)) from None
        except GarbageFrame:
            if status != 200:
                raise _meaning(status, wait) from None
            raise
        if status != 200:
            raise _meaning(status, wait)
        return ticks

    async def _deliver(self, ticks: Sequence[Tick]) -> None:
        fresh = [tick for tick in ticks if self._is_new(tick)]
        if not fresh:
            self.counters.ignored += 1
            return
        self.counters.ticks += len(fresh)
        if not self.push(fresh):
            await self.room()

    def _is_new(self, tick: Tick) -> bool:
        """Whether it is later than the last: a venue's caches may answer with an older quote again."""
        if tick.trade_id <= self._last.get(tick.instrument_id, -1):
            return False
        self._last[tick.instrument_id] = tick.trade_id
        return True

    def _count_frame(self) -> None:
        self.counters.frames += 1
        self.counters.last_frame = monotonic()

    def _succeeded(self) -> None:
        self._backoff.reset()
        if not self.counters.connected:
            self.counters.connected = True
            self._log.info("connected", url=self.source.url, tickers=len(self.instruments))

    def _failed(self, wait: float) -> float:
        if self.counters.connected:
            self.counters.connected = False
            self.counters.reconnects += 1
        return wait


def _meaning(status: int, wait: float) -> Exception:
    """What an HTTP status says where the body does not."""
    reason = f"HTTP {status}"
    if status in {401, 403}:
        return AccessDenied(reason)
    if status == 429 or wait:
        return TryLater(reason, wait or PAUSE)
    if status >= 500 or status == 408:
        return aiohttp.ClientError(reason)
    return RequestRefused(reason)
