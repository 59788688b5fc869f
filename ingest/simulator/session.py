"""The websocket side of the exchange: connections, their subscriptions, and who receives what.

Frames go straight to the transport, so publishing never waits. A client that does not read fills its own buffer, up to
`Limits.buffer_bytes`, and is then cut off; the others notice nothing.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from ingest.simulator import frames

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
INVALID_REQUEST = 2
INVALID_JSON = 3
MAX_MESSAGE = 64 * 1024
CLOSE_SECONDS = 1.0
"""How long a client gets to answer a close frame."""


class Limits(msgspec.Struct, frozen=True):
    """What a connection may do; the defaults are Binance's, but for the buffer, which is ours."""

    messages_per_second: int = 5
    streams: int = 1024
    ping_seconds: float = 20.0
    pong_seconds: float = 60.0
    buffer_bytes: int = 8 * 1024 * 1024


class Refused(Exception):  # answered, not raised to a user
    """A control frame that is answered with an error."""

    def __init__(self, message: str, code: int = INVALID_REQUEST) -> None:
        super().__init__(message)
        self.code = code


class Sessions:
    """All open connections and the index from stream to subscribers.

    `changed` is called with a stream's name whenever its subscribers change.
    """

    def __init__(self, limits: Limits, counters: Counter[str], changed: Callable[[str], None]) -> None:
        self.limits = limits
        self.counters = counters
        self.open: set[Session] = set()
        self._changed = changed
        self._streams: dict[str, set[Session]] = {}
        self._silent_until = 0.0
        self._closed_until = 0.0

    @property
    def silent(self) -> bool:
        return time.monotonic() < self._silent_until

    @property
    def closed(self) -> bool:
        """Whether new connections are refused."""
        return time.monotonic() < self._closed_until

    def wanted(self, stream: str) -> bool:
        return stream in self._streams

    def publish(self, stream: str, payloads: Sequence[bytes]) -> None:
        """Send the payloads of a stream to its subscribers, encoded once for all of them."""
        raw = wrapped = b""
        for session in tuple(self._streams.get(stream, ())):
            if session.combined:
                wrapped = wrapped or b"".join([frames.text(frames.combined(stream, payload)) for payload in payloads])
                session.write(wrapped)
            else:
                raw = raw or b"".join(map(frames.text, payloads))
                session.write(raw)

    def subscribe(self, session: "Session", streams: Iterable[str]) -> None:
        """Refused beyond the limit of streams, and then nothing changes."""
        streams = dict.fromkeys(streams)
        if len(session.streams | streams) > self.limits.streams:
            raise Refused(f"Invalid request: at most {self.limits.streams} streams on a connection")
        session.streams |= streams
        for stream in streams:
            self._streams.setdefault(stream, set()).add(session)
            self._changed(stream)

    def unsubscribe(self, session: "Session", streams: Iterable[str]) -> None:
        for stream in streams:
            session.streams.pop(stream, None)
            if subscribers := self._streams.get(stream):
                subscribers.discard(session)
                if not subscribers:
                    del self._streams[stream]
                self._changed(stream)

    def drop(self) -> None:
        """Cut every connection at once, without a close frame."""
        for session in self.open:
            session.abort()

    def silence(self, seconds: float) -> None:
        """Send nothing on any connection for a while, not even pings; what is traded meanwhile is never sent."""
        self._silent_until = time.monotonic() + seconds

    async def close(self, seconds: float, notice: float, now_us: int) -> None:
        """Tell every client, close every connection after `notice` seconds, and refuse new ones for `seconds`."""
        leaving = tuple(self.open)
        for session in leaving:
            session.write(frames.text(frames.shutdown_frame(now_us)))
        if notice:
            await asyncio.sleep(notice)
            leaving = tuple(self.open) if seconds else leaving
        self._closed_until = time.monotonic() + seconds
        await asyncio.gather(*(session.close(WSCloseCode.GOING_AWAY, "server shutdown") for session in leaving))


