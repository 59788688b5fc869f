"""Known gaps: which candles they make incomplete, in REST and in the stream's memory, and from when they reach."""

import json
from datetime import UTC, datetime, timedelta

import pytest

import sql as queries
from app import db
from app.market import store as market
from app.market.candles import CandleSeries
from app.market.intervals import Interval
from app.market.model import Candle, Instrument, to_micros
from app.market.store import ALWAYS, NEVER, Range
from ingest.copy import TickTable
from ingest.instruments import last_stored
from ingest.refresher import Refresher
from ingest.sequence import Sequence
from tests.databases import Database
from tests.integration.test_plans import touched
from tests.integration.ticks import NOON, add_instrument, connected, heard, listening, series, settle, store, tick

MINUTE = timedelta(minutes=1)


async def read(database: Database, instrument: Instrument, interval: Interval = Interval.M1) -> list[Candle]:
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        wanted = Range(ALWAYS, NEVER, 100, newest=True)
        return await market.candles(conn, instrument, interval, UTC, wanted, datetime.now(UTC))


@pytest.mark.parametrize(("state", "complete"), [("open", False), ("unfillable", False), ("filled", True)])
@pytest.mark.parametrize("interval", [Interval.S1, Interval.M1, Interval.M5, Interval.D1])
async def test_candles_that_a_gap_touches_at_their_edges_are_complete_only_once_it_is_filled(
    database: Database, interval: Interval, state: str, complete: bool
) -> None:
    instrument = await add_instrument(database)
    length = timedelta(seconds={"1s": 1, "1m": 60, "5m": 300, "1d": 86400}[interval])
    start = datetime(2024, 3, 14, tzinfo=UTC)
    ticks = [tick(instrument, n, start + number * length) for n, number in [(1, 0), (2, 1), (8, 3), (9, 4)]]
    await store(database, ticks, quiet=True)
    await settle(database)
    closing = (None if state == "open" else NOON, "there are none" if state == "unfillable" else None)
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, closed_at, reason)"
        " VALUES (%s, 3, 7, %s, %s, %s, %s, %s)",
        (instrument.id, ticks[1].time, ticks[2].time, state, *closing),
    )
    candles = await read(database, instrument, interval)
    assert [candle.complete for candle in candles] == [True, complete, complete, True]


async def test_series_in_memory_doubts_the_same_candles_as_the_database(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = [tick(instrument, n, NOON + n * MINUTE / 4) for n in [0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 14, 15, 16, 17]]
    holes, _ = Sequence({instrument.id: None}).observe(ticks)
    async with connected(database) as conn:
        await TickTable(conn).write(ticks, holes=holes)
    memory = CandleSeries(Interval.M1, UTC, contiguous_ids=True)
    closed = [candle for one in ticks if (candle := memory.add(one))]
    told = [*closed, memory.close()]
    assert [candle.complete for candle in told] == [True, False, False, False, True]
    await settle(database)
    assert told == await read(database, instrument)


async def test_gap_that_is_filled_is_told_to_the_listeners_as_far_as_it_reaches(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 10, step=60)
    known = [*ticks[:3], *ticks[6:]]
    holes, _ = Sequence({instrument.id: None}).observe(known)
    async with connected(database) as conn, listening(database, "gaps") as listener:
        await TickTable(conn).write(known, holes=holes)
        refresher = Refresher(conn, database.engine)
        await TickTable(conn).write(ticks, quiet=True)
        await refresher.fill_gaps()
        (told,) = await heard(listener)
        assert json.loads(told) == [[instrument.id, 4, 6, ticks[2].time_us, ticks[6].time_us, "filled"]]
        await refresher.settle()
    assert all(candle.complete for candle in await read(database, instrument))


async def test_last_stored_tells_the_time_of_the_last_tick_itself(database: Database) -> None:
    one, other, empty = [await add_instrument(database, ticker) for ticker in ("AUSDT", "BUSDT", "CUSDT")]
    last = NOON + timedelta(seconds=42, microseconds=123_456)
    await store(database, [tick(one, 1), tick(one, 2, last), tick(other, 5, NOON - timedelta(days=3))], quiet=True)
    await settle(database)
    async with connected(database) as conn:
        assert await last_stored(conn, [one.id, other.id, empty.id]) == {
            one.id: (2, to_micros(last)),
            other.id: (5, to_micros(NOON - timedelta(days=3))),
            empty.id: None,
        }


async def test_filling_gaps_looks_at_open_ones_alone_and_at_no_more_ticks_than_lie_about_them(
    database: Database,
) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 3000, step=60)
    await store(database, ticks, quiet=True)
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, closed_at)"
        " SELECT %s, n, n, %s, %s, 'filled', now() FROM generate_series(1, 5000) AS n",
        (instrument.id, NOON, NOON),
    )
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time)"
        " VALUES (%s, 100, 102, %s, %s), (%s, 2999, 3001, %s, %s)",
        (instrument.id, ticks[98].time, ticks[102].time, instrument.id, ticks[2997].time, ticks[2999].time),
    )
    database.execute("VACUUM ANALYZE market.gaps, market.ticks")
    fill_gaps = queries.load("gaps")["fill_gaps"]
    with database.connect() as conn:
        ((explained,),) = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {fill_gaps}").fetchall()
    rows, _ = touched(explained[0]["Plan"])
    assert rows <= 100
    open_left = "SELECT from_id FROM market.gaps WHERE state = 'open'"
    assert database.execute(open_left) == [(2999,)]
