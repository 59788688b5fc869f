"""The running stream: hub, listener and clients of one process."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from app.db import Pool
from app.market.registry import Registry
from app.settings import Settings
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.listener import Listener
from app.stream.protocol import Close, Heartbeat, encode
from app.stream.session import Session
from app.stream.subscriber import Subscriber

CHECK_SECONDS: Final = 0.25
CLOSE_PAUSE: Final = 0.005
DRAIN_SECONDS: Final = 1.5


class Stream:
    """Runs as one task; when it ends, the process must, for the feed would be silent."""

    def __init__(self, settings: Settings, pool: Pool, registry: Registry) -> None:
        self._registry = registry
        self._history = StoredHistory(pool)
        self._limit = settings.max_clients
        self._outbox_bytes = settings.outbox_bytes
        self._heartbeat_seconds = settings.heartbeat_s
        self.hub = Hub(self._history, flush_seconds=settings.stream_flush_ms / 1000)
        self.listener = Listener(settings.dsn, self.hub, registry)
        self.slow = 0
        self._stopping = False
        self._gone = asyncio.Event()
        self._dropped = 0
        self._conflated = 0

    async def run(self) -> None:
        """Listen and fan out until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hub.run(), name="hub")
            tasks.create_task(self.listener.run(), name="listener")
            tasks.create_task(self._check_for_ever(), name="stream clients")

    async def _check_for_ever(self) -> None:
        pause = min(CHECK_SECONDS, self._heartbeat_seconds)
        while True:
            await asyncio.sleep(pause)
            heartbeat = encode(Heartbeat(datetime.now(UTC)))
            for subscriber in [*self.hub.subscribers]:
                if not subscriber.check(self._heartbeat_seconds, heartbeat):
                    # Those that stalled together are closed one after another: it costs each a little, and others wait.
                    await asyncio.sleep(CLOSE_PAUSE)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Tell every client that the server restarts, and wait until what it has yet to read is sent, and it is gone.

        Clients that have not read it all in time are closed without.
        """
        self._stopping = True
        for subscriber in self.hub.subscribers:
            subscriber.tell_shutdown()
        if not await self._all_gone(seconds):
            for subscriber in self.hub.subscribers:
                subscriber.end(Close.GOING_AWAY)
            await self._all_gone(seconds)

    async def _all_gone(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self.hub.subscribers:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            return False
        return True

    @property
    def refusal(self) -> str | None:
        """Why no client can join now; None where one can."""
        if len(self.hub.subscribers) >= self._limit or self._stopping:
            return "too many clients: try later"
        if not self._registry.filled:
            return "the server is starting: try later"
        return None

    def join(self) -> Subscriber:
        subscriber = Subscriber(self._outbox_bytes)
        self.hub.subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        self.hub.subscribers.discard(subscriber)
        self._dropped += subscriber.dropped
        self._conflated += subscriber.conflated
        self._gone.set()

    @property
    def dropped(self) -> int:
        """Trades dropped for slow clients, those that left included."""
        return self._dropped + sum(subscriber.dropped for subscriber in self.hub.subscribers)

    @property
    def conflated(self) -> int:
        """Tickers and open candles overtaken before they were sent."""
        return self._conflated + sum(subscriber.conflated for subscriber in self.hub.subscribers)

    def session(self, subscriber: Subscriber) -> Session:
        """The conversation of one client."""
        return Session(self.hub, self._history, self._registry, subscriber)
