"""Receiving: keeps a source's websockets open and hands their ticks on. Knows connections, nothing of venues.

A feed spreads its tickers over lines of at most `tickers_per_connection`. A line keeps one connection alive: it dials
with back-off, and replaces the connection when it ends, falls silent, grows old, or the server announces its end. In
the last three cases the next connection is opened first, both are read for a while, and then the old one is closed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import aiohttp
import structlog

from app.errors import OperatorError
from app.market.model import InstrumentId
from ingest.backoff import Backoff, Quota, fatal_reason, retry_after
from ingest.connection import Connection, Due, FeedCounters, GarbageLog
from ingest.handover import Handover, Push
from ingest.sources import Source

__all__ = ["Feed", "FeedCounters", "Timing"]

MAX_FRAME_BYTES = 1 << 20
MAX_DIAL_DELAY = 4.0
"""Seconds between attempts to connect, at most: a source that is back is to be heard again within 5."""

Socket = aiohttp.ClientWebSocketResponse[Literal[False]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds that belong to us, not to a venue.

    `connect` bounds a handshake, `overlap` the time that two connections are read after the new one has subscribed,
    `healthy` is the life after which a connection's end starts the back-off anew, `close` bounds a closing handshake,
    and `burst` is the pause that ends a burst of garbage.
    """

    connect: float = 10.0
    overlap: float = 5.0
    healthy: float = 5.0
    close: float = 0.5
    burst: float = 10.0


