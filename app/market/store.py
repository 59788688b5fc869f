"""Reads of the market: functions that run the queries of `sql/queries/market.sql`.

Connections come from `app.db.pool`, so that numerics arrive as text. Times are aware UTC; ranges include their start
and exclude their end.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from psycopg import AsyncConnection, sql
from psycopg.rows import args_row, scalar_row

import sql as queries
from app import db
from app.market.intervals import STORED, Interval, base_of, bucket_of, next_bucket
from app.market.model import (
    DAY,
    EPOCH,
    MICROSECOND,
    Candle,
    Feed,
    Instrument,
    Trade,
    side_of,
)

Connection = AsyncConnection[Any]

_QUERIES: Final = queries.load("market")
ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
NEVER: Final = datetime(2262, 1, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
MANY_HOURS: Final = timedelta(hours=6)
"""Below it, the minutes of a bucket are read as fast as its hours and the minutes at its edges."""
NO_ID: Final = -1
TOP_ID: Final = 2**63 - 1


class Range(NamedTuple):
    """Which candles or ticks: from `start` to before `end`, at most `limit`: the oldest of them, or the newest."""

    start: datetime
    end: datetime
    limit: int
    newest: bool


T = TypeVar("T", Candle, Trade)
_Read = Callable[[Range], Awaitable[list[T]]]
"""Reads a window, nearest first: backwards where the newest are wanted."""


class Place(NamedTuple):
    """A place in the order of ticks, by time and then by trade id; pages start after it, or end before it."""

    time: datetime
    trade_id: int


async def instruments(conn: Connection) -> list[Instrument]:
    """All instruments, by symbol."""
    async with conn.cursor(row_factory=args_row(Instrument)) as cursor:
        await cursor.execute(_QUERIES["instruments"])
        return await cursor.fetchall()


async def track(conn: Connection, symbol: str, feed: Feed | None) -> Instrument | None:
    """Have an instrument tracked from now on, adding it where it is new."""
    return await _instrument(conn, "track", {"symbol": symbol, "feed": feed})


async def untrack(conn: Connection, symbol: str) -> Instrument | None:
    """End the tracking of an instrument; None where there is none."""
    return await _instrument(conn, "untrack", {"symbol": symbol})


async def _instrument(conn: Connection, name: str, values: dict[str, Any]) -> Instrument | None:
    async with conn.cursor(row_factory=args_row(Instrument)) as cursor:
        await cursor.execute(_QUERIES[name], values)
        return await cursor.fetchone()


async def candles(
    conn: Connection,
    instrument: Instrument,
    interval: Interval,
    zone: tzinfo,
    wanted: Range,
    now: datetime,
    *,
    prove: bool = True,
) -> list[Candle]:
    """Candles in ascending order; buckets without ticks are left out. Unless `prove`, none says if it is complete."""
    if interval in STORED and bucket_of(EPOCH, interval, zone) == EPOCH and (zone is UTC or not interval.zoned):
        read = _stored(conn, instrument, interval)
    elif interval.zoned or _cuts_hours(interval, zone):
        read = _merged(conn, instrument, interval, zone)
    else:
        read = _binned(conn, instrument, interval, zone)
    rows = await _nearest(conn, instrument, wanted, read, _Windows(interval, zone, wanted.limit), now)
    if wanted.newest:
        rows.reverse()
    open_since = bucket_of(now, interval, zone)
    for candle in rows:
        candle.closed = candle.time < open_since
        if prove and instrument.contiguous_ids and candle.first_id is not None and candle.last_id is not None:
            candle.complete = candle.closed and candle.last_id - candle.first_id + 1 == candle.trades
    if any(candle.complete for candle in rows):
        await _doubt(conn, instrument, interval, zone, rows)
    return rows


async def _doubt(
    conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo, ascending: list[Candle]
) -> None:
    """Mark the candles incomplete that a gap touches: it reaches from the tick before it to the tick after it."""
    times = [candle.time for candle in ascending]
    end = next_bucket(times[-1], interval, zone)
    values = {"instrument_id": instrument.id, "start": times[0], "end": end}
    async with conn.cursor() as cursor:
        await cursor.execute(_QUERIES["touching_gaps"], values)
        for before, after in await cursor.fetchall():
            first = bisect_left(times, bucket_of(before, interval, zone))
            for candle in ascending[first : bisect_right(times, after)]:
                candle.complete = False


class _Windows(NamedTuple):
    """Windows of some whole buckets."""

    interval: Interval
    zone: tzinfo
    buckets: int

    def edge(self, moment: datetime) -> datetime:
        """The first bucket that starts at a moment or after it."""
        bucket = bucket_of(moment, self.interval, self.zone)
        return bucket if bucket == moment else next_bucket(bucket, self.interval, self.zone)

    def step(self, edge: datetime, sign: int) -> datetime:
        return next_bucket(edge, self.interval, self.zone, sign * self.buckets)


async def _nearest(
    conn: Connection, instrument: Instrument, wanted: Range, read: _Read[T], windows: _Windows, now: datetime
) -> list[T]:
    """What `read` finds, nearest first: back from the range's end where the newest are wanted, else on from its start.

    A read over all time makes the server plan for every partition, and sort all that a continuous aggregate holds. So
    it goes window by window, and mostly one does. Where one holds little, days of candles tell where to go on, and the
    next is wider.
    """
    found: list[T] = []
    start, end = windows.edge(wanted.start), windows.edge(wanted.end)
    skip = not wanted.newest and wanted.start == ALWAYS
    while start < end and len(found) < wanted.limit:
        if skip:
            day = await _nearest_day(conn, instrument, start, end, newest=wanted.newest)
            if day is None:
                break
            start, end = _nearer(windows, start, end, day, newest=wanted.newest)
        if wanted.newest:
            low = max(start, windows.step(min(end, windows.edge(now)), -1))
            window, end = Range(low, end, wanted.limit - len(found), newest=True), low
        else:
            high = min(end, windows.step(start, 1))
            window, start = Range(start, high, wanted.limit - len(found), newest=False), high
        rows = await read(window)
        found += rows
        if skip := 2 * len(rows) < window.limit:
            windows = windows._replace(buckets=windows.buckets * 4)
    return found


def _nearer(
    windows: _Windows, start: datetime, end: datetime, day: datetime, *, newest: bool
) -> tuple[datetime, datetime]:
    """The range, without what lies before the oldest day, or after the newest."""
    if newest:
        return start, min(end, windows.edge(day + DAY))
    return max(start, bucket_of(day, windows.interval, windows.zone)), end


async def _nearest_day(
    conn: Connection, instrument: Instrument, start: datetime, end: datetime, *, newest: bool
) -> datetime | None:
    query = sql.SQL(_QUERIES["nearest_day"]).format(order=_order(newest))
    values = {"instrument_id": instrument.id, "start": bucket_of(start, Interval.D1), "end": end}
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(query, values)
        day: datetime | None = await cursor.fetchone()
    return day


def _stored(conn: Connection, instrument: Instrument, level: Interval) -> _Read[Candle]:
    async def read(window: Range) -> list[Candle]:
        return await _candles(conn, "stored_candles", level, instrument, window)

    return read


def _binned(conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo) -> _Read[Candle]:
    origin = bucket_of(EPOCH, interval, zone)
    level = base_of(interval, None if origin == EPOCH else [origin])

    async def read(window: Range) -> list[Candle]:
        name = "binned_candles" if level else "binned_ticks"
        return await _candles(conn, name, level, instrument, window, stride=interval.stride, origin=origin)

    return read


def _cuts_hours(interval: Interval, zone: tzinfo) -> bool:
    """Whether a zone cuts long intervals off the hour, so that to bin them is to read all their minutes."""
    if interval.stride is None or interval.stride < MANY_HOURS:
        return False
    origin = bucket_of(EPOCH, interval, zone)
    return bucket_of(origin, Interval.H1) != origin


def _merged(conn: Connection, instrument: Instrument, interval: Interval, zone: tzinfo) -> _Read[Candle]:
    async def read(window: Range) -> list[Candle]:
        # Only days that hold something need edges: there may be none for centuries.
        oldest = await _nearest_day(conn, instrument, window.start, window.end, newest=False)
        newest = await _nearest_day(conn, instrument, window.start, window.end, newest=True)
        if oldest is None or newest is None:
            return []
        bounds = [max(window.start, bucket_of(oldest, interval, zone))]
        last = min(window.end, newest + DAY)
        while bounds[-1] < last:
            bounds.append(next_bucket(bounds[-1], interval, zone))
        if len(bounds) == 1:
            return []
        level = base_of(interval, None if zone is UTC else bounds)
        span = Range(bounds[0], bounds[-1], window.limit, window.newest)
        if level is Interval.M1:
            cut = sorted({bucket_of(edge, Interval.H1) for edge in bounds if bucket_of(edge, Interval.H1) != edge})
            rows = await _candles(conn, "merged_hours", None, instrument, span, edges=bounds, cut=cut)
        else:
            name = "merged_candles" if level else "merged_ticks"
            rows = await _candles(conn, name, level, instrument, span, edges=bounds)
        return rows[: -window.limit - 1 : -1] if window.newest else rows[: window.limit]

    return read


async def _candles(
    conn: Connection, name: str, level: Interval | None, instrument: Instrument, window: Range, **values: Any
) -> list[Candle]:
    query = sql.SQL(_QUERIES[name]).format(
        level=db.table(f"candles_{level}") if level else sql.SQL(""), order=_order(window.newest)
    )
    async with conn.cursor(row_factory=args_row(Candle)) as cursor:
        await cursor.execute(query, {"instrument_id": instrument.id, **window._asdict(), **values})
        return await cursor.fetchall()


def _order(newest: bool) -> sql.SQL:
    return sql.SQL("DESC" if newest else "ASC")


_DAYS: Final = _Windows(Interval.D1, UTC, 2)


async def trades_before(
    conn: Connection, instrument: Instrument, place: Place, start: datetime, limit: int
) -> list[Trade]:
    """Trades from `start` on and before a place, newest first."""

    async def read(window: Range) -> list[Trade]:
        values = {**place._asdict(), "start": max(start, window.start), "limit": window.limit}
        if window.end <= place.time:
            values |= {"time": window.end, "trade_id": NO_ID}
        return await _trades(conn, "ticks_before", instrument, values)

    # The range ends after the place's own microsecond, which may hold ticks of lower ids.
    wanted = Range(bucket_of(start, Interval.D1), place.time + MICROSECOND, limit, newest=True)
    return await _nearest(conn, instrument, wanted, read, _DAYS, datetime.now(UTC))


async def trades_after(
    conn: Connection, instrument: Instrument, place: Place, end: datetime, limit: int, after_id: int = NO_ID
) -> list[Trade]:
    """Trades after a place and before `end` whose id is above `after_id`, ascending."""

    async def read(window: Range) -> list[Trade]:
        values = {**place._asdict(), "end": min(end, window.end), "limit": window.limit, "after_id": after_id}
        if window.start > place.time:
            values |= {"time": window.start, "trade_id": NO_ID}
        return await _trades(conn, "ticks_after", instrument, values)

    wanted = Range(bucket_of(place.time, Interval.D1), end, limit, newest=False)
    return await _nearest(conn, instrument, wanted, read, _DAYS, datetime.now(UTC))


async def _trades(conn: Connection, name: str, instrument: Instrument, values: dict[str, Any]) -> list[Trade]:
    async with conn.cursor() as cursor:
        await cursor.execute(_QUERIES[name], {"instrument_id": instrument.id, **values})
        return [read_trade(row) for row in await cursor.fetchall()]


def read_trade(row: Sequence[Any]) -> Trade:
    """A trade out of the columns of ticks, in the order of the queries."""
    trade_id, time, price, size, maker = row
    return Trade(trade_id, time, price, size, side_of(maker))


async def place_after_id(conn: Connection, instrument: Instrument, after_id: int) -> Place | None:
    """A place before every tick whose id is above `after_id`, close to the first of them; None where there is none.

    Found through the first and last ids of candles, a day, an hour and a minute at a time, so that ticks need no index
    by id.
    """
    start, end = ALWAYS, NEVER
    for level in reversed(STORED):
        values = {"instrument_id": instrument.id, "after_id": after_id, "start": start, "end": end}
        query = sql.SQL(_QUERIES["bucket_after_id"]).format(level=db.table(f"candles_{level}"))
        async with conn.cursor(row_factory=scalar_row) as cursor:
            await cursor.execute(query, values)
            bucket = await cursor.fetchone()
        if bucket is None:
            return None
        start, end = bucket, next_bucket(bucket, level)
    return Place(start, NO_ID)


async def price_at(conn: Connection, instrument: Instrument, at: datetime) -> Trade | None:
    """The last trade at or before a time."""
    found = await trades_before(conn, instrument, Place(at + MICROSECOND, NO_ID), ALWAYS, 1)
    return found[0] if found else None


class Gap(msgspec.Struct, frozen=True):
    """Trade ids `from_id`..`to_id`, both inclusive, missed between ticks of the two times.

    `reason` tells why an unfillable gap is, and is null for the others.
    """

    from_id: int
    to_id: int
    from_time: datetime
    to_time: datetime
    state: Literal["open", "filled", "unfillable"]
    reason: str | None
    opened_at: datetime
    closed_at: datetime | None


async def gaps(conn: Connection, instrument: Instrument, after_id: int, limit: int, state: str | None) -> list[Gap]:
    """Ranges of trade ids known to be missing, oldest first."""
    values = {"instrument_id": instrument.id, "after_id": after_id, "limit": limit, "state": state}
    async with conn.cursor(row_factory=args_row(Gap)) as cursor:
        await cursor.execute(_QUERIES["gaps"], values)
        return await cursor.fetchall()


async def gaps_between(
    conn: Connection, instrument: Instrument, start: datetime, end: datetime, limit: int
) -> list[Gap]:
    """The gaps that were not filled and begin in a range of times, newest first."""
    values = {"instrument_id": instrument.id, "start": start, "end": end, "limit": limit}
    async with conn.cursor(row_factory=args_row(Gap)) as cursor:
        await cursor.execute(_QUERIES["gaps_between"], values)
        return await cursor.fetchall()


async def filled_gaps(
    conn: Connection, instrument: Instrument, among: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The ids, both ends inclusive, of the gaps that have been filled and touch any of these ranges of ids."""
    values = {
        "instrument_id": instrument.id,
        "from_ids": [from_id for from_id, _ in among],
        "to_ids": [to_id for _, to_id in among],
    }
    cursor = await conn.execute(_QUERIES["filled_gaps"], values)
    return await cursor.fetchall()
