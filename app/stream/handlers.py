"""The websocket edge of the native stream: its close codes. All else is the session's and the hub's."""

from typing import Final

from litestar import websocket

from app.stream import edge
from app.stream.edge import Socket
from app.stream.protocol import MAX_MESSAGES_PER_SECOND, Close
from app.stream.service import Stream

REASONS: Final = {
    Close.GOING_AWAY: "the server restarts",
    Close.SLOW_CONSUMER: "the client reads too slowly",
    Close.TOO_MANY: f"more than {MAX_MESSAGES_PER_SECOND} messages a second",
}


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
        verdict = edge.verdict(await edge.converse(socket, session, subscriber), REASONS)
        session.leave()
        if verdict is not None:
            service.slow += verdict[0] is Close.SLOW_CONSUMER
            await edge.close(socket, *verdict)
    finally:
        session.leave()
        service.leave(subscriber)
        edge.tear_down_later(socket)
