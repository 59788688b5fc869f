"""One Binance client's outbox: an event a frame, paced, and nothing is ever dropped without closing the connection."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Final

from app.binance.forms import now_us
from app.binance.wire import events
from app.stream.protocol import Close
from app.stream.subscriber import Batch, Chunk, Label, Subscriber

BURST_FRAMES: Final = 50
"""Frames that are sent without a pause: python-binance gives up when a hundred wait for it.

No pause is made while more waits than a replay queues: the market is so fast that a client must be, too.
"""
BURST_PAUSE: Final = 0.01


class Array:
    """The tickers of several instruments, one each; who joins them pays once for all clients."""

    def __init__(self, members: Mapping[Label, str]) -> None:
        self.members = members

    @cached_property
    def text(self) -> str:
        return events.array(self.members.values())


class Outbox(Subscriber):
    """As a Subscriber, but for its frames; `combined` ones tell of which stream the event is.

    Labels are the names of streams, as the client wrote them; what has none is an answer. What waits is bounded as
    there, and a client for which more waits is closed, for it knows no gaps. Open klines and tickers keep their newest
    alone; those of a stream of all instruments keep the newest of each.
    """

    def __init__(self, limit: int, *, combined: bool = False, unit: int = 1000) -> None:
        super().__init__(limit)
        self.combined = combined
        self._unit = unit
        self._arrays: dict[str, Array] = {}
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

    def push_array(self, stream: str, array: Array) -> None:
        """Queue the tickers that changed, in place of those unsent of the same instruments."""
        if self._shut:
            return
        if unsent := self._arrays.get(stream):
            self.conflated += len(unsent.members.keys() & array.members.keys())
            array = Array({**unsent.members, **array.members})
        self._arrays[stream] = array
        self._wake.set()

    def forget_array(self, stream: str) -> None:
        """Drop what is unsent of a stream of all instruments."""
        self._arrays.pop(stream, None)

    def announce_shutdown(self) -> None:
        """Tell that the server is about to close the connection."""
        self.push(events.shutdown(now_us(), self._unit), events.SHUTDOWN_STREAM)

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
        if self._arrays:
            stream, array = self._arrays.popitem()
            return self._frame(array.text, stream)
        return None

    def check(self, heartbeat_seconds: float, heartbeat: str) -> bool:
        """As there, but for the heartbeat: the connection pings."""
        return super().check(math.inf, heartbeat)

    def _frame(self, text: str, label: Label) -> str:
        return events.combined(label, text) if self.combined and isinstance(label, str) else text
