"""Reads of the market: functions that run the queries of `sql/queries/market.sql`.

Connections come from `app.db.pool`, so that numerics arrive as text. Times are aware UTC; ranges include their start and
exclude their end.
"""

from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
from psycopg import AsyncConnection, sql
from psycopg.rows import args_row, scalar_row

import sql as queries
from app import db
from app.market.intervals import Interval, base_of, bucket_of, edges, next_bucket
from app.market.model import Candle, Instrument, Ticker, Trade, change_of, day_start, side_of

Connection = AsyncConnection[Any]

_QUERIES: Final = queries.load("market")
ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
NEVER: Final = datetime(2262, 1, 1, tzinfo=UTC)
NO_ID: Final = -1
TOP_ID: Final = 2**63 - 1


class Range(NamedTuple):
    """Which candles or ticks: from `start` to before `end`, at most `limit`: the oldest of them, or the newest."""

    start: datetime
    end: datetime
    limit: int
    newest: bool


class Place(NamedTuple):
    """A place in the order of ticks, by time and then by trade id; pages start after it, or end before it."""

    time: datetime
    trade_id: int


async def instruments(conn: Connection) -> list[Instrument]:
    """All instruments, by symbol."""
    async with conn.cursor(row_factory=args_row(Instrument)) as cursor:
        await cursor.execute(_QUERIES["instruments"])
        return await cursor.fetchall()


async def candles(
    conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo, wanted: Range, now: datetime
) -> list[Candle]:
    """Candles in ascending order; buckets without ticks are left out."""
    if base_of(interval) == interval and (zone is UTC or not interval.zoned):
        rows = await _stored(conn, instrument, interval, wanted)
    else:
        rows = await _merged(conn, instrument, interval, zone, wanted)
    open_since = bucket_of(now, interval, zone)
    for candle in rows:
        candle.closed = candle.time < open_since
        if instrument.contiguous_ids and candle.first_id is not None and candle.last_id is not None:
            candle.complete = candle.closed and candle.last_id - candle.first_id + 1 == candle.trades
    return rows


async def _stored(conn: Connection, instrument: Instrument, level: Interval, wanted: Range) -> list[Candle]:
    query = _at_level("newest_candles" if wanted.newest else "oldest_candles", level)
    async with conn.cursor(row_factory=args_row(Candle)) as cursor:
        await cursor.execute(query, {"instrument_id": instrument.id, **wanted._asdict()})
        rows = await cursor.fetchall()
    if wanted.newest:
        rows.reverse()
    return rows


async def _merged(
    conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo, wanted: Range
) -> list[Candle]:
    # Each turn reads as many buckets as are still wanted, from the nearest one that holds something: one turn where ticks are
    # dense, and at least a candle a turn where they are sparse.
    found: list[Candle] = []
    start, end = wanted.start, wanted.end
    while len(found) < wanted.limit:
        anchor = await _anchor(conn, instrument, interval, start, end, wanted.newest)
        if anchor is None:
            break
        missing = wanted.limit - len(found)
        bucket = bucket_of(anchor, interval, zone)
        if wanted.newest:
            first = max(next_bucket(bucket, interval, zone, 1 - missing), bucket_of(start, interval, zone))
            bounds = [
                edge for edge in edges(first, interval, zone, missing) if edge <= next_bucket(bucket, interval, zone)
            ]
        else:
            bounds = [*edges(bucket, interval, zone, missing)]
        page = [
            c for c in await _between(conn, instrument, interval, zone, bounds) if wanted.start <= c.time < wanted.end
        ]
        if wanted.newest:
            found, end = page + found, bounds[0]
        else:
            found, start = found + page, bounds[-1]
    return found


async def _anchor(
    conn: Connection, instrument: Instrument, interval: Interval, start: datetime, end: datetime, newest: bool
) -> datetime | None:
    place = "newest" if newest else "oldest"
    values = {"instrument_id": instrument.id, "start": start, "end": end}
    if interval is Interval.S1:
        return await _scalar(conn, _QUERIES[f"{place}_tick_time"], values)
    return await _scalar(conn, _at_level(f"{place}_bucket", Interval.M1), values)


