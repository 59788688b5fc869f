"""One client's outbox: bounded, ordered for what must not be lost, newest-only for what may be conflated."""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Final, NamedTuple

from app.stream.protocol import GapEvent, encode

FRAME_BYTES: Final = 262_144
STALL_SECONDS: Final = 10.0


class Chunk(NamedTuple):
    """Trades of one symbol that were published together, ascending by id; `text` joins their events."""

    first_id: int
    last_id: int
    text: str
    events: list[tuple[int, str]]


class _Lost(NamedTuple):
    from_id: int
    to_id: int


class Subscriber:
    """Holds what waits for one websocket client. Owned by the client's connection; filled by the hub.

    At most `limit` bytes wait. When trades would pass it they are dropped, and the client gets a `gap` event that tells which,
    as soon as half the outbox is free. Tickers and open candles keep only their newest. Anything else that would pass twice
    the limit, or an outbox that makes no progress for ten seconds, marks the client `too_slow`, to be closed with 4408.
    """

    def __init__(self, limit: int) -> None:
        self.too_slow = False
        self.dropped = 0
        self.conflated = 0
        self._limit = limit
        self._queue: deque[str] = deque()
        self._bytes = 0
        self._latest: dict[Hashable, str] = {}
        self._seen: dict[str, int] = {}
        self._lost: dict[str, _Lost] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stuck_since: float | None = None

    # Filling: synchronous, called by the hub and by the connection's own task.

    def push(self, text: str) -> None:
        """Queue one or more joined events, which are never dropped."""
        self._queue.append(text)
        self._bytes += len(text)
        if self._bytes > self._limit:
            self._room.clear()
            if self._bytes > 2 * self._limit:
                self.too_slow = True
        self._wake.set()

    def push_latest(self, key: Hashable, text: str) -> None:
        """Queue an event that takes the place of an unsent one of the same key."""
        if key in self._latest:
            self.conflated += 1
        self._latest[key] = text
        self._wake.set()

    def forget_latest(self, key: Hashable) -> None:
        """Drop the unsent event of a key, which something queued has overtaken."""
        self._latest.pop(key, None)

    def follow_trades(self, symbol: str, after_id: int) -> None:
        """From now on take the symbol's trades with ids above `after_id`."""
        self._seen[symbol] = after_id

    def unfollow_trades(self, symbol: str) -> None:
        self._seen.pop(symbol, None)
        self._lost.pop(symbol, None)

    def push_trades(self, symbol: str, chunk: Chunk) -> None:
        """Queue trades that the client has not seen, or note them as lost when it lags."""
        seen = self._seen[symbol]
        if chunk.last_id <= seen:
            return
        text, first_id = chunk.text, chunk.first_id
        if first_id <= seen:
            fresh = [(trade_id, event) for trade_id, event in chunk.events if trade_id > seen]
            if not fresh:
                return
            first_id, text = fresh[0][0], ",".join(event for _, event in fresh)
        self._seen[symbol] = chunk.last_id
        lost = self._lost.get(symbol)
        if lost is not None or self._bytes + len(text) > self._limit:
            self._lost[symbol] = _Lost(lost.from_id if lost else first_id, chunk.last_id)
            self.dropped += len(chunk.events)
            self._room.clear()
            self._wake.set()
            return
        self.push(text)

    def wake(self) -> None:
        """Let the sender look, though nothing may wait."""
        self._wake.set()

    # Draining: by the connection's sender task.

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        await self._wake.wait()

    async def room(self) -> None:
        """Wait until less than half the outbox is filled: the pace of a replay."""
        await self._room.wait()

    def take(self) -> str | None:
        """The next frame, a JSON array of at most about 256 KiB unless one event is larger, or None when nothing waits."""
        parts: list[str] = []
        size = 0
        while self._queue and size < FRAME_BYTES:
            text = self._queue.popleft()
            parts.append(text)
            size += len(text)
        self._bytes -= size
        if self._bytes <= self._limit // 2:
            parts.extend(self._settle_losses())
            self._room.set()
        if not self._queue:
            parts.extend(self._latest.values())
            self._latest.clear()
            self._wake.clear()
        return f"[{','.join(parts)}]" if parts else None

    def check(self, now: float, *, sending: bool) -> None:
        """Mark the client as too slow when one frame has been on its way for ten seconds while more waits."""
        if not sending or not (self._queue or self._lost):
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > STALL_SECONDS:
            self.too_slow = True

    def _settle_losses(self) -> list[str]:
        gaps = [encode(GapEvent(symbol, lost.from_id, lost.to_id, "slow")) for symbol, lost in self._lost.items()]
        self._lost.clear()
        return gaps
