"""The websocket edge of the native stream: frames in and out, close codes. All else is the session's and the hub's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from app.stream.protocol import MAX_MESSAGES_PER_SECOND, BadFrame, Close
from app.stream.service import Stream
from app.stream.session import Session, TooManyMessages
from app.stream.subscriber import Subscriber
from app.stream.transport import ABORT

CLOSE_SECONDS: Final = 1.0
"""For a client to make room for the close frame, and then again to answer it; afterwards its socket is torn down."""
_log = structlog.get_logger()

Socket = WebSocket[Any, Any, Any]


@websocket("/api/v1/stream")
async def stream(socket: Socket) -> None:
    """The native stream: requests and events are described in the README."""
    service: Stream = socket.app.state.stream
    await socket.accept()
    if _is_foreign(socket):
        await _close(socket, Close.FORBIDDEN, "pages of other origins may not connect")
    elif refusal := service.refusal:
        await _close(socket, Close.TRY_LATER, refusal)
    else:
        await _serve(socket, service)


async def _serve(socket: Socket, service: Stream) -> None:
    subscriber = service.join()
    session = service.session(subscriber)
    try:
        verdict = await _converse(socket, session, subscriber)
        session.leave()
        if verdict is not None:
            service.slow += verdict[0] is Close.SLOW_CONSUMER
            await _close(socket, *verdict)
    finally:
        session.leave()
        service.leave(subscriber)
        _tear_down_later(socket)


async def _converse(socket: Socket, session: Session, subscriber: Subscriber) -> tuple[Close, str] | None:
    """Read, send and bring subscriptions to life, until one of these ends; answers how to close, if there is need."""
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
        return _verdict(errors[0])
    code = subscriber.ended.result() if subscriber.ended.done() else Close.GOING_AWAY
    return code, "the server restarts" if code is Close.GOING_AWAY else "the client reads too slowly"


def _verdict(error: BaseException) -> tuple[Close, str] | None:
    match error:
        case WebSocketDisconnect() | OSError():
            return None
        case BadFrame():
            return Close.BAD_FRAME, str(error)
        case TooManyMessages():
            return Close.TOO_MANY, f"more than {MAX_MESSAGES_PER_SECOND} messages a second"
        case _:
            _log.error("stream connection failed", exc_info=error)
            return Close.TRY_LATER, "internal error"


async def _read(socket: Socket, session: Session) -> None:
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


def _is_foreign(socket: Socket) -> bool:
    """Whether a page that another site served asks; only browsers tell."""
    origin = socket.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != socket.headers.get("host", "").lower()


async def _close(socket: Socket, code: Close, reason: str) -> None:
    # A client that does not read cannot be told either.
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await socket.close(code=code, reason=reason)
    _tear_down_later(socket)


def _tear_down_later(socket: Socket) -> None:
    # Closing a socket waits until all that was written is taken: for ever, where the client does not read.
    abort: Any = (socket.scope["extensions"] or {}).get(ABORT)
    if abort is not None:
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, abort)
