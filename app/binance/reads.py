"""What the calls of `/api/v3` answer, read from the store of the native API and put into Binance's rows."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Final, NamedTuple, TypeVar

from app.binance import trades as by_id
from app.binance.names import Names
from app.binance.wire import errors, rows
from app.binance.wire.figures import ZERO
from app.binance.wire.parameters import Parameters
from app.binance.wire.rows import Row
from app.binance.wire.weights import MAX_SYMBOLS
from app.market import store, tickers
from app.market.intervals import Interval, next_bucket
from app.market.model import (
    AVERAGE,
    MICROSECOND,
    Candle,
    Instrument,
    InstrumentId,
    Ticker,
    Trade,
    day_start,
    from_micros,
    to_micros,
    window_start,
)
from app.market.store import ALWAYS, NEVER, Connection, Range

STATES: Final = ("TRADING", "HALT", "BREAK")
T = TypeVar("T")
_PERMISSION: Final = re.compile(r"SPOT|MARGIN|LEVERAGED|TRD_GRP_[0-9]{3}")


class Asked(NamedTuple):
    """A request that has paid its weight; `unit` is how many microseconds a unit of the answer's times has."""

    given: Parameters
    names: Names
    conn: Connection
    unit: int
    now: datetime
    weight_limit: int

    @property
    def now_us(self) -> int:
        return to_micros(self.now)

    @property
    def instrument(self) -> Instrument:
        return self.names.find(self.given.required("symbol"))


async def ping(asked: Asked) -> Row:
    """Always an empty object."""
    return {}


async def time(asked: Asked) -> Row:
    """The clock of the server."""
    return rows.server_time(asked.now_us, asked.unit)


async def exchange_info(asked: Asked) -> Row:
    """All instruments of every source and kind. TRADING is what is tracked, BREAK what is not, or no more."""
    given = asked.given
    permissions = given.name_or_names("permissions")
    if ("symbol" in given or "symbols" in given) and (permissions or "symbolStatus" in given):
        raise errors.bad_combination()
    if not all(_PERMISSION.fullmatch(one) for one in permissions or []):
        raise errors.invalid("permissions")
    sets = given.boolean("showPermissionSets", default=True)
    chosen = _choose(asked).named if permissions is None or "SPOT" in permissions else []
    symbols = [_symbol_row(asked.names, name, instrument, permission_sets=sets) for name, instrument in chosen]
    return rows.exchange_info(symbols, asked.now_us, asked.weight_limit, asked.unit)


def _symbol_row(names: Names, name: str, instrument: Instrument, *, permission_sets: bool) -> Row:
    return rows.symbol_row(
        name,
        *names.assets_of(instrument),
        instrument.price_scale,
        trading=instrument.active,
        permission_sets=permission_sets,
    )


async def klines(asked: Asked) -> list[list[object]]:
    """Ascending: the newest, the newest up to `endTime`, or the oldest from `startTime` on.

    They are the native candles, to the digit. Where nothing traded there is none.
    """
    given = asked.given
    instrument, interval, zone = asked.instrument, given.interval(), given.zone()
    start, end = _span(given)
    wanted = Range(start or ALWAYS, end or NEVER, given.limit(), newest=start is None)
    found = await store.candles(asked.conn, instrument, interval, zone, wanted, asked.now, prove=False)
    return [rows.kline_row(one, start, end, asked.unit) for one, start, end in _bounded(found, interval, zone)]


def _bounded(found: Sequence[Candle], interval: Interval, zone: tzinfo) -> Iterator[tuple[Candle, int, int]]:
    """Candles with their bounds in microseconds; the calendar is asked only where it must, since it is slow."""
    length = interval.stride // MICROSECOND if interval.stride else None
    for one in found:
        start = to_micros(one.time)
        yield one, start, start + length if length else to_micros(next_bucket(one.time, interval, zone))


async def trades(asked: Asked) -> list[Row]:
    """The newest trades, or the oldest from `fromId` on; ascending."""
    instrument, limit, first_id = asked.instrument, asked.given.limit(), asked.given.integer("fromId")
    if first_id is None:
        return _trade_rows(rows.trade_row, await by_id.newest(asked.conn, instrument, NEVER, limit), asked.unit)
    return _trade_rows(rows.trade_row, await by_id.from_id(asked.conn, instrument, first_id, limit), asked.unit)


async def aggregate_trades(asked: Asked) -> list[Row]:
    """The newest trades, the newest up to `endTime`, or the oldest from `startTime` or `fromId` on; ascending.

    Each trade is its own aggregate.
    """
    conn, given = asked.conn, asked.given
    instrument, limit, first_id = asked.instrument, given.limit(), given.integer("fromId")
    start, end = _span(given)
    if first_id is not None and (start or end):
        raise errors.bad_combination()
    if first_id is not None:
        found = await by_id.from_id(conn, instrument, first_id, limit)
    elif start:
        found = await by_id.oldest(conn, instrument, start, end or NEVER, limit)
    else:
        found = await by_id.newest(conn, instrument, end or NEVER, limit)
    return _trade_rows(rows.aggregate_row, found, asked.unit)


