"""Bars and quotes out of the market's candles and tickers."""

from collections.abc import Sequence
from datetime import UTC, datetime

from app.errors import InvalidParameter
from app.market import store, tickers
from app.market.model import Candle, Instrument, Ticker, day_start, to_micros
from app.market.registry import Registry
from app.market.store import ALWAYS, Connection, Range
from app.udf.model import (
    History,
    NoHistory,
    Quote,
    Quotes,
    QuoteValues,
    number,
    numbers,
)
from app.udf.parameters import MAX_BARS, BarsWanted
from app.udf.symbols import description


def seconds(moment: datetime) -> int:
    """Unix time, rounded down."""
    return to_micros(moment) // 1_000_000


async def history(conn: Connection, instrument: Instrument, asked: BarsWanted, now: datetime) -> History | NoHistory:
    """The bars asked for, the newest 5,000 of them at most.

    A client that polls cannot use one bar alone: where a range holds one, the one before the range comes with it.
    """
    since, limit = (ALWAYS, asked.countback) if asked.countback else (asked.start, MAX_BARS)

    async def newest(start: datetime, end: datetime, count: int) -> list[Candle]:
        wanted = Range(start, end, count, newest=True)
        return await store.candles(conn, instrument, asked.interval, UTC, wanted, now, prove=False)

    bars = await newest(since, asked.end, limit)
    if not asked.countback and len(bars) < 2:
        before = await newest(ALWAYS, asked.start, 1)
        if not bars:
            return NoHistory("no_data", seconds(before[0].time) if before else None)
        bars = before + bars
    return _columns(bars) if bars else NoHistory("no_data")


def _columns(bars: Sequence[Candle]) -> History:
    return History(
        "ok",
        [seconds(bar.time) for bar in bars],
        numbers(bar.open for bar in bars),
        numbers(bar.high for bar in bars),
        numbers(bar.low for bar in bars),
        numbers(bar.close for bar in bars),
        numbers(bar.volume for bar in bars),
    )


async def quotes(conn: Connection, registry: Registry, names: Sequence[str], now: datetime) -> Quotes:
    """A quote for each name, by one query."""
    found: dict[str, Instrument] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            instrument = registry.get(name)
        except InvalidParameter as error:
            problems[name] = error.message
            continue
        if instrument:
            found[name] = instrument
    told = await tickers.windows(conn, [*{i.id: i for i in found.values()}.values()], day_start(now))

    def quote(name: str) -> Quote:
        if (instrument := found.get(name)) is None:
            return Quote("error", name, QuoteValues(), problems.get(name, "unknown_symbol"))
        if (ticker := told.get(instrument.id)) is None:
            return Quote("error", name, QuoteValues(), f"{instrument.symbol} has not traded yet")
        return Quote("ok", name, _values(instrument, ticker))

    return Quotes("ok", [quote(name) for name in names])


def _values(instrument: Instrument, ticker: Ticker) -> QuoteValues:
    return QuoteValues(
        short_name=instrument.ticker,
        exchange=instrument.source,
        description=description(instrument),
        lp=number(ticker.last),
        ch=number(ticker.change),
        chp=number(ticker.change_percent),
        open_price=number(ticker.open),
        high_price=number(ticker.high),
        low_price=number(ticker.low),
        prev_close_price=number(ticker.previous),
        volume=number(ticker.volume),
    )
