"""uvicorn's websocket protocol, but for clients that do not read: their sockets can be torn down.

ASGI knows no way to drop a connection, and closing it waits for the client to take what was written.
"""

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

ABORT: Final = "tickwick.abort"
"""The ASGI extension: a callable that drops the connection at once, with all that waits to be sent."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Offers the ABORT extension; while the client does not read, it gets no pongs either, and no time to close."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[Any, Any] = self.scope["extensions"]
            extensions[ABORT] = self.transport.abort

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
