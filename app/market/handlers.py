"""REST of the market, under /api/v1. Parse, read, answer; errors become problem documents in `app.problems`."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Request, Response, Router, get, put
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter

from app.db import Pool, translated
from app.errors import InvalidParameter, NothingThere, UnknownSymbol
from app.market import parameters, store, tickers
from app.market.filling import filled, flat
from app.market.guard import administrator
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import MICROSECOND, Candle, Feed, Instrument, Ticker, Trade
from app.market.registry import Registry
from app.market.store import ALWAYS, NEVER, NO_ID, TOP_ID, Gap, Place, Range
from app.problems import MEDIA_TYPE, Problem, on_http_exception

CSV: Final = "text/csv"
FILLS: Final = ("none", "previous")
STATES: Final = ("open", "filled", "unfillable")

Symbol = Annotated[
    str,
    PathParameter(
        description="`SOURCE:TICKER`, or the ticker alone where one source has it.",
        max_length=60,
    ),
]
Start = Annotated[
    str | None,
    QueryParameter(
        description="From this time on: ISO 8601 with an offset, a date, or Unix s, ms or µs. Then the oldest come."
    ),
]
End = Annotated[str | None, QueryParameter(description="Before this time, in the same forms.")]


class CandlePage(msgspec.Struct):
    """Candles, ascending; `next` is the path of the next page: newer ones where `start` was given, else older ones."""

    symbol: str
    interval: Interval
    timezone: str
    candles: list[Candle]
    next: str | None


class TickPage(msgspec.Struct):
    """Ticks: newest first, or ascending where `start` or `after_id` was given; `next` is the path of the next page."""

    symbol: str
    ticks: list[Trade]
    next: str | None


class TickerView(Ticker, frozen=True, kw_only=True):
    symbol: str


class PriceView(msgspec.Struct):
    """The last trade at or before a moment."""

    symbol: str
    at: datetime
    price: str
    time: datetime
    trade_id: int


class InstrumentList(msgspec.Struct):
    instruments: list[Instrument]


class Tracking(msgspec.Struct, forbid_unknown_fields=True):
    """Whether an instrument is tracked. `feed`: what to take as ticks of a new one; null: as others of its source."""

    tracked: bool
    feed: Feed | None = None


class GapPage(msgspec.Struct):
    """Ranges of trade ids known to be missing, oldest first."""

    symbol: str
    gaps: list[Gap]
    next: str | None


ADMIN: Final = "admin"
"""The name of the security scheme in the OpenAPI document."""
ERRORS: Final = {
    400: ResponseSpec(Problem, description="A parameter is wrong; `errors` names it.", media_type=MEDIA_TYPE),
    404: ResponseSpec(Problem, description="No such instrument; `near` lists similar ones.", media_type=MEDIA_TYPE),
    503: ResponseSpec(Problem, description="The database is away.", media_type=MEDIA_TYPE),
}


@get("/candles/{symbol:str}", operation_id="getCandles", summary="Candles", responses=ERRORS)
async def candles(
    request: Request[Any, Any, State],
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    symbol: Symbol,
    interval: Annotated[
        str, QueryParameter(description="The length of a candle; case matters.", schema_extra={"enum": [*Interval]})
    ] = "1m",
    start: Start = None,
    end: End = None,
    limit: Annotated[int, QueryParameter(description="How many at most, up to 5,000.")] = parameters.DEFAULT_LIMIT,
    timezone: Annotated[
        str, QueryParameter(description="IANA time zone or offset such as +05:30 that cuts 1d 3d 1w 1M.")
    ] = "UTC",
    fill: Annotated[
        str,
        QueryParameter(
            description="`previous` fills buckets without trades with the last close.",
            schema_extra={"enum": [*FILLS]},
        ),
    ] = "none",
) -> Response[Any]:
    """The newest candles before `end`, or the oldest from `start` on; ascending. `Accept: text/csv` answers CSV."""
    instrument = registry.find(symbol)
    chosen = parameters.interval_of(interval)
    zone = parameters.zone_of(timezone, chosen)
    filling = parameters.choice_of("fill", fill, FILLS) == "previous"
    wanted = Range(
        parameters.time_of("start", start, ALWAYS),
        parameters.time_of("end", end, NEVER),
        parameters.limit_of(limit, parameters.MAX_CANDLES),
        newest=start is None,
    )
    parameters.ordered(wanted.start, wanted.end)
    now = datetime.now(UTC)
    with translated():
        async with pool.connection() as conn:
            rows = await store.candles(conn, instrument, chosen, zone, wanted, now)
            if filling:
                rows = await _filled(conn, instrument, chosen, zone, wanted, rows, now)
    following = None
    if len(rows) == wanted.limit:
        edge = {"end": rows[0].time} if wanted.newest else {"start": next_bucket(rows[-1].time, chosen, zone)}
        following = _next(request, edge)
    if _wants_csv(request):
        return _as_csv(rows, Candle, following)
    return Response(CandlePage(instrument.symbol, chosen, timezone, rows, following))


async def _filled(
    conn: store.Connection,
    instrument: Instrument,
    interval: Interval,
    zone: tzinfo,
    wanted: Range,
    rows: list[Candle],
    now: datetime,
) -> list[Candle]:
    open_since = bucket_of(now, interval, zone)
    until = min(wanted.end - MICROSECOND, now)
    if wanted.newest:
        newest = max([bucket_of(until, interval, zone), *(candle.time for candle in rows[-1:])])
        since = next_bucket(newest, interval, zone, 1 - wanted.limit)
    else:
        since = bucket_of(wanted.start - MICROSECOND, interval, zone)
        since = next_bucket(since, interval, zone)
        # The buckets between `start` and the first candle take the close before `start`.
        if since <= until and not (rows and rows[0].time == since):
            before = await store.price_at(conn, instrument, since - MICROSECOND)
            if before is not None:
                rows = [flat(since, before.price, closed=since < open_since), *rows]
    complete = filled(rows, interval, zone, since=since, until=until, open_since=open_since)
    return [*islice(complete, wanted.limit)]


@get("/ticks/{symbol:str}", operation_id="getTicks", summary="Ticks", responses=ERRORS)
async def ticks(
    request: Request[Any, Any, State],
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    symbol: Symbol,
    start: Start = None,
    end: End = None,
    after_id: Annotated[int | None, QueryParameter(description="Only trade ids above this, ascending.", ge=0)] = None,
    cursor: Annotated[
        str | None, QueryParameter(description="Where the page before ended; part of its `next`.")
    ] = None,
    limit: Annotated[int, QueryParameter(description="How many at most, up to 10,000.")] = parameters.DEFAULT_LIMIT,
) -> Response[Any]:
    """The newest ticks before `end`, newest first; or the oldest from `start` or above `after_id` on, ascending."""
    instrument = registry.find(symbol)
    first, last = parameters.time_of("start", start, ALWAYS), parameters.time_of("end", end, NEVER)
    parameters.ordered(first, last)
    count = parameters.limit_of(limit, parameters.MAX_TICKS)
    ascending = start is not None or after_id is not None
    place: Place | None = parameters.cursor_of(cursor) if cursor else None
    with translated():
        async with pool.connection() as conn:
            if not ascending:
                rows = await store.trades_before(conn, instrument, place or Place(last, NO_ID), first, count)
            else:
                if place is None and after_id is not None:
                    place = await store.place_after_id(conn, instrument, after_id)
                    place = max(place, Place(first, NO_ID)) if place else Place(NEVER, TOP_ID)
                after = after_id if after_id is not None else NO_ID
                rows = await store.trades_after(conn, instrument, place or Place(first, NO_ID), last, count, after)
    following = None
    if len(rows) == count:
        following = _next(request, {"cursor": parameters.cursor_text(Place(rows[-1].time, rows[-1].trade_id))})
    if _wants_csv(request):
        return _as_csv(rows, Trade, following)
    return Response(TickPage(instrument.symbol, rows, following))


@get("/ticker/{symbol:str}", operation_id="getTicker", summary="Ticker", responses=ERRORS)
async def ticker(registry: NamedDependency[Registry], pool: NamedDependency[Pool], symbol: Symbol) -> TickerView:
    """The last price, and the last 24 hours to the minute."""
    instrument = registry.find(symbol)
    with translated():
        async with pool.connection() as conn:
            found = await tickers.day(conn, instrument, datetime.now(UTC))
    if found is None:
        raise NothingThere(f"{instrument.symbol} has not traded yet")
    return TickerView(**msgspec.structs.asdict(found), symbol=instrument.symbol)


@get("/price/{symbol:str}", operation_id="getPrice", summary="Price at a moment", responses=ERRORS)
async def price(
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    symbol: Symbol,
    at: Annotated[
        str | None, QueryParameter(description="The moment, in the forms of `start`; now where it is left out.")
    ] = None,
) -> PriceView:
    """The last price at or before a moment."""
    instrument = registry.find(symbol)
    moment = parameters.time_of("at", at, datetime.now(UTC))
    with translated():
        async with pool.connection() as conn:
            found = await store.price_at(conn, instrument, moment)
    if found is None:
        raise NothingThere(f"{instrument.symbol} had not traded by {moment.isoformat()}")
    return PriceView(instrument.symbol, moment, found.price, found.time, found.trade_id)


@get("/instruments", operation_id="listInstruments", summary="Instruments", responses={503: ERRORS[503]})
async def instruments(registry: NamedDependency[Registry]) -> InstrumentList:
    """All instruments, by symbol."""
    return InstrumentList(registry.all)


@get("/instruments/{symbol:str}", operation_id="getInstrument", summary="Instrument", responses=ERRORS)
async def instrument(registry: NamedDependency[Registry], symbol: Symbol) -> Instrument:
    """One instrument."""
    return registry.find(symbol)


def _too_deep(request: Request[Any, Any, Any], _: RecursionError) -> Response[Any]:
    return on_http_exception(request, ClientException("the body is nested too deeply"))


@put(
    "/instruments/{symbol:str}/tracking",
    operation_id="setTracking",
    summary="Switch tracking on or off",
    guards=[administrator],
    security=[{ADMIN: []}],
    exception_handlers={RecursionError: _too_deep},
    responses={
        **ERRORS,
        401: ResponseSpec(Problem, description="The token is absent or wrong.", media_type=MEDIA_TYPE),
        403: ResponseSpec(Problem, description="The server has no token.", media_type=MEDIA_TYPE),
    },
)
async def set_tracking(
    registry: NamedDependency[Registry], pool: NamedDependency[Pool], symbol: Symbol, data: JSONBody[Tracking]
) -> Instrument:
    """The ingesters of the source follow within a second. A new `SOURCE:TICKER` of a known source is added."""
    wanted = parameters.tracked_symbol_of(registry, symbol, data.feed, tracked=data.tracked)
    with translated():
        async with pool.connection() as conn:
            if data.tracked:
                found = await store.track(conn, wanted, data.feed)
            else:
                found = await store.untrack(conn, wanted)
    if found is None:
        raise UnknownSymbol(symbol)
    return found


@get("/gaps/{symbol:str}", operation_id="getGaps", summary="Gaps", responses=ERRORS)
async def gaps(
    request: Request[Any, Any, State],
    registry: NamedDependency[Registry],
    pool: NamedDependency[Pool],
    symbol: Symbol,
    gap_state: Annotated[
        str | None,
        QueryParameter(name="state", description="Only gaps in this state.", schema_extra={"enum": [*STATES]}),
    ] = None,
    after_id: Annotated[int, QueryParameter(description="Only gaps that begin above this trade id.", ge=-1)] = -1,
    limit: Annotated[int, QueryParameter(description="How many at most, up to 5,000.")] = parameters.DEFAULT_LIMIT,
) -> GapPage:
    """Ranges of trade ids known to be missing, both ends inclusive, oldest first."""
    found = registry.find(symbol)
    count = parameters.limit_of(limit, parameters.MAX_CANDLES)
    state = None if gap_state is None else parameters.choice_of("state", gap_state, STATES)
    with translated():
        async with pool.connection() as conn:
            rows = await store.gaps(conn, found, after_id, count, state)
    following = _next(request, {"after_id": rows[-1].from_id}) if len(rows) == count else None
    return GapPage(found.symbol, rows, following)


def _wants_csv(request: Request[Any, Any, State]) -> bool:
    return request.accept.best_match([MediaType.JSON, CSV]) == CSV


def _as_csv(rows: Iterable[Any], kind: type[msgspec.Struct], following: str | None) -> Response[str]:
    """A header and a line per row; the next page, which a CSV cannot name, stands in a Link header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        writer.writerow(_cell(value) for value in msgspec.structs.astuple(row))
    headers = {"Link": f'<{following}>; rel="next"'} if following else None
    return Response(text.getvalue(), media_type=CSV, headers=headers)


def _cell(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case bool():
            return "true" if value else "false"
        case _:
            return value


def _next(request: Request[Any, Any, State], changed: dict[str, Any]) -> str:
    query = {**dict(request.query_params.items()), **{name: _cell(value) for name, value in changed.items()}}
    return f"{request.url.path}?{urlencode(query)}"


def reject_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """A parameter misspelt or given twice must not be ignored: the answer would look right and be wrong."""
    if not request.query_params:
        return
    fields = request.route_handler.parsed_fn_signature.parameters.items()
    known = {
        getattr(field.kwarg_definition, "name", None) or name
        for name, field in fields
        if name not in {"request", "registry", "pool", "symbol", "data"}
    }
    for name in request.query_params:
        if name not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise InvalidParameter(name, f"is not a parameter of this path; there are: {choice}")
        if len(request.query_params.getall(name)) > 1:
            raise InvalidParameter(name, "stands twice")


router = Router(
    "/api/v1",
    route_handlers=[candles, ticks, ticker, price, instruments, instrument, set_tracking, gaps],
    before_request=reject_unknown_parameters,
    tags=["market"],
)
