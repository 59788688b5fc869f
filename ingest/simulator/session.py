"""The websocket side of the exchange, whatever the venue: connections, their subscriptions, and who receives what.

Frames go straight to the transport, so publishing never waits. A client that does not read fills its own buffer, up to
`Limits.buffer_bytes`, and is then cut off; the others notice nothing.
"""

import asyncio
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from app.binance.wire import weights
from ingest.simulator import wire
from ingest.simulator.wire import Topic

MAX_MESSAGE = 64 * 1024
CLOSE_SECONDS = 1.0
"""How long a client gets to answer a close frame."""
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing then sends RST, and no FIN."""

Wrap = Callable[[str, bytes], bytes]


class Limits(msgspec.Struct, frozen=True):
    """What a connection may do; the defaults are Binance's, but for the buffer, which is ours."""

    messages_per_second: int = weights.MESSAGES_PER_SECOND
    streams: int = weights.STREAMS
    ping_seconds: float = weights.PING_SECONDS
    pong_seconds: float = weights.PONG_SECONDS
    buffer_bytes: int = 8 * 1024 * 1024


class Sessions:
    """All open connections and the index from topic to subscribers.

    `changed` is called with a topic whenever its subscribers change.
    """

    def __init__(self, limits: Limits, counters: Counter[str], changed: Callable[[Topic], None]) -> None:
        self.limits = limits
        self.counters = counters
        self.open: set[Session] = set()
        self._changed = changed
        self._topics: dict[Topic, set[Session]] = {}
        self._silent_until = 0.0
        self._closed_until = 0.0
        self._thaw = asyncio.Event()
        self._thaw.set()
        self._thawing: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        return time.monotonic() < self._silent_until

    @property
    def closed(self) -> bool:
        """Whether new connections are refused."""
        return time.monotonic() < self._closed_until

    def wanted(self, topic: Topic) -> bool:
        return topic in self._topics

    def publish(self, topic: Topic, payloads: Sequence[bytes]) -> None:
        """Send the payloads of a topic to its subscribers, encoded once for all that have them wrapped alike."""
        encoded: dict[Wrap | None, bytes] = {}
        for session in tuple(self._topics.get(topic, ())):
            if (wrap := session.wrap) not in encoded:
                dressed = [wrap(topic.stream, payload) for payload in payloads] if wrap else payloads
                encoded[wrap] = b"".join(map(wire.text, dressed))
            session.write(encoded[wrap])

    def subscribe(self, session: "Session", topics: Iterable[Topic]) -> None:
        for topic in topics:
            session.topics[topic] = None
            self._topics.setdefault(topic, set()).add(session)
            self._changed(topic)

    def unsubscribe(self, session: "Session", topics: Iterable[Topic]) -> None:
        for topic in topics:
            session.topics.pop(topic, None)
            if subscribers := self._topics.get(topic):
                subscribers.discard(session)
                if not subscribers:
                    del self._topics[topic]
                self._changed(topic)

    def drop(self) -> None:
        """Cut every connection at once, without a close frame: FIN."""
        for session in self.open:
            session.abort()

    def reset(self) -> None:
        """Cut every connection at once: RST, and what was on its way is lost."""
        for session in self.open:
            session.reset()

    def silence(self, seconds: float) -> None:
        """Send nothing on any connection for a while, not even pings; what is traded meanwhile is never sent."""
        self._silent_until = time.monotonic() + seconds

    def freeze(self, seconds: float) -> None:
        """Stand still for so long from now, in place of a freeze that lasts."""
        if self._thawing:
            self._thawing.cancel()
        self._thaw.clear()
        self._thawing = asyncio.get_running_loop().call_later(seconds, self._thaw.set)

    def thaw(self) -> None:
        """End a freeze now."""
        if self._thawing:
            self._thawing.cancel()
        self._thaw.set()

    async def thawed(self) -> None:
        """Return when the exchange does not stand still."""
        await self._thaw.wait()

    async def close(self, seconds: float, notice: float, now_us: int) -> None:
        """Tell every client, close every connection after `notice` seconds, and refuse new ones for `seconds`."""
        leaving = tuple(self.open)
        for session in leaving:
            session.tell_of_end(now_us)
        if notice:
            await asyncio.sleep(notice)
            leaving = tuple(self.open) if seconds else leaving
        self._closed_until = time.monotonic() + seconds
        await asyncio.gather(*(session.close(WSCloseCode.GOING_AWAY, "server shutdown") for session in leaving))


