"""Instruments and ticks for the tests, and what the database tells of them."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg

from app import db
from app.market.model import Feed, Instrument, Tick, to_micros
from ingest import instruments
from ingest.copy import TickTable
from ingest.instruments import Listing
from ingest.refresher import Refresher
from tests.databases import Database

NOON = datetime(2024, 3, 15, 12, tzinfo=UTC)
_ticks = msgspec.json.Decoder(list[Tick])


async def add_instrument(
    database: Database,
    ticker: str = "BTCUSDT",
    source: str = "SIM",
    *,
    feed: Feed = "trade",
    contiguous_ids: bool = True,
) -> Instrument:
    async with connected(database) as conn:
        listings = {ticker: Listing("BTC", "USDT", 2)}
        found = await instruments.ensure(conn, source, listings, feed, contiguous_ids=contiguous_ids)
    return found[0]


def tick(
    instrument: Instrument,
    trade_id: int,
    time: datetime = NOON,
    price: str = "100.25",
    size: str = "0.5",
    buyer_is_maker: bool | None = False,
) -> Tick:
    return Tick(instrument.id, trade_id, to_micros(time), Decimal(price), Decimal(size), buyer_is_maker)


def series(
    instrument: Instrument, count: int, start: datetime = NOON, step: float = 0.25, first_id: int = 1
) -> list[Tick]:
    """Ticks `step` seconds apart whose prices go up and down."""
    return [
        tick(
            instrument,
            first_id + i,
            start + timedelta(seconds=step * i),
            price=f"{100 + i * 7 % 23}.{i % 100:02}",
            size=f"0.{i % 9 + 1:05}",
            buyer_is_maker=i % 3 == 0,
        )
        for i in range(count)
    ]


@asynccontextmanager
async def connected(database: Database, dsn: str | None = None) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection as the writer, where no other role's DSN is given."""
    async with await db.connect(dsn or database.writer, "test") as conn:
        yield conn


async def store(database: Database, ticks: Iterable[Tick], *, quiet: bool = False) -> None:
    async with connected(database) as conn:
        await TickTable(conn).write(list(ticks), quiet=quiet)


async def settle(database: Database) -> int:
    async with connected(database) as conn:
        return await Refresher(conn, database.engine).settle()


def run_policies(database: Database) -> None:
    """Refresh as the policies would, which no worker runs in the tests; finest level first."""
    query = (
        "SELECT job_id FROM timescaledb_information.jobs"
        " WHERE proc_name = 'policy_refresh_continuous_aggregate' ORDER BY job_id"
    )
    if database.engine == "timescaledb":
        with database.connect() as conn:
            for (job,) in conn.execute(query).fetchall():
                conn.execute("CALL run_job(%s)", (job,))


def stored(database: Database, instrument: Instrument) -> list[Tick]:
    """The stored ticks in order of their ids."""
    rows = database.execute(
        "SELECT instrument_id, trade_id, (extract(epoch FROM time) * 1000000)::bigint, price, size, buyer_is_maker"
        " FROM market.ticks WHERE instrument_id = %s ORDER BY trade_id, time",
        (instrument.id,),
    )
    return [Tick(*row) for row in rows]


@asynccontextmanager
async def listening(database: Database, channel: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with connected(database, database.app) as conn:
        await conn.execute("LISTEN " + channel)
        yield conn


async def heard(conn: psycopg.AsyncConnection[Any]) -> list[str]:
    """The payloads sent so far; NOTIFY of a committed transaction waits on the connection."""
    await conn.execute("SELECT 1")
    return [notification.payload async for notification in conn.notifies(timeout=0)]


def decoded(payloads: Iterable[str]) -> list[Tick]:
    return [tick for payload in payloads for tick in _ticks.decode(payload)]
