"""uvicorn's websocket protocol, and what ASGI does not let an application know of its connection, or do with it.

ASGI knows no way to drop a connection, and closing it waits for the client to take what was written. Nor does it tell
of ping and pong frames.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11
from websockets.frames import Frame
from websockets.http11 import Request

CONNECTION: Final = "tickwick.connection"
"""The ASGI extension: the connection's WebSocketProtocol."""

http11.MAX_LINE_LENGTH = 65_536
"""What a URL may have at most, instead of 8,192: it can name 1,024 streams."""
_UNREADABLE: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection; while its client does not read, it gets no pongs either, and no time to close."""

    heard: Callable[[], None] | None = None
    """Called for each ping or pong frame of the client."""
    _pings: deque[bytes] | None = None
    """The payloads of pings that may still be answered, where `ping_steadily` was asked for."""

    def abort(self) -> None:
        """Drop the connection at once, with all that waits to be sent."""
        self.transport.abort()

    def ping_steadily(self, seconds: float, patience: float) -> None:
        """Ping each so many seconds, answered or not, and drop the connection when no answer came for `patience`.

        Instead of uvicorn's keepalive, which waits for a pong before it pings again; to be asked for before `accept`.
        A ping carries the time in milliseconds, as Binance's do; a pong that repeats none of the last is no answer.
        """
        self.ping_interval, self.ping_timeout = seconds, patience
        self._pings = deque(maxlen=int(patience / seconds) + 1)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The request cannot be read, of which uvicorn takes no notice: the client would wait for ever.
            self.transport.write(_UNREADABLE)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[Any, Any] = self.scope["extensions"]
            extensions[CONNECTION] = self

    def handle_ping(self) -> None:
        if self.heard:
            self.heard()
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        if self.heard:
            self.heard()
        if self._pings is None:
            super().handle_pong(event)
        elif bytes(event.data) in self._pings:
            self._be_patient()

    def send_keepalive_ping(self) -> None:
        if self._pings is None or self.close_sent or self.transport.is_closing():
            super().send_keepalive_ping()
            return
        self._pings.append(str(time.time_ns() // 1_000_000).encode())
        self.conn.send_ping(self._pings[-1])
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.pong_timer is None:
            self._be_patient()
        self.schedule_ping()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def _be_patient(self) -> None:
        if self.pong_timer is not None:
            self.pong_timer.cancel()
        self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)


def connection_of(scope: Mapping[str, Any]) -> WebSocketProtocol | None:
    """The connection that a scope is of; None where another server runs the application."""
    return (scope["extensions"] or {}).get(CONNECTION)
