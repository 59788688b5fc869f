"""What every websocket edge does: frames in and out until something ends, and then no socket stays behind."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import structlog
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from app.stream.budget import TooManyMessages
from app.stream.protocol import BadFrame, Close
from app.stream.subscriber import Subscriber
from app.stream.transport import connection_of

CLOSE_SECONDS: Final = 1.0
"""For a client to make room for the close frame, and then again to answer it; afterwards its socket is torn down."""

Socket = WebSocket[Any, Any, Any]
_log = structlog.get_logger()


class Conversation(Protocol):
    """One client's session, whatever language it speaks."""

    def receive(self, frame: str) -> None:
        """Carry out one frame. What it raises ends the connection."""

    async def join_for_ever(self) -> None:
        """Bring subscriptions to life, until cancelled."""


async def converse(socket: Socket, session: Conversation, subscriber: Subscriber) -> Close | BaseException:
    """Read, send and bring subscriptions to life, until one of these ends; answers why."""
    reader = asyncio.create_task(_read(socket, session), name="stream reader")
    sender = asyncio.create_task(subscriber.deliver(_sending(socket)), name="stream sender")
    joiner = asyncio.create_task(session.join_for_ever(), name="stream joiner")
    tasks: list[asyncio.Future[Any]] = [reader, sender, joiner]
    try:
        await asyncio.wait([*tasks, subscriber.ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [e for e in results if isinstance(e, BaseException) and not isinstance(e, asyncio.CancelledError)]
    if errors:
        return errors[0]
    return subscriber.ended.result() if subscriber.ended.done() else Close.GOING_AWAY


def verdict(end: Close | BaseException, reasons: Mapping[Close, str]) -> tuple[Close, str] | None:
    """How to close after such an end, if there is need."""
    match end:
        case Close():
            return end, reasons[end]
        case WebSocketDisconnect() | OSError():
            return None
        case BadFrame():
            return Close.BAD_FRAME, str(end)
        case TooManyMessages():
            return Close.TOO_MANY, reasons[Close.TOO_MANY]
        case _:
            _log.error("stream connection failed", exc_info=end)
            return Close.TRY_LATER, "internal error"


def is_foreign(socket: Socket) -> bool:
    """Whether a page that another site served asks; only browsers tell."""
    origin = socket.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != socket.headers.get("host", "").lower()


async def refuse(socket: Socket, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Answer the handshake with an error of HTTP."""
    await socket.receive()
    await socket.send(
        {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await socket.send({"type": "websocket.http.response.body", "body": body, "more_body": False})
    if connection := connection_of(socket.scope):
        # Or uvicorn logs that the application forgot to complete it.
        connection.handshake_complete = True


async def close(socket: Socket, code: int, reason: str) -> None:
    # A client that does not read cannot be told either.
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await socket.close(code=code, reason=reason)
    tear_down_later(socket)


def tear_down_later(socket: Socket) -> None:
    # Closing a socket waits until all that was written is taken: for ever, where the client does not read.
    if connection := connection_of(socket.scope):
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, connection.abort)


async def _read(socket: Socket, session: Conversation) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(detail="the client left", code=message.get("code", 1005))
        text = message.get("text")
        if not isinstance(text, str):
            raise BadFrame("a message is text, not binary")
        session.receive(text)


def _sending(socket: Socket) -> Callable[[str], Any]:
    async def send(frame: str) -> None:
        await socket.send({"type": "websocket.send", "bytes": None, "text": frame})

    return send
