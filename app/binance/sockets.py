"""The websocket edge of Binance's streams: handshakes, refusals in HTTP, keepalive, close codes."""

from typing import Final

import msgspec
import structlog
from litestar import websocket
from litestar.di import NamedDependency

from app import usage
from app.binance.handshake import handshake
from app.binance.outbox import Outbox
from app.binance.session import Session, Shared
from app.binance.wire.errors import BinanceError, too_many_connections, unavailable
from app.binance.wire.weights import CONNECTIONS_SECONDS, LIFE, PING_SECONDS, PONG_SECONDS
from app.db import Pool, translated
from app.errors import DatabaseRefused, DatabaseUnavailable
from app.settings import Settings
from app.stream import edge
from app.stream.edge import Socket
from app.stream.protocol import Close
from app.stream.service import Stream
from app.stream.transport import connection_of

POLICY_VIOLATION: Final = 1008
REASONS: Final = {
    Close.GOING_AWAY: "connect again",
    Close.SLOW_CONSUMER: "the client reads too slowly",
    Close.TOO_MANY: "Too many requests",
}
_FOREIGN: Final = BinanceError(-2015, "Pages of other origins may not connect.", 403)
_log = structlog.get_logger()


@websocket(["/ws", "/ws/{streams:path}", "/stream"])
async def streams(
    socket: Socket,
    settings: NamedDependency[Settings],
    pool: NamedDependency[Pool],
    binance_shared: NamedDependency[Shared],
) -> None:
    """Binance's market streams, raw and combined."""
    service: Stream = socket.app.state.stream
    try:
        if edge.is_foreign(socket):
            raise _FOREIGN
        await _spend(socket, pool, settings.connection_limit)
        asked = handshake(socket.scope["path"], socket.scope["query_string"].decode("latin-1"))
        if service.refusal:
            raise unavailable()
    except (DatabaseUnavailable, DatabaseRefused) as error:
        _log.warning("stream handshake failed", reason=str(error))
        await _refuse(socket, unavailable())
    except BinanceError as error:
        await _refuse(socket, error)
    else:
        outbox = Outbox(settings.outbox_bytes, combined=asked.combined, unit=asked.unit)
        await _serve(socket, service, outbox, Session(binance_shared, outbox, asked, LIFE))


async def _spend(socket: Socket, pool: Pool, limit: int) -> None:
    """Count the connection among those of its address, also where it is refused: some clients ask again at once."""
    address = socket.client.host if socket.client else ""
    with translated():
        async with pool.connection() as conn:
            used, seconds_left = await usage.spend(conn, "binance connections", address, 1, CONNECTIONS_SECONDS)
    if used > limit:
        raise too_many_connections(limit, seconds_left)


async def _serve(socket: Socket, service: Stream, outbox: Outbox, session: Session) -> None:
    service.hub.subscribers.add(outbox)
    try:
        await _accept(socket, session)
        verdict = edge.verdict(await edge.converse(socket, session, outbox), REASONS)
        session.leave()
        if verdict is not None:
            service.slow += verdict[0] is Close.SLOW_CONSUMER
            code, reason = verdict
            await edge.close(socket, POLICY_VIOLATION if code >= Close.BAD_FRAME else code, reason)
    finally:
        session.leave()
        service.leave(outbox)
        edge.tear_down_later(socket)


async def _accept(socket: Socket, session: Session) -> None:
    if connection := connection_of(socket.scope):
        connection.ping_steadily(PING_SECONDS, PONG_SECONDS)
        connection.heard = session.heard
    await socket.accept()


async def _refuse(socket: Socket, error: BinanceError) -> None:
    headers = {"content-type": "application/json;charset=UTF-8"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    await edge.refuse(socket, error.status, headers, msgspec.json.encode(error.body))
