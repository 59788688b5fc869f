"""The instruments that ticks are written for: found in the database, or added with what the source tells of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import args_row

import sql as queries
from app.errors import OperatorError
from app.market.model import Feed, Instrument, InstrumentId, to_micros

DEFAULT_PRICE_SCALE: Final = 2
_QUERIES: Final = queries.load("ingest")


class Listing(NamedTuple):
    """What a source says of one of its tickers."""

    base: str | None = None
    quote: str | None = None
    price_scale: int = DEFAULT_PRICE_SCALE


async def ensure(
    conn: AsyncConnection[Any],
    source: str,
    listings: Mapping[str, Listing],
    feed: Feed,
    *,
    contiguous_ids: bool,
    active: bool = True,
) -> list[Instrument]:
    """The instruments of a source's tickers, added where they are new, marked as tracked where `active`.

    Raises OperatorError where one of them holds ids of another kind of feed: the two cannot share one order.
    """
    symbols = [f"{source}:{ticker}" for ticker in listings]
    for ticker, listing in listings.items():
        values = {"source": source, "ticker": ticker, "feed": feed, "contiguous_ids": contiguous_ids, "active": active}
        await conn.execute(_QUERIES["add_instrument"], {**values, **listing._asdict()})
    if active:
        await conn.execute(_QUERIES["activate_instruments"], {"symbols": symbols})
    found = await by_symbol(conn, symbols)
    for instrument in found:
        if instrument.feed != feed:
            raise OperatorError(
                f"{instrument.symbol} holds ticks of the feed {instrument.feed}, whose ids are not those of {feed};"
                f" take {instrument.feed} again, or another instrument"
            )
    return found


async def by_symbol(conn: AsyncConnection[Any], symbols: Sequence[str]) -> list[Instrument]:
    """The instruments that go by these symbols, by symbol."""
    async with conn.cursor(row_factory=args_row(Instrument)) as cursor:
        await cursor.execute(_QUERIES["instruments"], {"symbols": list(symbols)})
        return await cursor.fetchall()


async def last_stored(
    conn: AsyncConnection[Any], instrument_ids: Iterable[InstrumentId]
) -> dict[InstrumentId, tuple[int, int] | None]:
    """The highest trade id of each instrument with contiguous ids, and its last time in µs; None without ticks."""
    cursor = await conn.execute(_QUERIES["last_ids"], {"instrument_ids": list(instrument_ids)})
    return {row[0]: None if row[1] is None else (row[1], to_micros(row[2])) for row in await cursor.fetchall()}
