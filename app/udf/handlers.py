"""TradingView's UDF, under /udf: parse, read, answer.

Clients read `s` of an answer's body and never its status: a wrong parameter answers 200 with `s` "error", as they
expect, and a database that is away the same with 503.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from litestar import MediaType, Request, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation
from litestar.params import QueryParameter

from app.db import Pool, translated
from app.errors import InvalidParameter, TickwickError, UnknownSymbol
from app.market.registry import Registry
from app.problems import Problem, on_tickwick_error
from app.udf import marks as drawn
from app.udf import parameters, reads, symbols
from app.udf.model import (
    Configuration,
    Failure,
    History,
    Marks,
    Match,
    NoHistory,
    Quotes,
    Symbol,
    TimescaleMark,
)
from app.udf.resolutions import RESOLUTIONS, SHORT

AWAY: Final = {503: ResponseSpec(Failure, description="The database is away.", media_type=MediaType.JSON)}

Name = Annotated[
    str | None,
    QueryParameter(name="symbol", description="Needed: `SOURCE:TICKER`, or the ticker alone where one source has it."),
]
Resolution = Annotated[
    str | None, QueryParameter(description=f"Needed: the length of a bar, one of {' '.join([*RESOLUTIONS, *SHORT])}.")
]
From = Annotated[str | None, QueryParameter(name="from", description="From this time on, in Unix seconds.")]
To = Annotated[str | None, QueryParameter(name="to", description="Needed: before this time, in Unix seconds.")]
Currency = Annotated[
    str | None, QueryParameter(name="currencyCode", description="The symbol's own; prices are not converted.")
]


@dataclass
class _Operation(Operation):
    """An operation whose wrong parameters answer 200: without the 400 that the framework documents by itself."""

    def __post_init__(self) -> None:
        if self.responses:
            self.responses.pop("400", None)


@get("/config", operation_id="udfConfig", summary="Configuration", responses=AWAY)
async def config(registry: NamedDependency[Registry]) -> Configuration:
    """What clients may ask for."""
    return symbols.configuration(registry.all)


@get("/symbols", operation_id="udfSymbol", summary="Symbol", responses=AWAY, operation_class=_Operation)
async def symbol(registry: NamedDependency[Registry], name: Name = None, currency: Currency = None) -> Symbol | Failure:
    """One instrument."""
    instrument = registry.find(parameters.given("symbol", name))
    parameters.check_currency(currency, instrument)
    return symbols.symbol(instrument)


@get("/search", operation_id="udfSearch", summary="Search", responses=AWAY, operation_class=_Operation)
async def search(
    registry: NamedDependency[Registry],
    text: Annotated[
        str | None, QueryParameter(name="query", description="Part of a ticker, base or quote; all without it.")
    ] = None,
    kind: Annotated[
        str | None, QueryParameter(name="type", description="Only this type, one of `symbols_types` of `/config`.")
    ] = None,
    exchange: Annotated[str | None, QueryParameter(description="Only this source.")] = None,
    limit: Annotated[
        str | None, QueryParameter(description="How many at most; 30 without it, and never more than 100.")
    ] = None,
) -> list[Match] | Failure:
    """Instruments, the best matches first."""
    return symbols.search(registry.all, text or "", kind or "", exchange or "", parameters.limit_of(limit))


@get("/history", operation_id="udfHistory", summary="Bars", responses=AWAY, operation_class=_Operation)
async def history(
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    name: Name = None,
    resolution: Resolution = None,
    start: From = None,
    end: To = None,
    countback: Annotated[
        str | None, QueryParameter(description="The newest so many bars before `to`, whatever `from` says.")
    ] = None,
    currency: Currency = None,
) -> History | NoHistory | Failure:
    """Bars that start from `from` on and before `to`, ascending; the newest 5,000 at most.

    Where the range holds one alone, the one before it comes too: pollers need both.
    """
    instrument = registry.find(parameters.given("symbol", name))
    asked = parameters.bars_wanted(resolution, start, end, countback)
    parameters.check_currency(currency, instrument)
    with translated():
        async with pool.connection() as conn:
            return await reads.history(conn, instrument, asked, datetime.now(UTC))


@get("/time", operation_id="udfTime", summary="The server's time", media_type=MediaType.TEXT)
async def time() -> str:
    """Unix seconds, as plain text."""
    return str(reads.seconds(datetime.now(UTC)))


@get("/quotes", operation_id="udfQuotes", summary="Quotes", responses=AWAY, operation_class=_Operation)
async def quotes(
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    listed: Annotated[
        str | None, QueryParameter(name="symbols", description="Needed: symbols with commas between them, up to 100.")
    ] = None,
) -> Quotes | Failure:
    """The last prices, and the last 24 hours to the minute."""
    wanted = parameters.symbols_of(listed)
    with translated():
        async with pool.connection() as conn:
            return await reads.quotes(conn, registry, wanted, datetime.now(UTC))


async def _marks(
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    name: Name = None,
    resolution: Resolution = None,
    start: From = None,
    end: To = None,
) -> list[drawn.Mark]:
    """What either kind of marks is drawn from."""
    instrument = registry.find(parameters.given("symbol", name))
    asked = parameters.bars_wanted(resolution, start, end, None)
    with translated():
        async with pool.connection() as conn:
            return await drawn.marks(conn, instrument, asked.interval, asked.start, asked.end)


MARKS: Final = {"found": Provide(_marks)}


@get(
    "/marks",
    operation_id="udfMarks",
    summary="Marks on bars",
    responses=AWAY,
    operation_class=_Operation,
    dependencies=MARKS,
)
async def marks(found: NamedDependency[list[drawn.Mark]]) -> Marks | Failure:
    """What happened on the bars from that of `from` to that of `to`: where trades are missing, and why."""
    return drawn.on_bars(found)


@get(
    "/timescale_marks",
    operation_id="udfTimescaleMarks",
    summary="Marks on the time scale",
    responses=AWAY,
    operation_class=_Operation,
    dependencies=MARKS,
)
async def timescale_marks(found: NamedDependency[list[drawn.Mark]]) -> list[TimescaleMark] | Failure:
    """As the marks on bars."""
    return drawn.on_timescale(found)


def _on_error(request: Request[Any, Any, Any], error: TickwickError) -> Response[Any]:
    answer = on_tickwick_error(request, error)
    problem: Problem = answer.content
    text = f"unknown_symbol: {error}" if isinstance(error, UnknownSymbol) else problem.detail
    status = 200 if problem.status < 500 else problem.status
    return Response(Failure("error", text), status_code=status, media_type=MediaType.JSON, headers=dict(answer.headers))


def reject_repeated_parameters(request: Request[Any, Any, Any]) -> None:
    """Which of two values counts would be a guess. Unknown parameters are ignored: clients add some of their own."""
    for name in request.query_params:
        if len(request.query_params.getall(name)) > 1:
            raise InvalidParameter(name[:60], "stands twice")


router = Router(
    "/udf",
    route_handlers=[config, symbol, search, history, time, quotes, marks, timescale_marks],
    before_request=reject_repeated_parameters,
    exception_handlers={TickwickError: _on_error},
    tags=["TradingView"],
)
