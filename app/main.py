"""The web application and its server. `create_app` is the only place that wires."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.static_files import create_static_files_router

from app import db, ops, problems, usage
from app.binance.arrays import Arrays
from app.binance.forms import Forms
from app.binance.handlers import router as binance_router
from app.binance.names import Names
from app.binance.session import Shared
from app.binance.sockets import streams as binance_streams
from app.errors import OperatorError, StreamFailed, TickwickError
from app.market.handlers import ADMIN
from app.market.handlers import router as market_router
from app.market.registry import Registry
from app.settings import Settings
from app.signals import stop_signals
from app.stream.handlers import stream as stream_handler
from app.stream.history import StoredHistory
from app.stream.service import Stream
from app.stream.transport import WebSocketProtocol
from app.udf.handlers import router as udf_router

WEB: Final = Path(__file__).parent / "web" / "dist"
VERSION: Final = metadata.version("tickwick")
READY_SECONDS: Final = 10.0
PING_SECONDS: Final = 20.0
"""Between pings to a websocket client, and then again for its answer: one that vanished is gone within 40 s."""
UNSENT_BYTES: Final = 131_072
NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY: Final = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_log = structlog.get_logger()


class _DocsPage(OpenAPIRenderPlugin):
    """Swagger UI from our own files: nothing is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return _page("docs/index.html")


@get("/", include_in_schema=False, media_type="text/html", sync_to_thread=False)
def index() -> bytes:
    """The live chart."""
    return _page("index.html")


def _page(name: str) -> bytes:
    try:
        return (WEB / name).read_bytes()
    except FileNotFoundError:
        raise NotFoundException("the page has not been built: run `make web`") from None


def create_app(settings: Settings) -> Litestar:
    """The application: connects when its lifespan starts, and ends the process when its stream fails."""
    registry = Registry()
    pool = db.pool(settings.dsn, "tickwick serve", settings.pool_size)
    stream = Stream(settings, pool, registry)
    names = Names(registry)
    history = StoredHistory(pool)
    arrays = Arrays(stream.hub, history, registry)
    shared = Shared(stream.hub, history, registry, names, Forms(names), arrays)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stream.run(), name="hub and listener")
            tasks.create_task(arrays.run(), name="arrays")
            tasks.create_task(usage.tidy_for_ever(pool), name="usage")

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with pool:
            task = asyncio.create_task(run(), name="stream")
            task.add_done_callback(_end_process)
            app.state.stream = stream
            app.state.stream_task = task
            app.state.metrics = ops.serve_metrics(stream)
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    return Litestar(
        route_handlers=[
            market_router,
            binance_router,
            udf_router,
            stream_handler,
            binance_streams,
            ops.router(),
            index,
            _static(),
        ],
        lifespan=[lifespan],
        dependencies={
            "registry": Provide(lambda: registry, use_cache=True, sync_to_thread=False),
            "pool": Provide(lambda: pool, use_cache=True, sync_to_thread=False),
            "settings": Provide(lambda: settings, use_cache=True, sync_to_thread=False),
            "binance_names": Provide(lambda: names, use_cache=True, sync_to_thread=False),
            "binance_shared": Provide(lambda: shared, use_cache=True, sync_to_thread=False),
        },
        state=State({"admin_token": settings.admin_token}),
        exception_handlers=problems.HANDLERS,
        openapi_config=_openapi(),
        after_request=_secure,
        request_max_body_size=65_536,
        # A TaskGroup's errors and the like are logged by our own handler.
        logging_config=None,
    )


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Tickwick",
        version=VERSION,
        description="Price ticks in, candles and a live feed out; the feed is a websocket at `/api/v1/stream`.",
        path="/schema",
        components=Components(
            security_schemes={ADMIN: SecurityScheme(type="http", scheme="bearer", description="TICKWICK_ADMIN_TOKEN")}
        ),
        render_plugins=[_DocsPage(), JsonRenderPlugin(), YamlRenderPlugin()],
        tags=[
            Tag("market", "Candles, ticks, prices."),
            Tag("binance", "As Binance answers; its streams are at `/ws` and `/stream`."),
            Tag("TradingView", "The datafeed of TradingView's charting library."),
            Tag("operations", "For probes and Prometheus."),
        ],
    )


def _static() -> Any:
    return create_static_files_router(
        path="/", directories=[WEB], include_in_schema=False, name="page", send_as_attachment=False
    )


def _secure(response: Response[Any]) -> Response[Any]:
    for name, value in _SECURITY.items():
        response.headers.setdefault(name, value)
    return response


def _end_process(task: asyncio.Task[None]) -> None:
    # Without its stream the process looks alive and is not: let whoever started it start it anew.
    if not task.cancelled() and (error := task.exception()):
        _log.error("stream failed", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


class Server(uvicorn.Server):
    """Drains the stream before connections are closed, so that clients get a notice and 1012."""

    def __init__(self, config: uvicorn.Config, app: Litestar, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            # Until the listener is live, clients are told to try later.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self._app.state.stream.listener.live.wait()
            host, port = sockets[0].getsockname()[:2]
            self._ready(f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.stream.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again once it has shut down, and so ends the process before others clean up.
        with stop_signals(lambda: setattr(self, "should_exit", True)):
            yield


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the address.

    Raises OperatorError when the server cannot start, and StreamFailed once it has shut down for want of its stream.
    """
    await serve_on(bind(settings.host, settings.port), settings, ready)


async def serve_on(listening: socket.socket, settings: Settings, ready: Callable[[str], None]) -> None:
    """As `serve`, on a socket that is bound already; cancelling it shuts down as a signal does."""
    await _check_database(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws=WebSocketProtocol,
        ws_max_size=1 << 20,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,
    )
    server = Server(config, app, ready)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="server")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    task: asyncio.Task[None] | None = app.state.get("stream_task")
    if task and not task.cancelled() and (error := task.exception()):
        raise StreamFailed("the live feed failed, and the server has shut down; the log tells why") from error


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OperatorError when the port is taken or the address is not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # The protocol is named, for asyncio switches delays off for TCP alone.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if NOTSENT_LOWAT:
            # Connections inherit it: what a client does not read waits with us, is bounded, conflated, and noticed.
            listening.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT_BYTES)
        listening.bind((host, port))
    except OSError as error:
        raise OperatorError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    listening.setblocking(False)
    return listening


async def _check_database(settings: Settings) -> None:
    try:
        async with await db.connect(settings.dsn, "tickwick serve") as conn:
            with db.translated():
                await conn.execute("SELECT FROM market.instruments LIMIT 0")
    except TickwickError as error:
        raise OperatorError(f"cannot use the database: {error}") from error
