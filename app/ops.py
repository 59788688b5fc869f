"""What operators and orchestrators ask: is it alive, is it ready, how is it doing."""

import asyncio

import msgspec
from litestar import Response, Router, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.db import Pool, translated
from app.errors import DatabaseRefused, DatabaseUnavailable
from app.stream.service import Stream
from app.telemetry import metrics


class Readiness(msgspec.Struct):
    """`ready` when both are."""

    ready: bool
    database: bool
    listener: bool


@get("/livez", operation_id="livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Always 200 while the process serves requests."""
    return {"status": "alive"}


@get("/readyz", operation_id="readyz", summary="Can it serve?")
async def readyz(pool: NamedDependency[Pool], state: State) -> Response[Readiness]:
    """200 when the database answers and the listener is live, else 503."""
    stream: Stream = state.stream
    database = await _answers(pool)
    listener = stream.listener.live.is_set()
    ready = database and listener
    return Response(Readiness(ready, database, listener), status_code=200 if ready else 503)


@get("/metrics", operation_id="metrics", summary="Metrics for Prometheus", media_type=CONTENT_TYPE_LATEST)
async def metrics_page(state: State) -> bytes:
    """Counters and gauges in the text format."""
    registry: CollectorRegistry = state.metrics
    return generate_latest(registry)


async def _answers(pool: Pool) -> bool:
    try:
        with translated():
            async with pool.connection(timeout=1) as conn:
                await conn.execute("SELECT 1")
    except (DatabaseUnavailable, DatabaseRefused):
        return False
    return True


def serve_metrics(stream: Stream) -> CollectorRegistry:
    """The metrics of a `serve` process."""
    hub, listener = stream.hub, stream.listener
    return metrics(
        [
            ("stream_ticks_total", "Ticks that reached the hub.", lambda: hub.counters.ticks),
            ("stream_late_ticks_total", "Ticks that came after a higher id.", lambda: hub.counters.late),
            ("stream_lag_seconds", "From the exchange's time of a batch's last tick to the hub.", lambda: hub.lag),
            ("stream_corrections_total", "Past candles sent again.", lambda: hub.counters.corrections),
            ("stream_gaps_total", "Gaps told to all who follow an instrument's trades.", lambda: hub.gaps),
            ("stream_clients", "Websocket clients.", lambda: len(hub.subscribers)),
            ("stream_dropped_trades_total", "Trades dropped for slow clients.", lambda: stream.dropped),
            ("stream_conflated_total", "Tickers and open candles overtaken unsent.", lambda: stream.conflated),
            ("stream_slow_clients_total", "Clients closed for reading too slowly.", lambda: stream.slow),
            ("listener_live", "1 while the listener is connected and caught up.", lambda: listener.live.is_set()),
            ("listener_reconnects_total", "Times the listener lost its connection.", lambda: listener.reconnects),
            ("tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks())),
        ]
    )


def router() -> Router:
    return Router("/", route_handlers=[livez, readyz, metrics_page], tags=["operations"])
