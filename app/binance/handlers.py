"""Binance's REST of market data under `/api/v3`, over the same store as the native API."""

from typing import Any, Final

from litestar import Router
from litestar.openapi.spec import OpenAPIType, Parameter, Schema

from app.binance import model, reads
from app.binance.calls import EXCEPTION_HANDLERS, Call, nothing_else
from app.binance.wire.parameters import DEFAULT_LIMIT, MAX_LIMIT
from app.binance.wire.weights import MAX_SYMBOLS
from app.market.intervals import Interval


def _parameter(name: str, description: str, *, required: bool = False, **schema: Any) -> Parameter:
    kind = schema.pop("type", OpenAPIType.STRING)
    return Parameter(name, "query", schema=Schema(type=kind, **schema), description=description, required=required)


def _number(name: str, description: str, minimum: int = 0) -> Parameter:
    return _parameter(name, description, type=OpenAPIType.INTEGER, minimum=minimum)


_A_SYMBOL: Final[dict[str, Any]] = {"pattern": "^[A-Z0-9._-]{1,80}$"}
SYMBOL: Final = _parameter("symbol", "As `exchangeInfo` names it.", required=True, **_A_SYMBOL)
ONE_SYMBOL: Final = _parameter("symbol", "As `exchangeInfo` names it; not beside `symbols`.", **_A_SYMBOL)
SYMBOLS: Final = _parameter("symbols", 'A JSON array: `["BTCUSDT","ETHUSDT"]`. Without it and `symbol`, all.')
SOME_SYMBOLS: Final = _parameter("symbols", f"A JSON array of at most {MAX_SYMBOLS}; this or `symbol` is needed.")
STATUS: Final = _parameter("symbolStatus", "Only symbols in this state.", enum=["TRADING", "HALT", "BREAK"])
INTERVAL: Final = _parameter("interval", "The length of a kline; case matters.", required=True, enum=[*Interval])
START: Final = _number("startTime", "From this time on, inclusive: Unix ms or µs. Then the oldest come.")
END: Final = _number("endTime", "Up to this time, inclusive: Unix ms or µs.")
ZONE: Final = _parameter("timeZone", "The offset that cuts klines, from -12:00 to +14:00: `0`, `8`, `-1:00`, `05:45`.")
LIMIT: Final = _number("limit", f"How many at most: {DEFAULT_LIMIT} unless given, never above {MAX_LIMIT}.", 1)
FROM_ID: Final = _number("fromId", "From this id on, inclusive, ascending.")
TYPE: Final = _parameter("type", "MINI leaves out what can be reckoned, and the book.", enum=["FULL", "MINI"])
WINDOW: Final = _parameter("windowSize", "`1m` to `59m`, `1h` to `23h`, `1d` to `7d`; a day unless given.")
PERMISSIONS: Final = _parameter("permissions", "One or a JSON array; all symbols have `SPOT`. Not beside `symbol`.")
SETS: Final = _parameter("showPermissionSets", "Whether to fill them in.", enum=["true", "false"])
UNIT: Final = Parameter(
    "X-MBX-TIME-UNIT",
    "header",
    schema=Schema(type=OpenAPIType.STRING, enum=["MILLISECOND", "MICROSECOND", "millisecond", "microsecond"]),
    description="The unit of the answer's times: milliseconds unless given.",
)

_KLINES: Final = (SYMBOL, INTERVAL, START, END, ZONE, LIMIT, UNIT)
_ANY: Final = (ONE_SYMBOL, SYMBOLS, STATUS)

CALLS: Final = (
    Call("ping", "Is the server there?", (), reads.ping, model.Nothing),
    Call("time", "The server's clock", (UNIT,), reads.time, model.Time),
    Call(
        "exchangeInfo",
        "Symbols",
        (ONE_SYMBOL, SYMBOLS, PERMISSIONS, SETS, STATUS, UNIT),
        reads.exchange_info,
        model.ExchangeInfo,
    ),
    Call("klines", "Klines", _KLINES, reads.klines, list[model.Kline]),
    Call("uiKlines", "Klines for a chart: the same", _KLINES, reads.klines, list[model.Kline]),
    Call("trades", "The newest trades", (SYMBOL, LIMIT, UNIT), reads.trades, list[model.Trade]),
    Call("historicalTrades", "Older trades", (SYMBOL, LIMIT, FROM_ID, UNIT), reads.trades, list[model.Trade]),
    Call(
        "aggTrades",
        "Aggregate trades",
        (SYMBOL, FROM_ID, START, END, LIMIT, UNIT),
        reads.aggregate_trades,
        list[model.AggregateTrade],
    ),
    Call("avgPrice", "The average price", (SYMBOL, UNIT), reads.average_price, model.AveragePrice),
    Call("ticker/24hr", "24 hours", (*_ANY, TYPE, UNIT), reads.day_ticker, model.Ticker | list[model.Ticker]),
    Call(
        "ticker",
        "A window of any size",
        (ONE_SYMBOL, SOME_SYMBOLS, WINDOW, TYPE, STATUS, UNIT),
        reads.window_ticker,
        model.Ticker | list[model.Ticker],
    ),
    Call("ticker/price", "The last price", _ANY, reads.price, model.Price | list[model.Price]),
    Call("ticker/bookTicker", "Bid and ask", _ANY, reads.book, model.Book | list[model.Book]),
)

router = Router(
    "/api/v3",
    route_handlers=[*(handler for call in CALLS for handler in call.handlers()), nothing_else()],
    exception_handlers=EXCEPTION_HANDLERS,
    tags=["binance"],
)
