"""Trades ascending by id, as clients page them. The store orders by time, which now and then is another order."""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final

from psycopg import sql
from psycopg.rows import scalar_row

import sql as queries
from app import db
from app.market import store
from app.market.intervals import STORED, bucket_of, next_bucket
from app.market.model import Instrument, Trade, side_of
from app.market.store import ALWAYS, NEVER, NO_ID, Connection, Place

_QUERIES: Final = queries.load("binance")
_by_id: Final = attrgetter("trade_id")
_Span = tuple[datetime, datetime]


async def newest(conn: Connection, instrument: Instrument, end: datetime, limit: int) -> list[Trade]:
    """The newest trades before a time."""
    return sorted(await store.trades_before(conn, instrument, Place(end, NO_ID), ALWAYS, limit), key=_by_id)


async def oldest(conn: Connection, instrument: Instrument, start: datetime, end: datetime, limit: int) -> list[Trade]:
    """The oldest trades from a time on and before another."""
    return sorted(await store.trades_after(conn, instrument, Place(start, NO_ID), end, limit), key=_by_id)


async def from_id(conn: Connection, instrument: Instrument, first_id: int, limit: int) -> list[Trade]:
    """The trades of the lowest ids from `first_id` on, none left out: who goes on after the last one misses nothing.

    They end before ids that are missing and may be fetched any moment: whoever fills his own gaps from here would
    otherwise take those for lost.
    """
    async with conn.transaction():
        # One moment's trades and gaps: a gap that opened or closed between the readings would be overlooked.
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = await _lowest(conn, instrument, first_id, limit)
        beyond = await _gap_under_repair(conn, instrument, first_id)
    return [one for one in found if beyond is None or one.trade_id < beyond]


async def _lowest(conn: Connection, instrument: Instrument, first_id: int, limit: int) -> list[Trade]:
    place = await store.place_after_id(conn, instrument, first_id - 1)
    if place is None:
        return []
    found = await store.trades_after(conn, instrument, place, NEVER, limit, first_id - 1)
    last_id = max((one.trade_id for one in found), default=first_id)
    if instrument.contiguous_ids and limit == len(found) < last_id - first_id + 1:
        # A lower id than the page's last may lie behind its last time.
        found += await _behind(conn, instrument, found[-1], first_id, last_id)
    return sorted(found, key=_by_id)[:limit]


async def _gap_under_repair(conn: Connection, instrument: Instrument, first_id: int) -> int | None:
    values = {"instrument_id": instrument.id, "from_id": first_id}
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(_QUERIES["gap_under_repair"], values)
        missing: int | None = await cursor.fetchone()
    return missing


async def _behind(conn: Connection, instrument: Instrument, last: Trade, from_id: int, to_id: int) -> list[Trade]:
    """Trades of a range of ids that come after a trade in the order of time."""
    values = {"instrument_id": instrument.id, "from_id": from_id, "to_id": to_id}
    spans: Sequence[_Span] = [(last.time, NEVER)]
    for level in reversed(STORED):
        query = sql.SQL(_QUERIES["buckets_of_ids"]).format(level=db.table(f"candles_{level}"))
        buckets: list[datetime] = []
        for start, end in spans:
            async with conn.cursor(row_factory=scalar_row) as cursor:
                await cursor.execute(query, {**values, "start": bucket_of(start, level), "end": end})
                buckets += await cursor.fetchall()
        spans = [(max(bucket, last.time), next_bucket(bucket, level)) for bucket in buckets]
    found: list[Trade] = []
    for start, end in spans:
        cursor = await conn.execute(_QUERIES["ticks_of_ids"], {**values, "start": start, "end": end})
        found += [
            Trade(i, time, price, size, side_of(maker)) for i, time, price, size, maker in await cursor.fetchall()
        ]
    return [one for one in found if (one.time, one.trade_id) > (last.time, last.trade_id)]