async def _between(
    conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo, bounds: list[datetime]
) -> list[Candle]:
    level = base_of(interval, None if zone is UTC else bounds)
    query = _at_level("merged_candles", level) if level else sql.SQL(_QUERIES["merged_ticks"])
    values = {"instrument_id": instrument.id, "edges": bounds, "start": bounds[0], "end": bounds[-1]}
    async with conn.cursor(row_factory=args_row(Candle)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()


async def trades_before(
    conn: Connection, instrument: Instrument, place: Place, start: datetime, limit: int
) -> list[Trade]:
    """Trades before a place, newest first."""
    values = {"instrument_id": instrument.id, **place._asdict(), "start": start, "limit": limit}
    return await _trades(conn, "ticks_before", values)


async def trades_after(
    conn: Connection, instrument: Instrument, place: Place, end: datetime, limit: int, after_id: int = NO_ID
) -> list[Trade]:
    """Trades after a place whose id is above `after_id`, ascending."""
    values = {"instrument_id": instrument.id, **place._asdict(), "end": end, "limit": limit, "after_id": after_id}
    return await _trades(conn, "ticks_after", values)


async def _trades(conn: Connection, name: str, values: dict[str, Any]) -> list[Trade]:
    async with conn.cursor() as cursor:
        await cursor.execute(_QUERIES[name], values)
        return [Trade(i, time, price, size, side_of(maker)) for i, time, price, size, maker in await cursor.fetchall()]


async def place_after_id(conn: Connection, instrument: Instrument, after_id: int) -> Place | None:
    """A place before every tick whose id is above `after_id`, close to the first of them; None where there is none.

    Found through the first and last ids of candles, a day, an hour and a minute at a time, so that ticks need no index by id.
    """
    start, end = ALWAYS, NEVER
    for level in (Interval.D1, Interval.H1, Interval.M1):
        values = {"instrument_id": instrument.id, "after_id": after_id, "start": start, "end": end}
        bucket = await _scalar(conn, _at_level("bucket_after_id", level), values)
        if bucket is None:
            return None
        start, end = bucket, next_bucket(bucket, level)
    return Place(start, NO_ID)


async def price_at(conn: Connection, instrument: Instrument, at: datetime) -> Trade | None:
    """The last trade at or before a time."""
    found = await _trades(conn, "last_tick", {"instrument_id": instrument.id, "at": at})
    return found[0] if found else None


async def ticker(conn: Connection, instrument: Instrument, now: datetime) -> Ticker | None:
    """The last 24 hours, or None where the instrument has never traded."""
    last = await price_at(conn, instrument, NEVER)
    if last is None:
        return None
    async with conn.cursor() as cursor:
        await cursor.execute(_QUERIES["day_summary"], {"instrument_id": instrument.id, "start": day_start(now)})
        row = await cursor.fetchone()
    assert row is not None  # an aggregate without GROUP BY
    first, high, low, close, volume, quote_volume, trades, *_ = row
    if trades is None:
        return Ticker(last.time, last.price, None, None, None, None, None, "0", "0", 0)
    change, percent = change_of(Decimal(first), Decimal(close))
    return Ticker(last.time, close, first, high, low, change, percent, volume, quote_volume, trades)


class Gap(msgspec.Struct, frozen=True):
    """Trade ids `from_id`..`to_id`, both inclusive, missed between ticks of the two times."""

    from_id: int
    to_id: int
    from_time: datetime
    to_time: datetime
    state: str
    opened_at: datetime
    closed_at: datetime | None


async def gaps(conn: Connection, instrument: Instrument, after_id: int, limit: int, state: str | None) -> list[Gap]:
    """Ranges of trade ids known to be missing, oldest first."""
    values = {"instrument_id": instrument.id, "after_id": after_id, "limit": limit, "state": state}
    async with conn.cursor(row_factory=args_row(Gap)) as cursor:
        await cursor.execute(_QUERIES["gaps"], values)
        return await cursor.fetchall()


def _at_level(name: str, level: Interval) -> sql.Composed:
    return sql.SQL(_QUERIES[name]).format(level=db.table(f"candles_{level}"))


async def _scalar(conn: Connection, query: Any, values: dict[str, Any]) -> Any:
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchone()
