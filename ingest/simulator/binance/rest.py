"""The calls of Binance's REST that ingest uses, with its parameters, weights and errors.

`X-MBX-TIME-UNIT: MICROSECOND` turns the times of an answer into microseconds; startTime and endTime are told apart by
magnitude, whatever the header.
"""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal

import msgspec
from aiohttp import web

from app.market.model import plain
from ingest.simulator.binance.figures import quote_volume
from ingest.simulator.listing import PLACES, Listing
from ingest.simulator.tape import Tape, Trade

MINUTE = 60_000_000
FIRST_MICROSECOND_STAMP = 10**14
"""A time of this size or more counts microseconds: as milliseconds it would lie beyond the year 5000."""
DEFAULT_LIMIT = 500
MAX_LIMIT = 1000
WEIGHTS = {"ping": 1, "time": 1, "exchangeInfo": 20, "trades": 25, "historicalTrades": 25, "aggTrades": 4}


class ApiError(Exception):
    """An error in Binance's form."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Weight:
    """The request weight used in the current minute of the clock."""

    def __init__(self) -> None:
        self.used = 0
        self._minute = 0

    def spend(self, weight: int, limit: int, now_us: int) -> int:
        """Add a request's weight; answers 0, or, when that goes beyond the limit, the seconds until the next minute."""
        if self._minute != now_us // MINUTE:
            self._minute, self.used = now_us // MINUTE, 0
        self.used += weight
        return (MINUTE - now_us % MINUTE) // 1_000_000 + 1 if self.used > limit else 0


class BinanceRest:
    """`/api/v3` over the tapes. `clock` is the exchange's, `traded_until` what the tapes are asked with; `limit` tells
    the weight that a minute allows."""

    def __init__(
        self,
        tapes: Mapping[str, Tape],
        clock: Callable[[], int],
        traded_until: Callable[[], int],
        limit: Callable[[], int],
    ) -> None:
        self._tapes = tapes
        self._clock = clock
        self._traded_until = traded_until
        self._limit = limit
        self._weight = Weight()

    def routes(self) -> list[web.RouteDef]:
        handlers = {
            "ping": lambda query, unit: {},
            "time": lambda query, unit: {"serverTime": self._clock() // unit},
            "exchangeInfo": self._exchange_info,
            "trades": self._trades,
            "historicalTrades": self._historical_trades,
            "aggTrades": self._aggregates,
        }
        return [web.get(f"/api/v3/{name}", self._guarded(name, handler)) for name, handler in handlers.items()]

    def _guarded(
        self, name: str, handler: Callable[[Mapping[str, str], int], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            wait = self._weight.spend(WEIGHTS[name], self._limit(), self._clock())
            headers = {"X-MBX-USED-WEIGHT-1M": str(self._weight.used)}
            status = 200
            try:
                if wait:
                    headers["Retry-After"] = str(wait)
                    raise ApiError(-1003, f"Too much request weight used; the limit is {self._limit()} a minute.", 429)
                body = handler(request.query, _unit(request.headers))
            except ApiError as error:
                status, body = error.status, {"code": error.code, "msg": str(error)}
            return web.Response(
                status=status, headers=headers, body=msgspec.json.encode(body), content_type="application/json"
            )

        return handle

    def _tape(self, query: Mapping[str, str]) -> Tape:
        if not query.get("symbol"):
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if query["symbol"] not in self._tapes:
            raise ApiError(-1121, "Invalid symbol.")
        return self._tapes[query["symbol"]]

    def _trades(self, query: Mapping[str, str], unit: int) -> list[dict[str, object]]:
        tape = self._tape(query)
        return [_trade_row(trade, unit) for trade in tape.latest(_limit(query), tape.now_us(self._traded_until()))]

    def _historical_trades(self, query: Mapping[str, str], unit: int) -> list[dict[str, object]]:
        from_id = _integer(query, "fromId")
        if from_id is None:
            return self._trades(query, unit)
        tape = self._tape(query)
        return [
            _trade_row(trade, unit) for trade in tape.trades(from_id, _limit(query), tape.now_us(self._traded_until()))
        ]

    def _aggregates(self, query: Mapping[str, str], unit: int) -> list[dict[str, object]]:
        tape, limit = self._tape(query), _limit(query)
        from_id, start, end = _integer(query, "fromId"), _time(query, "startTime"), _time(query, "endTime")
        until = tape.now_us(self._traded_until())
        if end is not None:
            until = min(until, end[1])
        if from_id is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        if start is not None:
            from_id = tape.id_at(start[0])
        trades = tape.latest(limit, until) if from_id is None else tape.trades(from_id, limit, until)
        return [_aggregate_row(trade, unit) for trade in trades]

    def _exchange_info(self, query: Mapping[str, str], unit: int) -> dict[str, object]:
        return {
            "timezone": "UTC",
            "serverTime": self._clock() // unit,
            "rateLimits": [
                {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._limit()}
            ],
            "exchangeFilters": [],
            "symbols": [_symbol(self._tapes[symbol].listing) for symbol in self._chosen(query)],
        }

    def _chosen(self, query: Mapping[str, str]) -> list[str]:
        if "symbol" in query and "symbols" in query:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        if "symbol" in query:
            return [self._tape(query).listing.symbol]
        if "symbols" not in query:
            return list(self._tapes)
        try:
            chosen = msgspec.json.decode(query["symbols"], type=list[str])
        except msgspec.DecodeError as error:
            raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.") from error
        if not set(chosen) <= self._tapes.keys():
            raise ApiError(-1121, "Invalid symbol.")
        return chosen


def _integer(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    if not (query[name].isascii() and query[name].isdigit() and len(query[name]) <= 20):
        raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(query[name])


def _time(query: Mapping[str, str], name: str) -> tuple[int, int] | None:
    """The first and the last microsecond of a time given in milliseconds or in microseconds."""
    if (time := _integer(query, name)) is None:
        return None
    return (time, time) if time >= FIRST_MICROSECOND_STAMP else (time * 1000, time * 1000 + 999)


def _unit(headers: Mapping[str, str]) -> int:
    """How many microseconds a unit of the answer's times has."""
    return 1 if headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND" else 1000


def _limit(query: Mapping[str, str]) -> int:
    """How many rows were asked for; more than MAX_LIMIT counts as MAX_LIMIT."""
    limit = _integer(query, "limit")
    if limit == 0:
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
    return DEFAULT_LIMIT if limit is None else min(limit, MAX_LIMIT)


def _trade_row(trade: Trade, unit: int) -> dict[str, object]:
    return {
        "id": trade.id,
        "price": trade.price,
        "qty": trade.size,
        "quoteQty": quote_volume([trade]),
        "time": trade.time_us // unit,
        "isBuyerMaker": trade.buyer_is_maker,
        "isBestMatch": True,
    }


def _aggregate_row(trade: Trade, unit: int) -> dict[str, object]:
    return {
        "a": trade.id,
        "p": trade.price,
        "q": trade.size,
        "f": trade.id,
        "l": trade.id,
        "T": trade.time_us // unit,
        "m": trade.buyer_is_maker,
        "M": True,
    }


def _symbol(listing: Listing) -> dict[str, object]:
    tick, step = _digits(listing.tick_size), _digits(listing.step_size)
    return {
        "symbol": listing.symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": PLACES,
        "quoteAsset": listing.quote,
        "quotePrecision": PLACES,
        "quoteAssetPrecision": PLACES,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "10000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "10000000.00000000", "stepSize": step},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
    }


def _digits(size: Decimal) -> str:
    return plain(round(size, PLACES))
