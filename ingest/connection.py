"""One websocket of a source: drained by its own task, watched for silence and age, told what to subscribe to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from itertools import count
from time import monotonic
from typing import Literal

import aiohttp
from structlog.typing import FilteringBoundLogger

from app.market.model import InstrumentId, Tick
from ingest.backoff import Quota
from ingest.sources import ClosingSoon, GarbageFrame, Request, RequestRefused, Source

SHOWN_CHARACTERS = 200
"""How much of a garbage frame the log shows."""


@dataclass(slots=True)
class FeedCounters:
    """What a feed has seen since it was made; telemetry reads it, only the feed writes it.

    `frames` counts data frames; of these `garbage` were not understood and `ignored` had no tick for us. `ticks` counts
    what arrived, duplicates too. `last_frame` is on the clock of `time.monotonic`, 0 before the first frame.
    `connected` says that every tracked ticker has an open connection.
    """

    frames: int = 0
    ticks: int = 0
    garbage: int = 0
    ignored: int = 0
    reconnects: int = 0
    rollovers: int = 0
    last_frame: float = 0.0
    connected: bool = False


class Due(Enum):
    """Why a connection wants to be replaced."""

    ENDED = "ended"
    SILENT = "silent"
    AGED = "aged"
    CLOSING = "announced to close"

    @property
    def planned(self) -> bool:
        return self in {Due.AGED, Due.CLOSING}


class GarbageLog:
    """Logs the first frame of a burst of garbage and, when `pause` seconds brought no more, how many there were."""

    def __init__(self, log: FilteringBoundLogger, pause: float) -> None:
        self._log = log
        self._pause = pause
        self._count = 0
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reason: str, frame: bytes | str) -> None:
        self._count += 1
        self._last = monotonic()
        if self._timer is None:
            shown = frame if isinstance(frame, str) else frame.decode(errors="backslashreplace")
            self._log.warning("garbage received", reason=reason, frame=shown[:SHOWN_CHARACTERS])
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._check)

    def end(self) -> None:
        """Ends the burst, if one is on, now."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._log.warning("garbage ended", frames=self._count)
        self._count = 0

    def _check(self) -> None:
        left = self._last + self._pause - monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._check)
        else:
            self.end()


class Connection:
    """Reads a websocket from the start until its end or `close`; resolves `due` once, when it wants to be replaced.

    Each frame's ticks go to `sink`, which may be exchanged while running; when it answers False, `room` is awaited
    before the next read, and that time does not count as silence. Pings are answered as part of reading.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[Literal[False]],
        source: Source,
        instruments: Mapping[str, InstrumentId],
        sink: Callable[[Sequence[Tick]], bool],
        room: Callable[[], Awaitable[None]],
        counters: FeedCounters,
        garbage: GarbageLog,
        log: FilteringBoundLogger,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.due: asyncio.Future[Due] = loop.create_future()
        self.sink = sink
        self.opened = self._last_frame = monotonic()
        self._socket = socket
        self._source = source
        self._instruments = instruments
        self._room = room
        self._counters = counters
        self._garbage = garbage
        self._log = log
        self._subscribed: set[str] = set()
        self._requests = count(1)
        self._request_quota = Quota(source.requests_per_second, 1.0)
        self._subscribing = asyncio.Lock()
        self._waiting_for_room = False
        self._closing = False
        self._age_timer = loop.call_later(source.max_age, self._become, Due.AGED)
        self._silence_timer = loop.call_later(source.silence, self._check_silence)
        self.reader = asyncio.create_task(self._drain(), name=f"reader of {source.name} {source.feed}")
        self.reader.add_done_callback(self._ended)

    @property
    def ended(self) -> bool:
        return self.reader.done()

    async def subscribe(self, wanted: Set[str]) -> None:
        """Sends what lies between the present subscriptions and `wanted`, paced; a lost connection is left to `due`."""
        try:
            async with self._subscribing:
                await self._request(self._source.subscribe, sorted(wanted - self._subscribed))
                await self._request(self._source.unsubscribe, sorted(self._subscribed - wanted))
                self._subscribed = set(wanted)
        except (aiohttp.ClientError, ConnectionError):
            return

    async def close(self, timeout: float) -> None:
        """Says goodbye, waits at most `timeout` seconds for the answer, and raises what the reader failed with."""
        self._closing = True
        self._age_timer.cancel()
        self._silence_timer.cancel()
        try:
            async with asyncio.timeout(timeout):
                await self._socket.close()
        except TimeoutError:
            pass
        self.reader.cancel()
        await asyncio.wait([self.reader])
        if not self.reader.cancelled() and (error := self.reader.exception()):
            raise error

    async def _drain(self) -> None:
        parse, instruments, counters = self._source.parse, self._instruments, self._counters
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.ERROR:
                continue
            self._last_frame = counters.last_frame = monotonic()
            counters.frames += 1
            try:
                ticks = parse(message.data, instruments)
            except GarbageFrame as garbage:
                counters.garbage += 1
                self._garbage.add(str(garbage), message.data)
                continue
            except ClosingSoon:
                self._become(Due.CLOSING)
                continue
            except RequestRefused as refusal:
                self._log.error("request refused", reason=str(refusal), request=refusal.request)
                continue
            if not ticks:
                counters.ignored += 1
                continue
            counters.ticks += len(ticks)
            if not self.sink(ticks):
                await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        self._waiting_for_room = True
        await self._room()
        self._waiting_for_room = False
        self._last_frame = monotonic()

    async def _request(self, frame: Request, tickers: Sequence[str]) -> None:
        size = self._source.tickers_per_request
        for start in range(0, len(tickers), size):
            await self._request_quota.take()
            await self._socket.send_str(frame(tickers[start : start + size], next(self._requests)))

    def _check_silence(self) -> None:
        left = self._last_frame + self._source.silence - monotonic()
        if self._waiting_for_room:
            left = self._source.silence
        if left > 0:
            self._silence_timer = asyncio.get_running_loop().call_later(left, self._check_silence)
            return
        self._log.warning("went silent", seconds=self._source.silence)
        self._become(Due.SILENT)

    def _ended(self, _: asyncio.Task[None]) -> None:
        if not self._closing:
            self._log.warning("disconnected", code=self._socket.close_code, error=self._socket.exception())
        self._become(Due.ENDED)

    def _become(self, due: Due) -> None:
        if not self.due.done():
            self.due.set_result(due)
