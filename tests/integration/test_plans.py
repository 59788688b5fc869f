"""The hottest reads touch what they answer and little more, however long the history: rows and partitions counted."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from app import db
from app.market import store, tickers
from app.market.intervals import Interval
from app.market.model import Instrument
from app.market.store import ALWAYS, NEVER, NO_ID, Place, Range
from tests.databases import Database
from tests.integration.ticks import add_instrument, run_policies

DAYS = 60
DAY = timedelta(days=1)
STEP = timedelta(minutes=3)
LIMIT = 100
Read = Callable[[store.Connection, Instrument, datetime], Awaitable[Any]]


def candles(interval: str, *, newest: bool = True, days_ago: int = 0, zone: Any = UTC) -> Read:
    async def read(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
        moment = now - timedelta(days=days_ago) if days_ago else None
        wanted = Range(ALWAYS, moment or NEVER, LIMIT, newest=True)
        if not newest:
            wanted = Range(moment or ALWAYS, NEVER, LIMIT, newest=False)
        return await store.candles(conn, instrument, Interval(interval), zone, wanted, now)

    return read


async def newest_ticks(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    return await store.trades_before(conn, instrument, Place(NEVER, NO_ID), ALWAYS, LIMIT)


async def ticks_before(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    return await store.trades_before(conn, instrument, Place(now - timedelta(days=30), 5), ALWAYS, LIMIT)


async def oldest_ticks(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    return await store.trades_after(conn, instrument, Place(ALWAYS, NO_ID), NEVER, LIMIT)


async def ticks_after(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    return await store.trades_after(conn, instrument, Place(now - timedelta(days=30), 5), NEVER, LIMIT)


async def ticks_after_id(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    place = await store.place_after_id(conn, instrument, 10_000)
    assert place is not None
    return await store.trades_after(conn, instrument, place, NEVER, LIMIT, 10_000)


async def last_price(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    found = await store.price_at(conn, instrument, NEVER)
    return [found] * LIMIT


async def price_then(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    found = await store.price_at(conn, instrument, now - timedelta(days=30))
    return [found] * LIMIT


async def ticker(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    found = await tickers.day(conn, instrument, now)
    assert found is not None
    return [found] * LIMIT


async def last_trades(conn: store.Connection, instrument: Instrument, now: datetime) -> Any:
    found = await tickers.last_trades(conn, [instrument])
    return [found[instrument.id]] * LIMIT


class Case(NamedTuple):
    read: Read
    queries: int
    rows: int
    """What all queries together may touch: rows read, those thrown away included."""
    relations: int
    """Tables and partitions that one query may look into."""


# Days of candles are read whole where nothing says where the data begins: a row a day, and what the newest consist of,
# which is up to 1,440 minutes of two instruments, as the day goes on. All there is are 57,600 ticks.
DAY_ROWS = DAYS + 3000
CASES = {
    "newest 1m": Case(candles("1m"), 4, 500 + DAY_ROWS, 12),
    "1m before a time": Case(candles("1m", days_ago=30), 4, 500 + DAY_ROWS, 8),
    "1m from a time": Case(candles("1m", newest=False, days_ago=30), 4, 500 + DAY_ROWS, 8),
    "oldest 1m": Case(candles("1m", newest=False), 7, 500 + DAY_ROWS, 16),
    "newest 5m": Case(candles("5m"), 2, 2500, 8),
    "newest 1h": Case(candles("1h"), 2, 2000, 16),
    "newest 1s": Case(candles("1s"), 15, 2500 + 7 * DAY_ROWS, 40),
    "newest ticks": Case(newest_ticks, 1, LIMIT, 4),
    "ticks before a place": Case(ticks_before, 1, LIMIT + 500, 4),
    "ticks after a place": Case(ticks_after, 1, LIMIT + 500, 4),
    "oldest ticks": Case(oldest_ticks, 2, LIMIT + DAY_ROWS, 16),
    "ticks after an id": Case(ticks_after_id, 4, 3 * LIMIT + DAY_ROWS, 16),
    "last price": Case(last_price, 1, 1, 4),
    "price at a time": Case(price_then, 1, 1, 4),
    "ticker": Case(ticker, 2, 250, 12),
    "last trades": Case(last_trades, 1, 1, 4),
}


@pytest.fixture
async def filled(database: Database) -> Instrument:
    """Sixty days of two instruments, a tick every three minutes, refreshed."""
    instrument, other = await add_instrument(database, "BTCUSDT"), await add_instrument(database, "ETHUSDT")
    database.execute(
        "SELECT market.make_room(array_agg(current_date - i)) FROM generate_series(-1, %s) AS i", (DAYS + 1,)
    )
    with database.connect() as conn:
        conn.execute("SET tickwick.quiet = 'on'")
        conn.execute(
            "INSERT INTO market.ticks (time, instrument_id, trade_id, price, size, buyer_is_maker)"
            " SELECT now() - %s * (%s - i), id, i, 100 + i %% 50, 0.5, i %% 2 = 0"
            " FROM unnest(%s::int[]) AS id, generate_series(1, %s) AS i",
            (STEP, DAYS * 480, [instrument.id, other.id], DAYS * 480),
        )
        conn.execute("TRUNCATE market.stale_ranges")
    run_policies(database)
    database.execute("VACUUM ANALYZE")
    return instrument


class Explained(psycopg.AsyncCursor[Any]):
    """Explains each query before it runs it."""

    plans: list[Any]

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        text = sql.SQL(query) if isinstance(query, str) else query
        await super().execute(sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + text, params)
        row_factory, self.row_factory = self.row_factory, psycopg.rows.tuple_row
        self.plans += [plan["Plan"] for (plans,) in await self.fetchall() for plan in plans]
        self.row_factory = row_factory
        return await super().execute(query, params, **options)


@pytest.fixture
async def explaining(database: Database) -> AsyncIterator[tuple[store.Connection, list[Any]]]:
    plans: list[Any] = []
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        conn.cursor_factory = type("Cursor", (Explained,), {"plans": plans})
        yield conn, plans


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def touched(plan: Any) -> tuple[int, set[str]]:
    """Rows read, kept or not, and the tables they may lie in."""
    rows, relations = 0.0, set()
    for node in nodes(plan):
        if (name := node.get("Relation Name")) and node["Node Type"] != "Custom Scan":  # the scans below it count
            relations.add(name)
            rows += node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return round(rows), relations


async def test_hottest_reads_touch_few_rows_and_partitions(
    database: Database, filled: Instrument, explaining: tuple[store.Connection, list[Any]]
) -> None:
    conn, plans = explaining
    now = datetime.now(UTC)
    wrong = []
    for name, case in CASES.items():
        plans.clear()
        found = await case.read(conn, filled, now)
        assert len(found) == LIMIT, name
        rows = sum(touched(plan)[0] for plan in plans)
        relations = max(len(touched(plan)[1]) for plan in plans)
        if len(plans) > case.queries or rows > case.rows or relations > case.relations:
            wrong.append(f"{name}: {len(plans)} queries, {rows} rows, {relations} relations")
    assert not wrong


@pytest.mark.parametrize(("interval", "buckets"), [("12h", 100), ("1d", 50), ("1w", 7)])
async def test_long_candles_of_an_odd_zone_are_not_made_of_all_minutes(
    database: Database,
    filled: Instrument,
    explaining: tuple[store.Connection, list[Any]],
    interval: str,
    buckets: int,
) -> None:
    conn, plans = explaining
    zone = timezone(timedelta(hours=5, minutes=45))
    wanted = Range(ALWAYS, datetime.now(UTC) - 5 * DAY, buckets, newest=True)
    found = await store.candles(conn, filled, Interval(interval), zone, wanted, datetime.now(UTC))
    assert len(found) == buckets
    # The hours of at most sixty days, and the twenty minutes that traded of each hour that is cut; all would be 28,800.
    assert sum(touched(plan)[0] for plan in plans) < 2 * DAY_ROWS + DAYS * 24 + buckets * 20 * 2


@pytest.mark.engines("timescaledb")
async def test_newest_minutes_of_a_long_history_stay_fast(database: Database) -> None:
    """A real-time aggregate sorts all of a range that it is asked for: 500 minutes out of a year took 200 ms."""
    instrument = await add_instrument(database)
    with database.connect() as conn:
        conn.execute("SET tickwick.quiet = 'on'")
        conn.execute(
            "INSERT INTO market.ticks (time, instrument_id, trade_id, price, size)"
            " SELECT date_trunc('minute', now()) - i * interval '1 minute', %s, 200000 - i, 100, 1"
            " FROM generate_series(0, 99999) AS i",
            (instrument.id,),
        )
        for level in ("1m", "1h", "1d"):
            conn.execute(
                f"CALL refresh_continuous_aggregate('market.candles_{level}', NULL, now() - interval '2 minutes',"
                """ options => '{"buckets_per_batch": 0}')"""
            )
        conn.execute("ANALYZE")
    wanted = Range(ALWAYS, NEVER, 500, newest=True)
    times = []
    async with await db.connect(database.app, "test", numerics_as_text=True) as reader:
        for _ in range(5):
            now = datetime.now(UTC)
            found = await store.candles(reader, instrument, Interval.M1, UTC, wanted, now)
            times.append(datetime.now(UTC) - now)
            assert len(found) == 500
    assert min(times) < timedelta(milliseconds=40)
