"""The running stream: hub, listener and clients of one process."""

import asyncio
from datetime import UTC, datetime

from app.db import Pool
from app.market.registry import Registry
from app.settings import Settings
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.listener import Listener
from app.stream.session import Session
from app.stream.subscriber import Subscriber


class Stream:
    """Runs as one task; when it ends, the process must, for the feed would be silent."""

    def __init__(self, settings: Settings, pool: Pool, registry: Registry) -> None:
        self._registry = registry
        self._history = StoredHistory(pool)
        self._limit = settings.max_clients
        self._outbox_bytes = settings.outbox_bytes
        self.heartbeat_seconds = settings.heartbeat_s
        self.hub = Hub(self._history, flush_seconds=settings.stream_flush_ms / 1000)
        self.listener = Listener(settings.dsn, self.hub, registry)
        self.stopping = asyncio.Event()
        self.slow = 0
        self._dropped = 0
        self._conflated = 0

    async def run(self) -> None:
        """Listen and fan out until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hub.run(), name="hub")
            tasks.create_task(self.listener.run(), name="listener")

    async def drain(self, seconds: float = 2.0) -> None:
        """Tell every client that the server restarts, and wait for them to be closed."""
        self.stopping.set()
        for subscriber in self.hub.subscribers:
            subscriber.wake()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.hub.subscribers and loop.time() < deadline:
            await asyncio.sleep(0.02)

    @property
    def full(self) -> bool:
        return len(self.hub.subscribers) >= self._limit or self.stopping.is_set()

    def join(self) -> Subscriber:
        subscriber = Subscriber(self._outbox_bytes)
        self.hub.subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        self.hub.subscribers.discard(subscriber)
        self._dropped += subscriber.dropped
        self._conflated += subscriber.conflated

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

    def now(self) -> datetime:
        return datetime.now(UTC)