class Session(ABC):
    """One websocket connection. Its topics keep the order in which they were subscribed.

    A venue says what a frame of the client brings (`answer`), and how payloads are wrapped, where they are (`wrap`).
    """

    wrap: Wrap | None = None

    def __init__(self, sessions: Sessions, request: web.Request, messages_per_second: int) -> None:
        self.topics: dict[Topic, None] = {}
        self.sessions = sessions
        self._request = request
        self._socket = web.WebSocketResponse(
            autoping=False, compress=False, timeout=CLOSE_SECONDS, max_msg_size=MAX_MESSAGE
        )
        self._transport: asyncio.Transport | None = None
        self._arrivals: deque[float] = deque(maxlen=messages_per_second + 1)
        self._pong_at = 0.0

    @abstractmethod
    def answer(self, frame: str) -> None:
        """Obey a text frame of the client, and write the answer."""

    def notice(self, now_us: int) -> bytes | None:
        """What tells the client that the connection will end, where the venue has such a message."""
        return None

    async def serve(
        self, topics: Sequence[Topic], *, life: float, notice: float, clock: Callable[[], int]
    ) -> web.WebSocketResponse:
        """Serve the connection until it ends. It is closed after `life` seconds (0: never), with a notice before."""
        await self._socket.prepare(self._request)
        self._transport = self._request.transport
        self.sessions.open.add(self)
        self._pong_at = time.monotonic()
        keeper = asyncio.create_task(self._keep_alive(), name="exchange-ping")
        reaper = asyncio.create_task(self._end_after(life, notice, clock), name="exchange-life")
        try:
            self.sessions.subscribe(self, topics)
            await self._read()
        finally:
            keeper.cancel()
            reaper.cancel()
            self.sessions.unsubscribe(self, tuple(self.topics))
            self.sessions.open.discard(self)
        return self._socket

    def write(self, data: bytes) -> None:
        """Send whole frames, unless the exchange is silent; a client that is too far behind is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._socket.closed or self.sessions.silent:
            return
        if transport.get_write_buffer_size() + len(data) > self.sessions.limits.buffer_bytes:
            self.sessions.counters["slow_client"] += 1
            transport.abort()
            return
        transport.write(data)

    def tell_of_end(self, now_us: int) -> None:
        if payload := self.notice(now_us):
            self.write(wire.text(payload))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    async def _read(self) -> None:
        async for message in self._socket:
            await self.sessions.thawed()
            if message.type is WSMsgType.PING:
                self.write(wire.pong(message.data))
            elif message.type is WSMsgType.PONG:
                self._pong_at = time.monotonic()
            elif message.type is WSMsgType.TEXT:
                self.answer(message.data)
            if self._too_many():
                await self.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")

    def _too_many(self) -> bool:
        """Whether the last second brought more messages than a client may send; pings and pongs count."""
        self._arrivals.append(time.monotonic())
        return len(self._arrivals) == self._arrivals.maxlen and self._arrivals[-1] - self._arrivals[0] < 1

    async def _keep_alive(self) -> None:
        limits = self.sessions.limits
        while True:
            await asyncio.sleep(limits.ping_seconds)
            await self.sessions.thawed()
            if time.monotonic() - self._pong_at > limits.pong_seconds:
                self.sessions.counters["pong_timeout"] += 1
                self.abort()
            self.write(wire.ping(b"%d" % (time.time_ns() // 1_000_000)))

    async def _end_after(self, life: float, notice: float, clock: Callable[[], int]) -> None:
        if life:
            await asyncio.sleep(max(0.0, life - notice))
            await self.sessions.thawed()
            self.tell_of_end(clock())
            await asyncio.sleep(min(notice, life))
            await self.sessions.thawed()
            await self.close(WSCloseCode.GOING_AWAY, "connection is too old")