class Session:
    """One websocket connection. Its streams keep the order in which they were subscribed."""

    def __init__(self, sessions: Sessions, request: web.Request, *, combined: bool) -> None:
        self.combined = combined
        self.streams: dict[str, None] = {}
        self._sessions = sessions
        self._request = request
        self._socket = web.WebSocketResponse(
            autoping=False, compress=False, timeout=CLOSE_SECONDS, max_msg_size=MAX_MESSAGE
        )
        self._transport: asyncio.Transport | None = None
        self._arrivals: deque[float] = deque(maxlen=sessions.limits.messages_per_second + 1)
        self._pong_at = 0.0

    async def serve(
        self, streams: Sequence[str], *, life: float, notice: float, clock: Callable[[], int]
    ) -> web.WebSocketResponse:
        """Serve the connection until it ends. It is closed after `life` seconds (0: never), with a notice before."""
        await self._socket.prepare(self._request)
        self._transport = self._request.transport
        self._sessions.open.add(self)
        self._pong_at = time.monotonic()
        keeper = asyncio.create_task(self._keep_alive(), name="exchange-ping")
        reaper = asyncio.create_task(self._end_after(life, notice, clock), name="exchange-life")
        try:
            self._sessions.subscribe(self, streams)
            await self._read()
        finally:
            keeper.cancel()
            reaper.cancel()
            self._sessions.unsubscribe(self, tuple(self.streams))
            self._sessions.open.discard(self)
        return self._socket

    def write(self, data: bytes) -> None:
        """Send whole frames, unless the exchange is silent; a client that is too far behind is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._socket.closed or self._sessions.silent:
            return
        if transport.get_write_buffer_size() + len(data) > self._sessions.limits.buffer_bytes:
            self._sessions.counters["slow_client"] += 1
            transport.abort()
            return
        transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.PING:
                self.write(frames.pong(message.data))
            elif message.type is WSMsgType.PONG:
                self._pong_at = time.monotonic()
            elif message.type is WSMsgType.TEXT:
                self._answer(message.data)
            if self._too_many():
                await self.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")

    def _too_many(self) -> bool:
        """Whether the last second brought more messages than a client may send; pings and pongs count."""
        self._arrivals.append(time.monotonic())
        return len(self._arrivals) == self._arrivals.maxlen and self._arrivals[-1] - self._arrivals[0] < 1

    def _answer(self, frame: str) -> None:
        request_id: object = None
        try:
            try:
                request = msgspec.json.decode(frame)
            except msgspec.DecodeError as error:
                raise Refused(f"Invalid JSON: {error}", INVALID_JSON) from error
            if not isinstance(request, dict):
                raise Refused("Invalid request: expected an object")
            request_id = _valid_id(request.get("id"))
            answer: dict[str, object] = {"result": self._obey(request.get("method"), request.get("params", []))}
        except Refused as refusal:
            answer = {"error": {"code": refusal.code, "msg": str(refusal)}}
        self.write(frames.text(msgspec.json.encode(answer | {"id": request_id})))

    def _obey(self, method: object, params: object) -> object:
        if method not in METHODS:
            raise Refused(f"Invalid request: unknown variant {method}, expected one of {', '.join(METHODS)}")
        if not isinstance(params, list):
            raise Refused("Invalid request: params must be an array")
        if method == "LIST_SUBSCRIPTIONS":
            return list(self.streams)
        if method in {"SET_PROPERTY", "GET_PROPERTY"}:
            return self._property(method, params)
        if not params or not all(isinstance(stream, str) for stream in params):
            raise Refused("Invalid request: params must be an array of stream names")
        if method == "SUBSCRIBE":
            self._sessions.subscribe(self, params)
        else:
            self._sessions.unsubscribe(self, params)
        return None

    def _property(self, method: str, params: list[object]) -> object:
        """`combined` is the only property: whether events come wrapped with the name of their stream."""
        match method, params:
            case "GET_PROPERTY", ["combined"]:
                return self.combined
            case "SET_PROPERTY", ["combined", bool(value)]:
                self.combined = value
                return None
        raise Refused("Unknown property", code=0)

    async def _keep_alive(self) -> None:
        limits = self._sessions.limits
        while True:
            await asyncio.sleep(limits.ping_seconds)
            if time.monotonic() - self._pong_at > limits.pong_seconds:
                self._sessions.counters["pong_timeout"] += 1
                self.abort()
            self.write(frames.ping(b"%d" % (time.time_ns() // 1_000_000)))

    async def _end_after(self, life: float, notice: float, clock: Callable[[], int]) -> None:
        if life:
            await asyncio.sleep(max(0.0, life - notice))
            self.write(frames.text(frames.shutdown_frame(clock())))
            await asyncio.sleep(min(notice, life))
            await self.close(WSCloseCode.GOING_AWAY, "connection is too old")


def _valid_id(request_id: object) -> object:
    """The id of a control frame: an integer, a string of at most 36 characters, or null."""
    if isinstance(request_id, bool) or not (request_id is None or isinstance(request_id, int | str)):
        raise Refused("Invalid request: request ID must be an integer, a string, or null")
    if isinstance(request_id, str) and len(request_id) > 36:
        raise Refused("Invalid request: request ID must be at most 36 characters")
    return request_id
