"""One Binance client's outbox: an event a frame, paced, and nothing is ever dropped without closing the connection."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from app.binance.forms import now_us
from app.binance.wire import events
from app.market.model import InstrumentId
from app.stream.protocol import Close
from app.stream.subscriber import Batch, Chunk, Label, Subscriber

BURST_FRAMES: Final = 50
"""Frames that are sent without a pause: python-binance gives up when a hundred wait for it.

No pause is made while more waits than a replay queues: the market is so fast that a client must be, too.
"""
BURST_PAUSE: Final = 0.01


class StreamLabel(NamedTuple):
    """A stream as the client called it; `member` is whose event it is in a stream of all instruments."""

    stream: str
    member: InstrumentId | None = None


SHUTDOWN: Final = StreamLabel(events.SHUTDOWN_STREAM)


class Outbox(Subscriber):
    """As a Subscriber, but for its frames; `combined` ones tell of which stream the event is.

    What waits is bounded as there, and a client for which more waits is closed, for it knows no gaps. Open klines and
    tickers keep their newest alone; those of a stream of all instruments are sent together, in one array.
    """

    def __init__(self, limit: int, *, combined: bool = False, unit: int = 1000) -> None:
        super().__init__(limit)
        self.combined = combined
        self._unit = unit
        self._arrays: dict[str, dict[InstrumentId, str]] = {}
        self._burst = 0

    def push(self, text: str, label: Label = None) -> None:
        super().push(self._frame(text, label))

    def push_all(self, batch: Batch, label: Label = None) -> None:
        for text in batch.texts:
            self.push(text, label)

    def push_trades(self, label: Label, chunk: Chunk) -> None:
        seen = self._seen[label]
        if chunk.last_id <= seen:
            return
        self._seen[label] = chunk.last_id
        for trade_id, text in chunk.events:
            if trade_id > seen:
                self.push(text, label)

    def push_latest(self, label: Label, text: str) -> None:
        assert isinstance(label, StreamLabel)
        if label.member is None:
            super().push_latest(label, text)
        elif not self._shut:
            members = self._arrays.setdefault(label.stream, {})
            self.conflated += label.member in members
            members[label.member] = text
            self._wake.set()

    def forget_latest(self, label: Label) -> None:
        assert isinstance(label, StreamLabel)
        if label.member is None:
            super().forget_latest(label)
        elif members := self._arrays.get(label.stream):
            members.pop(label.member, None)

    def announce_shutdown(self) -> None:
        """Tell that the server is about to close the connection."""
        self.push(events.shutdown(now_us(), self._unit), SHUTDOWN)

    def tell_shutdown(self) -> None:
        self.announce_shutdown()
        self.retire()

    def retire(self) -> None:
        """Take nothing more, and let `deliver` return once all is sent."""
        self._shut = True
        self._wake.set()

    def end(self, code: Close) -> None:
        super().end(code)
        self._arrays.clear()

    async def deliver(self, send: Callable[[str], Awaitable[None]]) -> None:
        async def send_paced(frame: str) -> None:
            await send(frame)
            await self._pause()

        await super().deliver(send_paced)

    async def _pause(self) -> None:
        if self._clock() - self._sent_at > BURST_PAUSE:
            self._burst = 0
        self._burst += 1
        if self._burst >= BURST_FRAMES and self._bytes <= self._limit:
            self._burst = 0
            await asyncio.sleep(BURST_PAUSE)

    def take(self) -> str | None:
        """The next frame; None when nothing waits."""
        frame = self._next()
        if self._bytes <= self._limit // 4:
            self._room.set()
        if not (self._queue or self._latest or self._arrays):
            self._wake.clear()
        return frame

    def _next(self) -> str | None:
        if self._queue:
            frame = self._queue.popleft()
            self._bytes -= len(frame)
            return frame
        if self._latest:
            label, text = self._latest.popitem(last=False)
            return self._frame(text, label)
        while self._arrays:
            stream, members = self._arrays.popitem()
            if members:
                return self._frame(events.array(members.values()), StreamLabel(stream))
        return None

    def check(self, heartbeat_seconds: float, heartbeat: str) -> bool:
        """As there, but for the heartbeat: the connection pings."""
        return super().check(math.inf, heartbeat)

    def _frame(self, text: str, label: Label) -> str:
        if self.combined and isinstance(label, StreamLabel):
            return events.combined(label.stream, text)
        return text
