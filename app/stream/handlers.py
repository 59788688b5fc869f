"""The websocket edge of the native stream: its close codes. All else is the session's and the hub's."""

from typing import Final

import structlog
from litestar import websocket
from litestar.exceptions import WebSocketDisconnect

from app.stream import edge
from app.stream.budget import TooManyMessages
from app.stream.edge import Socket
from app.stream.protocol import MAX_MESSAGES_PER_SECOND, BadFrame, Close
from app.stream.service import Stream

REASONS: Final = {Close.GOING_AWAY: "the server restarts", Close.SLOW_CONSUMER: "the client reads too slowly"}
_log = structlog.get_logger()


@websocket("/api/v1/stream")
async def stream(socket: Socket) -> None:
    """The native stream: requests and events are described in the README."""
    service: Stream = socket.app.state.stream
    await socket.accept()
    if edge.is_foreign(socket):
        await edge.close(socket, Close.FORBIDDEN, "pages of other origins may not connect")
    elif refusal := service.refusal:
        await edge.close(socket, Close.TRY_LATER, refusal)
    else:
        await _serve(socket, service)


async def _serve(socket: Socket, service: Stream) -> None:
    subscriber = service.join()
    session = service.session(subscriber)
    try:
        verdict = _verdict(await edge.converse(socket, session, subscriber))
        session.leave()
        if verdict is not None:
            service.slow += verdict[0] is Close.SLOW_CONSUMER
            await edge.close(socket, *verdict)
    finally:
        session.leave()
        service.leave(subscriber)
        edge.tear_down_later(socket)


def _verdict(end: Close | BaseException) -> tuple[Close, str] | None:
    """How to close, if there is need."""
    match end:
        case Close():
            return end, REASONS[end]
        case WebSocketDisconnect() | OSError():
            return None
        case BadFrame():
            return Close.BAD_FRAME, str(end)
        case TooManyMessages():
            return Close.TOO_MANY, f"more than {MAX_MESSAGES_PER_SECOND} messages a second"
        case _:
            _log.error("stream connection failed", exc_info=end)
            return Close.TRY_LATER, "internal error"
