"""The websocket edge of the native stream: frames in and out, close codes, limits. All else is the session's and the hub's."""

import asyncio
import contextlib
import time
from typing import Any, Final

import structlog
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from app.stream.protocol import BadFrame, Close, Heartbeat, Notice, encode
from app.stream.service import Stream
from app.stream.session import Session, TooManyMessages
from app.stream.subscriber import Subscriber

CLOSE_TIMEOUT: Final = 1.0
_log = structlog.get_logger()


@websocket("/api/v1/stream")
async def stream(socket: WebSocket[Any, Any, Any]) -> None:
    """The native stream: see docs in the README for its frames."""
    service: Stream = socket.app.state.stream
    await socket.accept()
    if service.full:
        await _close(socket, Close.TRY_LATER, "too many clients: try later")
        return
    subscriber = service.join()
    session = service.session(subscriber)
    connection = _Connection(socket, service, subscriber)
    try:
        await connection.serve(session)
    finally:
        session.leave()
        service.leave(subscriber)


class _Connection:
    """Two tasks for one socket, the reader and the sender; the first to end ends both."""

    def __init__(self, socket: WebSocket[Any, Any, Any], service: Stream, subscriber: Subscriber) -> None:
        self._socket = socket
        self._service = service
        self._subscriber = subscriber
        self._sending = False

    async def serve(self, session: Session) -> None:
        reader = asyncio.create_task(self._read(session), name="stream reader")
        sender = asyncio.create_task(self._send(), name="stream sender")
        guard = asyncio.create_task(self._guard(), name="stream guard")
        tasks = {reader, sender, guard}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                await self._end(error)
                return

    async def _end(self, error: BaseException) -> None:
        match error:
            case WebSocketDisconnect():
                return
            case BadFrame():
                await _close(self._socket, Close.BAD_FRAME, str(error))
            case TooManyMessages():
                await _close(self._socket, Close.TOO_MANY, "more than 10 messages a second")
            case _Stopping():
                await _close(self._socket, Close.GOING_AWAY, "the server restarts")
            case _TooSlow():
                self._service.slow += 1
                await _close(self._socket, Close.SLOW_CONSUMER, "the client reads too slowly")
            case _:
                _log.error("stream connection failed", exc_info=error)
                await _close(self._socket, Close.TRY_LATER, "internal error")

    async def _read(self, session: Session) -> None:
        while True:
            await session.receive(await self._frame())

    async def _frame(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(detail="the client left", code=message.get("code", 1005))
        text: str | None = message.get("text")
        if text is None:
            raise BadFrame("a message is text, not binary")
        return text

    async def _send(self) -> None:
        subscriber, service = self._subscriber, self._service
        while True:
            try:
                async with asyncio.timeout(service.heartbeat_seconds):
                    await subscriber.wait()
            except TimeoutError:
                subscriber.push(encode(Heartbeat(service.now())))
            while (frame := subscriber.take()) is not None:
                self._sending = True
                await self._socket.send_data(frame, mode="text")
                self._sending = False
            if service.stopping.is_set():
                await self._socket.send_data(f"[{encode(Notice('the server restarts'))}]", mode="text")
                raise _Stopping

    async def _guard(self) -> None:
        while not self._subscriber.too_slow:
            await asyncio.sleep(0.5)
            self._subscriber.check(time.monotonic(), sending=self._sending)
        raise _TooSlow


class _Stopping(Exception):
    pass


class _TooSlow(Exception):
    pass


async def _close(socket: WebSocket[Any, Any, Any], code: Close, reason: str) -> None:
    # A client that does not read cannot be told either.
    with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await socket.close(code=code, reason=reason)
