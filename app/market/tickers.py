"""Tickers of any window and last trades, of many instruments at once: functions that run queries of `market.sql`.

Connections come from `app.db.pool`, so that numerics arrive as text.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

import sql as queries
from app.market.intervals import Interval, bucket_of
from app.market.model import (
    DAY,
    MICROSECOND,
    Instrument,
    InstrumentId,
    Ticker,
    Trade,
    change_of,
    day_start,
    quiet_ticker,
)
from app.market.store import ALWAYS, NEVER, Connection, read_trade

HOUR: Final = timedelta(hours=1)
_QUERIES: Final = queries.load("market")


async def day(conn: Connection, instrument: Instrument, now: datetime) -> Ticker | None:
    """The last 24 hours, or None where the instrument has never traded."""
    return (await windows(conn, [instrument], day_start(now))).get(instrument.id)


async def windows(conn: Connection, instruments: Sequence[Instrument], start: datetime) -> dict[InstrumentId, Ticker]:
    """The window since the start of a minute; instruments that never traded, or keep no tick, are absent."""
    ids = [instrument.id for instrument in instruments]
    hour = bucket_of(start + HOUR - MICROSECOND, Interval.H1)
    cursor = await conn.execute(_QUERIES["windows"], {"ids": ids, "start": start, "hour": hour})
    rows = await cursor.fetchall()
    before = start - HOUR
    previous = await _newest(conn, "newest_closes", ids, [start, before, bucket_of(before, Interval.D1)])
    found = {row[0]: _ticker(row, *previous.get(row[0], [None])) for row in rows}
    quiet = [instrument for instrument in instruments if instrument.id not in found and instrument.id in previous]
    for of, trade in (await last_trades(conn, quiet)).items():
        found[of] = quiet_ticker(trade.time, previous[of][0], trade.size)
    return found


def _ticker(row: Sequence[Any], previous: str | None) -> Ticker:
    _, time, size, first, high, low, last, volume, quote_volume, trades, first_id, last_id = row
    change = change_of(Decimal(first), Decimal(last))
    return Ticker(
        time, last, first, high, low, *change, volume, quote_volume, trades, size, previous, first_id, last_id
    )


async def last_trades(conn: Connection, instruments: Sequence[Instrument]) -> dict[InstrumentId, Trade]:
    """The last trade by time of each instrument that has any."""
    yesterday = bucket_of(datetime.now(UTC), Interval.D1) - DAY
    ids = [instrument.id for instrument in instruments]
    found = await _newest(conn, "newest_ticks", ids, [NEVER, yesterday])
    return {of: read_trade(row) for of, row in found.items()}


async def _newest(
    conn: Connection, name: str, ids: Sequence[InstrumentId], edges: Sequence[datetime]
) -> dict[InstrumentId, Sequence[Any]]:
    """The newest row of each instrument before the first edge, however old.

    Looked for between the edges, which descend to the start of a day, and then in the newest day of candles before: a
    query for each such day, since a read over all time makes the server plan for every partition.
    """
    found: dict[InstrumentId, Sequence[Any]] = {}
    for end, start in pairwise(edges):
        found |= await _of_each(conn, name, [of for of in ids if of not in found], start, end)
    missing = [of for of in ids if of not in found]
    days: dict[datetime, list[InstrumentId]] = {}
    for of, (day,) in (await _of_each(conn, "newest_days", missing, ALWAYS, edges[-1])).items():
        days.setdefault(day, []).append(of)
    for day, group in days.items():
        found |= await _of_each(conn, name, group, day, day + DAY)
    return found


async def _of_each(
    conn: Connection, name: str, ids: Sequence[InstrumentId], start: datetime, end: datetime
) -> dict[InstrumentId, Sequence[Any]]:
    if not ids:
        return {}
    cursor = await conn.execute(_QUERIES[name], {"ids": ids, "start": start, "end": end})
    return {of: columns for of, *columns in await cursor.fetchall()}
