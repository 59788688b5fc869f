"""Ticks into `market.ticks`: a batch, a transaction.

COPY goes straight into the table; only a batch that holds a tick twice, or one that is stored already, takes the way
through a staging table, so that a duplicate never costs its batch. So does every quiet batch: what it tells again may
be stored with a time of another precision.
"""

import struct
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.adapt import Dumper
from psycopg.pq import Format

import sql as queries
from app.market.model import DAY, EPOCH, MICROSECOND, Tick, from_micros, tick_problem, to_micros
from ingest.gaps import gap_row
from ingest.sequence import Hole

Connection = AsyncConnection[Any]

_QUERIES: Final = queries.load("ingest")
_GAP_QUERIES: Final = queries.load("gaps")
_TYPES: Final = ("timestamptz", "int4", "int8", "numeric", "numeric", "bool")
_POSTGRES_EPOCH_US: Final = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_DAY_US: Final = DAY // MICROSECOND
_MILLISECOND: Final = timedelta(milliseconds=1)


# How a tick that cannot be stored shows: by the table's rules, or already by its encoding.
_UNFIT: Final = (psycopg.errors.CheckViolation, psycopg.DataError, OverflowError, struct.error)


class _MicrosDumper(Dumper):
    """Microseconds since 1970 as a binary timestamptz: a third of the cost of making a datetime first."""

    format = Format.BINARY
    oid = psycopg.adapters.types["timestamptz"].oid

    def dump(self, obj: int) -> bytes:
        return struct.pack("!q", obj - _POSTGRES_EPOCH_US)


class Written(NamedTuple):
    """What became of a batch; the three add up to its length."""

    new: int
    duplicate: int
    refused: int


class TickTable:
    """Writes batches of ticks over one connection, which it makes its own: timestamps go out as integers on it.

    On the engine postgres it makes the partitions that a batch needs.
    """

    def __init__(self, conn: Connection, handed_over: Callable[[], None] = lambda: None) -> None:
        """`handed_over` is called when the server has a batch and works on it: the time to do something else."""
        self._conn = conn
        self._handed_over = handed_over
        self._days: set[int] = set()
        conn.adapters.register_dumper(None, _MicrosDumper)

    async def write(self, ticks: Sequence[Tick], *, quiet: bool = False, holes: Collection[Hole] = ()) -> Written:
        """Store a batch and the gaps it opens, all or nothing, each tick once; psycopg errors pass through.

        `quiet` announces no tick and marks all their ranges for refresh; a tick is a duplicate there, too, where its
        trade is stored with another time in the same millisecond. Ticks that the table's rules refuse, or that are
        older than it keeps them, are left out.
        """
        if not (ticks or holes):
            return Written(0, 0, 0)
        try:
            return await self._store(ticks, quiet, holes)
        except _UNFIT:
            self._days.clear()  # a partition may have been dropped under us
            fit = await self._fit(ticks)
            return (await self._store(fit, quiet, holes))._replace(refused=len(ticks) - len(fit))

    async def _store(self, ticks: Sequence[Tick], quiet: bool, holes: Collection[Hole]) -> Written:
        await self._make_room(ticks)
        try:
            new = await self._write(ticks, quiet, holes, staged=quiet)
        except psycopg.errors.UniqueViolation:
            new = await self._write(ticks, quiet, holes, staged=True)
        return Written(new, len(ticks) - new, 0)

    async def _fit(self, ticks: Sequence[Tick]) -> list[Tick]:
        """The ticks that the table takes."""
        cursor = await self._conn.execute(_QUERIES["kept_since"])
        row = await cursor.fetchone()
        since_us = to_micros(row[0]) if row and row[0] else 0
        return [tick for tick in ticks if tick_problem(tick) is None and tick.time_us >= since_us]

    async def _make_room(self, ticks: Sequence[Tick]) -> None:
        days = {tick.time_us // _DAY_US for tick in ticks} - self._days
        if days:
            dates: list[date] = [(EPOCH + DAY * day).date() for day in days]
            await self._conn.execute(_QUERIES["make_room"], {"days": dates})
            self._days |= days

    async def _write(self, ticks: Sequence[Tick], quiet: bool, holes: Collection[Hole], *, staged: bool) -> int:
        async with self._conn.cursor() as cursor:
            if not (quiet or staged or holes):
                # One statement is a transaction of its own, and saves the round trips of BEGIN and COMMIT.
                await self._copy(cursor, "copy_ticks", ticks)
                return len(ticks)
            async with self._conn.transaction():
                if quiet:
                    await cursor.execute(_QUERIES["be_quiet"])
                if staged:
                    await cursor.execute(_QUERIES["make_staging"])
                    await self._copy(cursor, "copy_staging", ticks)
                    if quiet:
                        await cursor.execute(_QUERIES["merge_staging_quietly"], _surroundings(ticks))
                    else:
                        await cursor.execute(_QUERIES["merge_staging"])
                    new = cursor.rowcount
                    await cursor.execute(_QUERIES["drop_staging"])
                else:
                    await self._copy(cursor, "copy_ticks", ticks)
                    new = len(ticks)
                for hole in holes:
                    await cursor.execute(_GAP_QUERIES["open_gap"], gap_row(hole))
                return new

    async def _copy(self, cursor: AsyncCursor[Any], query: str, ticks: Sequence[Tick]) -> None:
        async with cursor.copy(_QUERIES[query]) as copy:
            copy.set_types(_TYPES)
            for tick in ticks:
                await copy.write_row(
                    (tick.time_us, tick.instrument_id, tick.trade_id, tick.price, tick.size, tick.buyer_is_maker)
                )
            self._handed_over()


def _surroundings(ticks: Sequence[Tick]) -> dict[str, Any]:
    """The instruments of a batch, and its times with a millisecond to either side."""
    times = [tick.time_us for tick in ticks]
    return {
        "instrument_ids": list({tick.instrument_id for tick in ticks}),
        "start": from_micros(min(times)) - _MILLISECOND,
        "end": from_micros(max(times)) + _MILLISECOND,
    }
