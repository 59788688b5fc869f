"""What comes before every request to the exchange: a freeze, and a REST that is slow or away."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ingest.simulator.listing import digest
from ingest.simulator.market import mix
from ingest.simulator.misbehaviour import Misbehaviour, Record
from ingest.simulator.session import Sessions

CONTROL = "/control"
SALT = digest("REST")
AWAY = "<html><head><title>503 Service Temporarily Unavailable</title></head></html>"
"""A gateway's answer, in no venue's form."""


def faults(sessions: Sessions, misbehaviour: Callable[[], Misbehaviour], record: Record) -> Middleware:
    """A middleware that spares CONTROL, so that the exchange can always be told to behave again."""
    count = 0

    @web.middleware
    async def fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal count
        if request.path == CONTROL:
            return await handler(request)
        await sessions.thawed()
        if "Upgrade" in request.headers:
            return await handler(request)
        number, count = count, count + 1
        wrong = misbehaviour()
        if wrong.rest_latency_seconds:
            await asyncio.sleep(wrong.rest_latency_seconds)
            await sessions.thawed()
        if mix(mix(wrong.seed ^ SALT) + number) & 0xFFFF < wrong.rest_failure * 0x10000:
            record.counters["rest_failure"] += 1
            return web.Response(status=503, text=AWAY, content_type="text/html")
        return await handler(request)

    return fail
