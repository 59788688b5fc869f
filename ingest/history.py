"""Asking a venue's REST for past trades, within its limits. Knows requests, weights and waits, nothing of venues.

HistoryError
├── HistoryUnavailable   may pass: `wait` says in how many seconds asking again makes sense
└── HistoryRefused       will not pass: the venue does not know the ticker, or does not serve us
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from time import monotonic, time
from types import TracebackType
from typing import Final, Self, TypeVar

import aiohttp
import msgspec
import structlog

from app.errors import TickwickError
from app.market.model import InstrumentId, Tick
from ingest.backoff import Backoff, Quota
from ingest.rest import date_of, read_bounded, wait_of
from ingest.sources import AccessDenied, ById, ByTime, GarbageFrame, History, RequestRefused, TryLater

MINUTE: Final = 60.0
MAX_PAGES_TO_ID: Final = 20
"""Pages by time that may lie before the wanted id: more means that the time given was not that of the trade before."""

BUSY_STATUS: Final = frozenset({403, 418, 429})
"""Our address is to stay away for a while: over a limit, banned for it, or (403) kept out by the venue's firewall."""

T = TypeVar("T")


class HistoryError(TickwickError):
    """Past trades could not be had."""


class HistoryUnavailable(HistoryError):
    """Not now; asking again in `wait` seconds makes sense, and before that no request would go out or succeed."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class HistoryRefused(HistoryError):
    """Not at all: asking again would be answered the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What one call may take: `attempts` requests of `timeout` seconds each, and the waits of back-off between them."""

    attempts: int = 3
    timeout: float = 10.0
    default_pause: float = MINUTE


class Weight:
    """What is used of the weight that a clock minute of the venue allows: by our own count, and as the venue tells.

    Pure but for the clocks it is given: `clock` counts seconds steadily, `wall` since 1970.
    """

    def __init__(
        self, limit: int | None, clock: Callable[[], float] = monotonic, wall: Callable[[], float] = time
    ) -> None:
        self.used = 0
        self._limit = limit
        self._clock = clock
        self._wall = wall
        self._minute_ends = 0.0

    def delay(self, weight: int) -> float:
        """Seconds until a request of this weight may go out; zero when it may now."""
        self._turn()
        if self._limit is None or self.used + weight <= self._limit:
            return 0.0
        return self._minute_ends - self._clock()

    def spend(self, weight: int) -> None:
        self._turn()
        self.used += weight

    def told(self, used: int, date: datetime | None) -> None:
        """What the venue says is used of its minute, and its own time, whose seconds tell when that minute ends."""
        second = date.second if date else self._wall() % MINUTE
        self.used = used
        self._minute_ends = self._clock() + MINUTE - second

    def _turn(self) -> None:
        if self._clock() >= self._minute_ends:
            self.used = 0
            self._minute_ends = self._clock() + MINUTE - self._wall() % MINUTE


class HistoryClient:
    """One venue's past trades; to be shared by all who ask, since limits hold for an address. A context manager.

    A call makes at most `patience.attempts` requests for a page, paced to the venue's rate. It never waits for a pause
    or for the next minute's weight, but raises HistoryUnavailable at once, with the time to wait: who has a deadline
    moves on, who has time sleeps and asks again. While `pause` lasts no request goes out.
    """

    def __init__(
        self,
        history: History,
        *,
        patience: Patience | None = None,
        backoff: Callable[[], Backoff] = lambda: Backoff(first=0.2, ceiling=3.0),
        weight: Weight | None = None,
    ) -> None:
        self.history = history
        self._patience = patience or Patience()
        self._backoff = backoff  # a low ceiling: a gap is to be closed within seconds of the end of an outage
        self._trouble = backoff()  # grows from one failed call to the next
        self._weight = weight or Weight(history.weight_limit)
        self._quota = Quota(history.requests_per_second, 1.0)
        self._paused_until = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._log = structlog.get_logger().bind(source=history.name)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self.history.headers,
            timeout=aiohttp.ClientTimeout(total=self._patience.timeout),
            connector=aiohttp.TCPConnector(limit=4),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    @property
    def pause(self) -> float:
        """Seconds for which the venue asked us to stay away; zero when it did not."""
        return max(0.0, self._paused_until - monotonic())

    async def page(self, ticker: str, instrument_id: InstrumentId, from_id: int, from_time_us: int) -> list[Tick]:
        """At most a page of trades from an id on, ascending; none when the venue has none (yet).

        A page may be short though more follow. `from_time_us` is the time of the trade before `from_id`, for venues
        that page by time. Raises HistoryUnavailable or HistoryRefused.
        """
        history = self.history
        for _ in range(MAX_PAGES_TO_ID):
            ticks = await self._window(ticker, instrument_id, from_id, from_time_us)
            wanted: Sequence[Tick] = [tick for tick in ticks if tick.trade_id >= from_id]
            if ticks and not wanted and isinstance(history.locate, ById):
                wanted = await self._beyond_void(history.locate, ticker, instrument_id, from_id)
            elif not wanted and history.pages_by_time and len(ticks) >= history.page_ticks:
                from_time_us = ticks[-1].time_us
                continue
            return list(wanted[: history.page_ticks])
        raise HistoryRefused(f"{ticker} has too many trades between the time given and trade {from_id}")

    async def first_id_at(self, ticker: str, instrument_id: InstrumentId, time_us: int) -> int | None:
        """The id of the first trade at or after a time, to the millisecond; None when there is none yet.

        Raises HistoryUnavailable or HistoryRefused.
        """
        match self.history.locate:
            case ByTime() as locate:
                return await self._ask(locate.request(ticker, time_us), locate.weight, locate.parse)
            case ById() as locate:
                return await self._bisect(locate, ticker, instrument_id, lambda tick: tick.time_us >= time_us)

    async def _window(
        self, ticker: str, instrument_id: InstrumentId, from_id: int, from_time_us: int
    ) -> Sequence[Tick]:
        """What a page brings, though it may begin, and even end, before the wanted id."""
        history = self.history
        path = history.page(ticker, from_id, from_time_us)
        return await self._ask(path, history.weight, lambda body: _ascending(history.parse(body, instrument_id)))

    async def _beyond_void(
        self, locate: ById, ticker: str, instrument_id: InstrumentId, from_id: int
    ) -> Sequence[Tick]:
        """The first trade from an id on, of which a whole page of ids does not exist; none when there is none (yet).

        Its answer reaches from before that id to the trade: the two have nothing between them, whichever of the venue's
        servers, not all of them up to date, answered what was asked to find it.
        """
        after = from_id + self.history.page_ticks - 1
        first = await self._bisect(locate, ticker, instrument_id, lambda tick: tick.trade_id >= from_id, after)
        if first is None:
            return []
        ticks = await self._window(ticker, instrument_id, first + 1 - self.history.page_ticks, 0)
        if not ticks or ticks[0].trade_id >= from_id:
            return []
        return [tick for tick in ticks if tick.trade_id >= from_id]

    async def _bisect(
        self,
        locate: ById,
        ticker: str,
        instrument: InstrumentId,
        is_late: Callable[[Tick], bool],
        before: int = -1,
    ) -> int | None:
        """The id of the first trade that is late, as all after it are, and none is up to the id `before`."""

        async def last_until(until: int | None) -> Tick | None:
            path = locate.request(ticker, until)
            ticks = await self._ask(path, locate.weight, lambda body: self.history.parse(body, instrument))
            return ticks[-1] if ticks else None

        found = await last_until(None)
        if found is None or not is_late(found):
            return None
        first = found.trade_id
        while first - before > 1:
            middle = (before + first) // 2
            tick = await last_until(middle)
            if tick is None or not is_late(tick):
                before = middle
            else:
                first = min(tick.trade_id, middle)
        return first

    async def _ask(self, path: str, weight: int, parse: Callable[[bytes], T]) -> T:
        """What one request brings, tried again a few times where that may help; keeps to pauses and weights."""
        backoff, reason = self._backoff(), ""
        for attempt in range(self._patience.attempts):
            if attempt:
                await asyncio.sleep(backoff.next())
            await self._quota.take()
            self._permit(weight)
            try:
                answer = parse(await self._get(path))
            except (aiohttp.ClientError, OSError, GarbageFrame) as error:
                reason = str(error) or type(error).__name__
                self._log.warning("history request failed", path=path, reason=reason, attempt=attempt + 1)
            except TryLater as busy:
                raise self._stay_away(str(busy), busy.wait) from None
            except (RequestRefused, AccessDenied) as refusal:
                raise HistoryRefused(f"{self.history.name} refused {path}: {refusal}") from None
            else:
                self._trouble.reset()
                return answer
        raise HistoryUnavailable(f"{self.history.name} gave no answer: {reason}", self._trouble.next())

    def _permit(self, weight: int) -> None:
        """Lets a request pass, and counts it, or raises HistoryUnavailable."""
        if pause := self.pause:
            raise HistoryUnavailable(f"{self.history.name} asked us to stay away", pause)
        if delay := self._weight.delay(weight):
            raise HistoryUnavailable(f"the weight that {self.history.name} allows a minute is used up", delay)
        self._weight.spend(weight)

    def _stay_away(self, reason: str, seconds: float) -> HistoryUnavailable:
        self._paused_until = max(self._paused_until, monotonic() + seconds)
        self._log.warning("history paused", reason=reason, seconds=seconds)
        return HistoryUnavailable(f"{self.history.name} asked us to stay away: {reason}", self.pause)

    async def _get(self, path: str) -> bytes:
        """The body of a good answer. Raises ClientError, OSError or GarbageFrame for what may pass, and the like."""
        assert self._session, "a HistoryClient is used inside `async with`"
        async with self._session.get(self.history.url + path, allow_redirects=False) as response:
            self._heed(response)
            body = await read_bounded(response)
            if response.status == 200:
                return body
            wait = wait_of(response)
            if response.status in BUSY_STATUS:
                raise TryLater(f"HTTP {response.status}", wait or self._patience.default_pause)
            if response.status >= 500 and wait:
                raise TryLater(f"HTTP {response.status}", wait)
            if response.status >= 500 or response.status == 408:
                raise aiohttp.ClientError(f"HTTP {response.status}")
            if reason := _reason(body):
                raise RequestRefused(f"HTTP {response.status}, {reason}")
            # A proxy, or a wrong address: it says nothing of the trades, which must not be given up for that.
            complaint = f"HTTP {response.status}, not in the venue's own words: is this the address of its REST?"
            raise TryLater(complaint, wait or self._patience.default_pause)

    def _heed(self, response: aiohttp.ClientResponse) -> None:
        used = response.headers.get(self.history.weight_header, "") if self.history.weight_header else ""
        if used.isascii() and used.isdigit() and len(used) < 10:
            self._weight.told(int(used), date_of(response.headers.get("Date", "")))


class _Complaint(msgspec.Struct):
    message: str = ""
    msg: str = ""


def _ascending(ticks: Sequence[Tick]) -> Sequence[Tick]:
    if any(one.trade_id >= next_one.trade_id for one, next_one in pairwise(ticks)):
        raise GarbageFrame("trade ids do not rise")
    return ticks


def _reason(body: bytes) -> str:
    """The venue's own words; empty where there are none."""
    try:
        complaint = msgspec.json.decode(body, type=_Complaint)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""
    return (complaint.message or complaint.msg)[:200]