class Feed:
    """Delivers every tick that the source sends for the tracked instruments to `push`, in the source's order.

    `push` takes what it is given, always, and returns False when it wants no more for now; the feed then awaits
    `room()` before it reads on. While it waits, the server is throttled and may hang up. Ticks may come twice after a
    reconnect; at a planned change of connections they come once. `on_connected` is told the instruments of each new
    connection before its first tick is pushed: what was sent before it may be missing.
    """

    def __init__(
        self,
        source: Source,
        instruments: Mapping[str, InstrumentId],
        push: Push,
        room: Callable[[], Awaitable[None]],
        on_connected: Callable[[Collection[InstrumentId]], None] = lambda _: None,
        *,
        timing: Timing | None = None,
        backoff: Callable[[], Backoff] = lambda: Backoff(ceiling=MAX_DIAL_DELAY),
        quota: Quota | None = None,
    ) -> None:
        """`quota` counts connections; share one between feeds that reach the same venue from the same address."""
        self.source = source
        self.push = push
        self.room = room
        self.on_connected = on_connected
        self.timing = timing or Timing()
        self.backoff = backoff
        self.quota = quota or Quota(source.connections_per_window, source.connection_window)
        self.counters = FeedCounters()
        self.instruments = dict(instruments)
        self.log = structlog.get_logger().bind(source=source.name, feed=source.feed)
        self.garbage = GarbageLog(self.log, self.timing.burst)
        self._group: asyncio.TaskGroup | None = None
        tickers = list(self.instruments)
        size = source.tickers_per_connection
        self._lines = [_Line(self, set(tickers[start : start + size])) for start in range(0, len(tickers), size)]

    async def run(self) -> None:
        """Runs until cancelled, then closes its connections, within about `timing.close` seconds.

        Raises OperatorError when the server refuses in a way that no retry can cure.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                for line in self._lines:
                    self._start(line)
                await asyncio.get_running_loop().create_future()  # lines come and go; only a failure ends the group
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__
        finally:
            self._group = None
            self.garbage.end()

    async def track(self, instruments: Mapping[str, InstrumentId]) -> None:
        """Adds instruments; returns when their subscriptions are sent, or at once where those await a connection."""
        new = [ticker for ticker in instruments if ticker not in self.instruments]
        self.instruments.update(instruments)
        for line in self._lines:
            size = self.source.tickers_per_connection - len(line.tickers)
            fitting, new = new[:size], new[size:]
            if fitting:
                line.tickers.update(fitting)
                await line.subscribe()
        size = self.source.tickers_per_connection
        for start in range(0, len(new), size):
            line = _Line(self, set(new[start : start + size]))
            self._lines.append(line)
            self._start(line)

    async def untrack(self, tickers: Collection[str]) -> None:
        """Drops instruments: none of their ticks is pushed from here on, and their subscriptions are cancelled."""
        for ticker in tickers:
            self.instruments.pop(ticker, None)
        for line in [line for line in self._lines if line.tickers & set(tickers)]:
            line.tickers.difference_update(tickers)
            await self._shrink(line)

    def refresh_connected(self) -> None:
        self.counters.connected = bool(self._lines) and all(line.connected for line in self._lines)

    def _start(self, line: "_Line") -> None:
        if self._group:
            line.task = self._group.create_task(line.run(), name=f"line of {self.source.name} {self.source.feed}")

    async def _shrink(self, line: "_Line") -> None:
        if line.tickers:
            await line.subscribe()
            return
        self._lines.remove(line)
        if line.task:
            line.task.cancel()
        self.refresh_connected()


class _Line:
    """Keeps one connection open for a set of tickers; two while one replaces the other. Owned by its feed."""

    def __init__(self, feed: Feed, tickers: set[str]) -> None:
        self.tickers = tickers
        self.task: asyncio.Task[None] | None = None
        self._feed = feed
        self._backoff = feed.backoff()
        self._connections: list[Connection] = []

    @property
    def connected(self) -> bool:
        return any(not connection.ended for connection in self._connections)

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            try:
                connection = await self._begin(await self._dial(session, at_once=True), self._feed.push)
                while True:
                    connection = await self._replace(session, connection, await connection.due)
            finally:
                await asyncio.gather(*(self._drop(connection) for connection in list(self._connections)))

    async def subscribe(self) -> None:
        for connection in list(self._connections):
            await connection.subscribe(self.tickers)

    async def _dial(self, session: aiohttp.ClientSession, *, at_once: bool) -> Socket:
        """Connects, however often it takes; at once or after the back-off's next delay."""
        feed = self._feed
        while True:
            if not at_once:
                await asyncio.sleep(self._backoff.next())
            at_once = False
            await feed.quota.take()
            try:
                async with asyncio.timeout(feed.timing.connect):
                    return await session.ws_connect(
                        feed.source.url, compress=0, max_msg_size=MAX_FRAME_BYTES, decode_text=False
                    )
            except (aiohttp.ClientError, OSError) as error:
                if reason := fatal_reason(error):
                    raise OperatorError(f"{feed.source.url} {reason}") from error
                wait = retry_after(error)
                feed.log.warning("connection failed", error=str(error) or type(error).__name__, retry_after=wait)
                await asyncio.sleep(wait)

    async def _begin(self, socket: Socket, sink: Push) -> Connection:
        connection = self._adopt(socket, sink)
        instruments = self._feed.instruments
        self._feed.on_connected([instruments[ticker] for ticker in self.tickers if ticker in instruments])
        await connection.subscribe(self.tickers)
        return connection

    async def _replace(self, session: aiohttp.ClientSession, old: Connection, due: Due) -> Connection:
        """Opens the successor of a connection, which serves on until the successor has taken over."""
        feed = self._feed
        healthy = monotonic() - old.opened >= feed.timing.healthy
        if healthy:
            self._backoff.reset()
        if old.ended:
            await self._drop(old)
        at_once = healthy and not old.ended
        while True:
            socket = await self._dial(session, at_once=at_once)
            new = await (self._begin(socket, feed.push) if old.ended else self._hand_over(old, socket, due))
            if new:
                await self._drop(old)
                self._note_replaced(due)
                return new
            at_once = False

    async def _hand_over(self, old: Connection, socket: Socket, due: Due) -> Connection | None:
        """Reads both until the new connection has all that the old one has, or the overlap is over.

        None when the new one did not live to see that and the old one did: then the old one is heard as before.
        """
        push = self._feed.push
        level: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        known = self._feed.instruments
        instruments = {known[ticker] for ticker in self.tickers if ticker in known}
        handover = Handover(push, instruments, lambda: level.set_result(None), hold=due is not Due.SILENT)
        old.sink = handover.from_old
        old.reader.add_done_callback(lambda _: handover.finish())
        new = await self._begin(socket, handover.from_new)
        await asyncio.wait(
            [level, old.reader, new.reader], timeout=self._feed.timing.overlap, return_when=asyncio.FIRST_COMPLETED
        )
        handover.finish()
        if new.ended and not old.ended:
            old.sink = push
            await self._drop(new)
            return None
        await self._drop(old)  # before the new one is alone: what the old one still brings must be remembered
        handover.retire_old()
        return new

    def _adopt(self, socket: Socket, sink: Push) -> Connection:
        feed = self._feed
        connection = Connection(
            socket, feed.source, feed.instruments, sink, feed.room, feed.counters, feed.garbage, feed.log
        )
        self._connections.append(connection)
        connection.reader.add_done_callback(lambda _: feed.refresh_connected())
        feed.refresh_connected()
        feed.log.info("connected", url=feed.source.url, tickers=len(self.tickers))
        return connection

    async def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            await connection.close(self._feed.timing.close)
            self._feed.refresh_connected()

    def _note_replaced(self, due: Due) -> None:
        counters = self._feed.counters
        if due.planned:
            counters.rollovers += 1
            self._feed.log.info("rolled over", reason=due.value)
        else:
            counters.reconnects += 1
