"""The calls of `/api/v3`: each is told to OpenAPI, weighed, read and answered out of one declaration.

The parameters are read by `wire.parameters` alone, so that all that is wrong with them is said in Binance's form. Every
answer tells the weight that its address has used; a request that is refused has cost its weight too.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from litestar import MediaType, Request, Response, get, route
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter

from app import usage
from app.binance.names import Names
from app.binance.reads import Asked
from app.binance.wire import errors
from app.binance.wire.errors import BinanceError
from app.binance.wire.parameters import Parameters, time_unit
from app.binance.wire.weights import weight
from app.db import Pool, translated
from app.errors import DatabaseRefused, DatabaseUnavailable, TickwickError
from app.market.store import Connection
from app.settings import Settings

LIMIT: Final = "binance weight"
MINUTE: Final = 60
_OTHER_METHODS: Final = [one for one in HttpMethod if one not in (HttpMethod.GET, HttpMethod.OPTIONS)]
_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger()

AnyRequest = Request[Any, Any, State]


class Refusal(msgspec.Struct):
    """An error in Binance's form: the code says what is wrong, the message says it in words."""

    code: int
    msg: str


class Call(NamedTuple):
    """A call by its name under `/api/v3`; `answer` is the type of what `read` answers."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    read: Callable[[Asked], Awaitable[Any]]
    answer: Any

    @property
    def allowed(self) -> frozenset[str]:
        return frozenset(one.name for one in self.parameters if one.param_in == "query")

    def handlers(self) -> list[HTTPRouteHandler]:
        """For GET, and for the methods that are not supported."""
        described = get(
            f"/{self.name}",
            operation_id="binance" + "".join(word[0].upper() + word[1:] for word in self.name.split("/")),
            summary=self.summary,
            description=self.read.__doc__,
            operation_class=_documented(self.parameters),
            responses={200: _response(self.answer, "As Binance answers."), **_REFUSALS},
            call=self,
        )
        refused = route(f"/{self.name}", http_method=_OTHER_METHODS, include_in_schema=False, status=405)
        return [described(_answer), refused(_refuse)]


def nothing_else() -> HTTPRouteHandler:
    """For all paths that no call has."""
    methods = [HttpMethod.GET, *_OTHER_METHODS]
    return route(["/", "/{rest:path}"], http_method=methods, include_in_schema=False, status=404)(_refuse)


def _documented(parameters: tuple[Parameter, ...]) -> type[Operation]:
    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            self.parameters = [*parameters]

    return Documented


def _response(answer: Any, description: str) -> ResponseSpec:
    return ResponseSpec(answer, description=description, generate_examples=False)


_REFUSALS: Final = {
    400: _response(Refusal, "A parameter is wrong."),
    429: _response(Refusal, "The address has used up its weight: `Retry-After` tells the seconds to wait."),
    503: _response(Refusal, "The database is away."),
}


async def _answer(
    request: AnyRequest,
    settings: NamedDependency[Settings],
    pool: NamedDependency[Pool],
    binance_names: NamedDependency[Names],
) -> Response[bytes]:
    call: Call = request.route_handler.opt["call"]
    pairs = list(request.query_params.multi_items())
    limit = settings.request_weight
    # What is used at least: told where the database cannot be asked.
    request.state.used_weight = cost = weight(call.name, dict(pairs))
    with translated():
        async with pool.connection() as conn:
            await _spend(request, conn, cost, limit)
            given = Parameters(pairs, call.allowed)
            unit = time_unit(request.headers.get("x-mbx-time-unit"))
            found = await call.read(Asked(given, binance_names, conn, unit, datetime.now(UTC), limit))
    return Response(_encode(found), media_type=MediaType.JSON, headers=_headers(request))


async def _refuse(
    request: AnyRequest, settings: NamedDependency[Settings], pool: NamedDependency[Pool]
) -> Response[bytes]:
    request.state.used_weight = 1
    with translated():
        async with pool.connection() as conn:
            await _spend(request, conn, 1, settings.request_weight)
    status: int = request.route_handler.opt["status"]
    raise BinanceError(-1020, "This operation is not supported.", status)


async def _spend(request: AnyRequest, conn: Connection, cost: int, limit: int) -> None:
    """Raises BinanceError where the address has used up its weight of the minute."""
    address = request.client.host if request.client else ""
    used, seconds_left = await usage.spend(conn, LIMIT, address, cost, MINUTE)
    request.state.used_weight = used
    if used > limit:
        raise errors.too_much_weight(limit, seconds_left)


def _headers(request: AnyRequest) -> dict[str, str]:
    used = str(request.state.get("used_weight", 0))
    return {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}


def refuse(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Any error in Binance's form."""
    refusal = _refusal(request, error)
    headers = _headers(request)
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 405:
        headers["Allow"] = "GET, OPTIONS"
    return Response(_encode(refusal.body), status_code=refusal.status, media_type=MediaType.JSON, headers=headers)


def _refusal(request: AnyRequest, error: Exception) -> BinanceError:
    match error:
        case BinanceError():
            return error
        case DatabaseUnavailable():
            _log.warning("request failed", reason=str(error))
        case DatabaseRefused():
            _log.error("database refused a request", reason=str(error))
        case _:
            _log.error("request crashed", method=request.method, path=request.url.path, exc_info=error)
            return BinanceError(-1000, "An unknown error occurred while processing the request.", 500)
    return errors.unavailable()


EXCEPTION_HANDLERS: Final[dict[Any, Any]] = {TickwickError: refuse, HTTPException: refuse, Exception: refuse}
