"""One client's outbox: bounded, ordered for what must not be lost, newest-only for what may be conflated."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from app.stream.form import Form
from app.stream.protocol import Close, GapEvent, Notice, encode

FRAME_BYTES: Final = 65_536
STALL_SECONDS: Final = 10.0
"""A client that has not taken the last frame by then is closed; the least rate at which one must read follows."""


Label = Hashable
"""By what a client knows one of its subscriptions."""


class Batch:
    """Events that are handed out together; who joins them pays once for all clients."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    @cached_property
    def text(self) -> str:
        return ",".join(self.texts)


class Chunk(Batch):
    """Trades of one symbol that were published together, and gaps among them, ascending by id."""

    def __init__(self, symbol: str, events: list[tuple[int, str]]) -> None:
        super().__init__([text for _, text in events])
        self.symbol = symbol
        self.events = events
        self.first_id = events[0][0]
        self.last_id = events[-1][0]


class _Lost(NamedTuple):
    symbol: str
    from_id: int
    to_id: int


class Subscriber:
    """Holds what waits for one websocket client. Owned by the client's connection; filled by the hub.

    At most `limit` bytes of trades wait. When trades would pass it they are dropped, and the client gets a `gap` event
    that tells which, after what is queued before it, once half the outbox is free. Tickers and open candles keep only
    their newest, one for each subscription. Anything else that would pass twice the limit, or a frame that is not taken
    for ten seconds, ends the client with 4408, and frees all that waits.

    So a client that does not read costs, for some ten seconds, at most twice the limit here, less than 1 MiB for the
    newest of its 1,024 subscriptions, some 200 kB for the frame on its way and its copy in the transport, and 128 KiB
    in the kernel beyond what the client's own window took. Clients of one topic share the text of what waits: a hundred
    that stall together cost little more than one.
    """

    def __init__(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.dropped = 0
        self.conflated = 0
        self.ended: asyncio.Future[Close] = loop.create_future()
        """Done as soon as the connection must be closed, whether or not a frame is on its way."""
        self._limit = limit
        self._queue: deque[str] = deque()
        self._bytes = 0
        self._latest: OrderedDict[Label, str] = OrderedDict()
        self._seen: dict[Label, int] = {}
        self._lost: dict[Label, _Lost] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._shut = False
        self._clock = loop.time
        self._sending_since: float | None = None
        self._sent_at = self._clock()

    # Filling: synchronous, called by the hub and by the connection's own tasks.

    def push(self, text: str, label: Label = None) -> None:
        """Queue one or more joined events, which are never dropped."""
        if self._shut:
            return
        self._queue.append(text)
        self._bytes += len(text)
        if self._bytes > self._limit // 2:
            self._room.clear()
            if self._bytes > 2 * self._limit:
                self.end(Close.SLOW_CONSUMER)
        self._wake.set()

    def push_all(self, batch: Batch, label: Label = None) -> None:
        """Queue events, which are never dropped."""
        self.push(batch.text, label)

    def push_latest(self, label: Label, text: str) -> None:
        """Queue an event that takes the place of an unsent one of the same label."""
        if self._shut:
            return
        if label in self._latest:
            self.conflated += 1
        self._latest[label] = text
        self._wake.set()

    def forget_latest(self, label: Label) -> None:
        """Drop the unsent event of a label, which something queued has overtaken."""
        self._latest.pop(label, None)

    def follow_trades(self, label: Label, after_id: int) -> None:
        """From now on take the label's trades with ids above `after_id`."""
        self._seen[label] = after_id

    def unfollow_trades(self, label: Label) -> None:
        self._seen.pop(label, None)
        self._lost.pop(label, None)

    def push_trades(self, label: Label, chunk: Chunk) -> None:
        """Queue trades that the client has not seen, or note them as lost when it lags."""
        seen = self._seen[label]
        if chunk.last_id <= seen or self._shut:
            return
        text, count = chunk.text, len(chunk.events)
        if chunk.first_id <= seen:
            fresh = [event for trade_id, event in chunk.events if trade_id > seen]
            text, count = ",".join(fresh), len(fresh)
        self._seen[label] = chunk.last_id
        lost = self._lost.get(label)
        if lost is not None or self._bytes + len(text) > self._limit:
            self._lost[label] = _Lost(chunk.symbol, lost.from_id if lost else seen + 1, chunk.last_id)
            self.dropped += count
            self._wake.set()
            return
        self.push(text, label)

    def tell_shutdown(self) -> None:
        """Tell that the server restarts, after all that waits, and let `deliver` return."""
        self.finish(encode(Notice("the server restarts")))

    def finish(self, text: str) -> None:
        """Queue a last event, and let `deliver` return once all is sent."""
        self.push(text)
        self._shut = True
        self._wake.set()

    def end(self, code: Close) -> None:
        """Have the connection closed at once; what waits is freed."""
        self._shut = True
        self._queue.clear()
        self._latest.clear()
        self._lost.clear()
        self._bytes = 0
        self._room.set()
        if not self.ended.done():
            self.ended.set_result(code)

    # Draining: by the connection's sender task.

    async def deliver(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Send frames as they fill, until `finish`; lets other tasks run between the frames of a backlog."""
        while not self._shut or self._queue or self._latest:
            await self._wake.wait()
            frame = self.take()
            if frame is None:
                continue
            self._sending_since = self._clock()
            await send(frame)
            self._sending_since = None
            self._sent_at = self._clock()
            if self._wake.is_set():
                await asyncio.sleep(0)

    async def room(self) -> None:
        """Wait until at most a quarter of the limit is filled, after more than half was: the pace of a replay."""
        await self._room.wait()

    def take(self) -> str | None:
        """The next frame, a JSON array, closed with the event that passes 64 KiB; None when nothing waits."""
        if self._lost and self._bytes <= self._limit // 2:
            self._settle_losses()
        parts: list[str] = []
        size = 0
        while self._queue and size < FRAME_BYTES:
            text = self._queue.popleft()
            parts.append(text)
            size += len(text)
        self._bytes -= size
        if self._bytes <= self._limit // 4:
            self._room.set()
        while not self._queue and self._latest and size < FRAME_BYTES:
            _, text = self._latest.popitem(last=False)
            parts.append(text)
            size += len(text)
        if not (self._queue or self._latest or self._lost):
            self._wake.clear()
        return f"[{','.join(parts)}]" if parts else None

    def check(self, heartbeat_seconds: float, heartbeat: str) -> bool:
        """Break a silence with a heartbeat. False: the client's frame was on its way for too long, which ended it."""
        now = self._clock()
        if self._sending_since is not None:
            if now - self._sending_since > STALL_SECONDS and not self.ended.done():
                self.end(Close.SLOW_CONSUMER)
                return False
        elif now - self._sent_at >= heartbeat_seconds and not self._queue:
            self.push(heartbeat)
        return True

    def _settle_losses(self) -> None:
        for lost in self._lost.values():
            self.push(encode(GapEvent(lost.symbol, lost.from_id, lost.to_id, "slow")))
        self._lost.clear()


class Outlet(NamedTuple):
    """Where a topic hands its news: to whom, written how, and by what the client knows it."""

    subscriber: Subscriber
    form: Form
    label: Label
