"""The calls of Binance's REST that ingest uses, over the tapes."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from aiohttp import web

from app.binance.wire import errors, rows
from app.binance.wire.errors import BinanceError
from app.binance.wire.parameters import Parameters, time_unit
from app.binance.wire.weights import weight
from ingest.simulator.listing import Listing
from ingest.simulator.tape import Tape, Trade

MINUTE = 60_000_000

Write = Callable[[int, str, str, int, bool, int], rows.Row]
"""How a trade is written: `rows.trade_row`, `rows.aggregate_row`."""


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
        return [
            self._route("ping", (), lambda asked, unit: {}),
            self._route("time", (), lambda asked, unit: rows.server_time(self._clock(), unit)),
            self._route("exchangeInfo", ("symbol", "symbols"), self._exchange_info),
            self._route("trades", ("symbol", "limit"), self._trades),
            self._route("historicalTrades", ("symbol", "limit", "fromId"), self._historical_trades),
            self._route("aggTrades", ("symbol", "limit", "fromId", "startTime", "endTime"), self._aggregates),
        ]

    def _route(
        self, name: str, parameters: Sequence[str], handler: Callable[[Parameters, int], object]
    ) -> web.RouteDef:
        async def handle(request: web.Request) -> web.Response:
            wait = self._weight.spend(weight(name, request.query), self._limit(), self._clock())
            headers = {"X-MBX-USED-WEIGHT-1M": str(self._weight.used)}
            status = 200
            try:
                if wait:
                    raise errors.too_much_weight(self._limit(), wait)
                asked = Parameters(request.query.items(), parameters)
                body = handler(asked, time_unit(request.headers.get("X-MBX-TIME-UNIT")))
            except BinanceError as error:
                status, body = error.status, error.body
                if error.retry_after is not None:
                    headers["Retry-After"] = str(error.retry_after)
            return web.Response(
                status=status, headers=headers, body=msgspec.json.encode(body), content_type="application/json"
            )

        return web.get(f"/api/v3/{name}", handle)

    def _tape(self, symbol: str) -> Tape:
        if symbol not in self._tapes:
            raise errors.bad_symbol()
        return self._tapes[symbol]

    def _trades(self, asked: Parameters, unit: int) -> list[rows.Row]:
        tape, limit = self._tape(asked.required("symbol")), asked.limit()
        return _told(rows.trade_row, tape.latest(limit, tape.now_us(self._traded_until())), unit)

    def _historical_trades(self, asked: Parameters, unit: int) -> list[rows.Row]:
        from_id = asked.integer("fromId")
        if from_id is None:
            return self._trades(asked, unit)
        tape, limit = self._tape(asked.required("symbol")), asked.limit()
        return _told(rows.trade_row, tape.trades(from_id, limit, tape.now_us(self._traded_until())), unit)

    def _aggregates(self, asked: Parameters, unit: int) -> list[rows.Row]:
        tape, limit = self._tape(asked.required("symbol")), asked.limit()
        from_id, start, end = asked.integer("fromId"), asked.time("startTime"), asked.time("endTime")
        until = tape.now_us(self._traded_until())
        if end is not None:
            until = min(until, end[1])
        if from_id is not None and (start is not None or end is not None):
            raise errors.bad_combination()
        if start is not None:
            from_id = tape.id_at(start[0])
        trades = tape.latest(limit, until) if from_id is None else tape.trades(from_id, limit, until)
        return _told(rows.aggregate_row, trades, unit)

    def _exchange_info(self, asked: Parameters, unit: int) -> rows.Row:
        symbols = [_symbol(tape.listing) for tape in self._chosen(asked)]
        return rows.exchange_info(symbols, self._clock(), self._limit(), unit)

    def _chosen(self, asked: Parameters) -> Iterable[Tape]:
        if "symbol" in asked and "symbols" in asked:
            raise errors.bad_combination()
        if (symbol := asked.text("symbol")) is not None:
            return [self._tape(symbol)]
        symbols = asked.names("symbols")
        return self._tapes.values() if symbols is None else [self._tape(symbol) for symbol in symbols]


def _told(write: Write, trades: Iterable[Trade], unit: int) -> list[rows.Row]:
    return [write(trade.id, trade.price, trade.size, trade.time_us, trade.buyer_is_maker, unit) for trade in trades]


def _symbol(listing: Listing) -> rows.Row:
    return rows.symbol_row(listing.symbol, listing.base, listing.quote, listing.tick_places, listing.step_places)