def _trade_rows(row: Callable[[int, str, str, int, bool, int], Row], found: Sequence[Trade], unit: int) -> list[Row]:
    # A taker whose side no one told counts as a seller, so that nobody who reads this takes him for a buyer.
    return [row(one.trade_id, one.price, one.size, to_micros(one.time), one.side != "buy", unit) for one in found]


def _span(given: Parameters) -> tuple[datetime | None, datetime | None]:
    """`startTime`, and the moment after `endTime`, which is inclusive."""
    start, end = given.time("startTime"), given.time("endTime")
    return start and from_micros(start[0]), end and from_micros(end[1] + 1)


async def average_price(asked: Asked) -> Row:
    """Over the current minute and the five before it, weighted by volume; the last price where nothing traded."""
    instrument = asked.instrument
    ticker = (await tickers.windows(asked.conn, [instrument], window_start(asked.now, AVERAGE))).get(instrument.id)
    if ticker is None:
        return rows.average_row(ZERO, 0, asked.unit)
    return rows.average_row(ticker.average, to_micros(ticker.time), asked.unit)


async def day_ticker(asked: Asked) -> Row | list[Row]:
    """The last 24 hours, to the minute. Of several symbols, those that have never traded are left out."""
    row = rows.mini_row if _type(asked) == "MINI" else rows.full_row
    return await _tickers(asked, _choose(asked), day_start(asked.now), row)


async def window_ticker(asked: Asked) -> Row | list[Row]:
    """The last `windowSize`, to the minute. Of several symbols, those that have never traded are left out."""
    given = asked.given
    if "symbol" not in given and "symbols" not in given:
        raise errors.missing_both("symbol", "symbols")
    row = rows.mini_row if _type(asked) == "MINI" else rows.window_row
    return await _tickers(asked, _choose(asked, MAX_SYMBOLS), window_start(asked.now, given.window()), row)


def _type(asked: Asked) -> str:
    return asked.given.choice("type", ("FULL", "MINI"), "FULL", errors.bad_ticker_type())


async def price(asked: Asked) -> Row | list[Row]:
    """The price of the last trade. Of several symbols, those that have never traded are left out."""
    chosen = _choose(asked)
    last = await tickers.last_trades(asked.conn, chosen.instruments)
    return _told(chosen, last, lambda name, one: rows.price_row(name, one.price if one else ZERO))


async def book(asked: Asked) -> Row | list[Row]:
    """There is no order book: bid and ask stand at the last price, and offer nothing."""
    chosen = _choose(asked)
    last = await tickers.last_trades(asked.conn, chosen.instruments)
    return _told(chosen, last, lambda name, one: rows.book_row(name, one.price if one else None))


class _Choice(NamedTuple):
    """The instruments that a request is about; `single` where it names one by `symbol`."""

    named: list[tuple[str, Instrument]]
    single: bool

    @property
    def instruments(self) -> list[Instrument]:
        return [instrument for _, instrument in self.named]


def _choose(asked: Asked, most: int | None = None) -> _Choice:
    """By `symbol`, at most `most` by `symbols`, or all; and by `symbolStatus`."""
    given, names = asked.given, asked.names
    symbol, symbols = given.text("symbol"), given.names("symbols", most)
    state = given.choice("symbolStatus", STATES, "", errors.bad_status())
    if symbol is not None and symbols is not None:
        raise errors.bad_combination()
    if symbol is not None:
        instrument = names.find(symbol)
        if state not in ("", _state_of(instrument)):
            raise errors.status_mismatch()
        return _Choice([(names.name_of(instrument), instrument)], single=True)
    found = names.all
    if symbols is not None:
        found = [(names.name_of(instrument), instrument) for instrument in map(names.find, symbols)]
    return _Choice([one for one in found if state in ("", _state_of(one[1]))], single=False)


def _state_of(instrument: Instrument) -> str:
    return "TRADING" if instrument.active else "BREAK"


async def _tickers(
    asked: Asked, chosen: _Choice, start: datetime, row: Callable[[str, Ticker | None, int, int, int], Row]
) -> Row | list[Row]:
    found = await tickers.windows(asked.conn, chosen.instruments, start)
    span = to_micros(start), asked.now_us, asked.unit
    return _told(chosen, found, lambda name, ticker: row(name, ticker, *span))


def _told(chosen: _Choice, found: Mapping[InstrumentId, T], row: Callable[[str, T | None], Row]) -> Row | list[Row]:
    if chosen.single:
        [(name, instrument)] = chosen.named
        return row(name, found.get(instrument.id))
    return [row(name, found[instrument.id]) for name, instrument in chosen.named if instrument.id in found]
