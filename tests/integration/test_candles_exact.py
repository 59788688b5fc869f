"""Candles are exact: in any order of arrival, on every engine, in SQL, in REST's reads and in the stream's memory."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from app import db
from app.market import store as market
from app.market.candles import CandleSeries
from app.market.intervals import Interval
from app.market.model import Candle, Instrument, Tick, to_micros
from app.market.store import ALWAYS, NEVER, Range
from ingest.copy import TickTable
from ingest.refresher import Refresher
from tests.databases import Database
from tests.integration.reckoning import INTERVALS, Row, reckon
from tests.integration.ticks import (
    add_instrument,
    connected,
    heard,
    listening,
    run_policies,
    series,
    settle,
    store,
    tick,
)

ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Asia/Kathmandu"]
QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def levels(database: Database, instrument: Instrument) -> dict[str, list[Any]]:
    """The stored levels as SQL gives them."""
    query = (
        "SELECT bucket, open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,"
        " taker_buy_volume::text, taker_buy_quote_volume::text, first_id, last_id"
        " FROM {} WHERE instrument_id = %s ORDER BY bucket"
    )
    found = {}
    for level in ("1m", "1h", "1d"):
        found[level] = database.execute(sql.SQL(query).format(db.table(f"candles_{level}")), (instrument.id,))
    return found


def expected(ticks: Sequence[Tick]) -> dict[str, list[Row]]:
    return {level: reckon(ticks, level) for level in ("1m", "1h", "1d")}


def row(candle: Candle) -> tuple[Any, ...]:
    return tuple(getattr(candle, name) for name in Candle.__struct_fields__[:12])


async def read(
    database: Database, instrument: Instrument, interval: str, zone: str = "UTC", limit: int = 5_000, *, newest: bool
) -> list[tuple[Any, ...]]:
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        found = await market.candles(
            conn,
            instrument,
            Interval(interval),
            UTC if zone == "UTC" else ZoneInfo(zone),
            Range(ALWAYS, NEVER, limit, newest=newest),
            datetime.now(UTC),
        )
    return [row(candle) for candle in found]


# Places in time where buckets begin and end, seen from now: in the live window, at the edges of levels, long ago.
ages = st.sampled_from(
    [
        timedelta(),
        30 * timedelta(seconds=1),
        2 * MINUTE,
        61 * MINUTE,
        3 * HOUR,
        25 * HOUR,
        50 * HOUR,
        33 * DAY,
        400 * DAY,
    ]
)
nudges = st.sampled_from([-1, 0, 1, 999_999, 30_000_000, 59_999_999])
made = st.builds(
    lambda age, floor, nudge, price, size, maker: (
        age,
        floor,
        nudge,
        Decimal(price) / 100,
        Decimal(size) / 1000,
        maker,
    ),
    ages,
    st.sampled_from([1, 60, 3600, 86400]),
    nudges,
    st.integers(1, 500),
    st.integers(0, 50),
    st.sampled_from([True, False, None]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Any], list[tuple[list[int], bool, str]]]:
    """Ticks, and batches of their numbers with duplicates; whether a batch is quiet, and what happens after it."""
    ticks = draw(st.lists(made, min_size=1, max_size=25))
    numbers = draw(st.permutations(range(len(ticks))))
    again = draw(st.lists(st.integers(0, len(ticks) - 1), max_size=8))
    order = [*numbers, *again]
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
    batches = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    after = st.sampled_from(["nothing", "settle", "policies"])
    return ticks, [(batch, draw(st.booleans()), draw(after)) for batch in batches]


@QUICK
@given(arrivals(), st.sampled_from(ZONES))
async def test_candles_equal_a_reckoning_whatever_the_order_of_arrival(
    database: Database, given_ticks: tuple[list[Any], list[tuple[list[int], bool, str]]], zone: str
) -> None:
    specifications, batches = given_ticks
    instrument = await add_instrument(database, f"T{datetime.now().timestamp()}".replace(".", ""))  # noqa: DTZ005
    now = to_micros(datetime.now(UTC))
    ticks = []
    for number, (age, floor, nudge, price, size, maker) in enumerate(specifications):
        time_us = (now - age // timedelta(microseconds=1)) // (floor * 1_000_000) * floor * 1_000_000 + nudge
        ticks.append(
            Tick(
                instrument.id,
                number + 1,
                time_us,
                price.quantize(Decimal("0.01")),
                size.quantize(Decimal("0.001")),
                maker,
            )
        )
    async with connected(database) as conn:
        table, refresher = TickTable(conn), Refresher(conn, database.engine)
        arrived: list[Tick] = []
        for batch, quiet, after in batches:
            arrived += [ticks[i] for i in batch]
            await table.write([ticks[i] for i in batch], quiet=quiet)
            if after == "policies":
                run_policies(database)
            if after == "settle":
                await refresher.settle()
                assert levels(database, instrument) == expected(arrived)
        await refresher.settle()
    assert levels(database, instrument) == expected(ticks)
    run_policies(database)
    assert levels(database, instrument) == expected(ticks)
    for interval in INTERVALS:
        where = zone if interval in ("1d", "3d", "1w", "1M") else "UTC"
        wanted = reckon(ticks, interval, ZoneInfo(where))
        assert await read(database, instrument, interval, where, newest=True) == wanted
        assert await read(database, instrument, interval, where, 2, newest=True) == wanted[-2:]
        assert await read(database, instrument, interval, where, 2, newest=False) == wanted[:2]


@pytest.mark.parametrize(
    "start",
    [datetime(2024, 3, 30, tzinfo=UTC), datetime(2024, 11, 2, tzinfo=UTC), datetime(2023, 12, 29, tzinfo=UTC)],
    ids=["spring", "autumn", "new year"],
)
@pytest.mark.parametrize("zone", ZONES)
async def test_candles_of_days_and_above_follow_the_calendar_of_a_zone(
    any_database: Database, zone: str, start: datetime
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 1200, start, step=1801)
    await store(any_database, ticks, quiet=True)
    for interval in ("1d", "3d", "1w", "1M"):
        wanted = reckon(ticks, interval, ZoneInfo(zone))
        assert await read(any_database, instrument, interval, zone, newest=True) == wanted
        assert await read(any_database, instrument, interval, zone, 3, newest=False) == wanted[:3]


@pytest.mark.parametrize("interval", INTERVALS)
async def test_series_in_memory_equals_the_database_and_the_reckoning_to_the_digit(
    any_database: Database, interval: str
) -> None:
    instrument = await add_instrument(any_database)
    ticks = series(instrument, 400, step=2000.5 if interval in ("1d", "3d", "1w", "1M") else 40.25)
    await store(any_database, ticks)
    memory = CandleSeries(Interval(interval), UTC, contiguous_ids=True)
    closed = [candle for tick in ticks if (candle := memory.add(tick))]
    told = [row(candle) for candle in [*closed, memory.close()]]
    assert told == reckon(ticks, interval) == await read(any_database, instrument, interval, newest=True)


async def test_candles_of_ticks_that_are_not_late_are_right_before_any_refresh(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 50, datetime.now(UTC) - timedelta(seconds=40), step=0.5)
    await store(database, ticks)
    assert levels(database, instrument) == expected(ticks)


async def test_late_tick_leaves_no_hole_in_hours_and_days_that_no_policy_has_reached(database: Database) -> None:
    """Settling moves a level's watermark up; what lies between the old one and the late tick must not vanish."""
    instrument = await add_instrument(database)
    now = datetime.now(UTC)
    ticks = series(instrument, 200, now - 5 * DAY, step=5 * 86400 / 200)
    await store(database, ticks)
    database.execute("TRUNCATE market.stale_ranges")  # as if they had come in time, and no policy had run since
    assert levels(database, instrument) == expected(ticks)
    late = tick(instrument, 1000, now - 2 * DAY)
    await store(database, [late])
    await settle(database)
    assert levels(database, instrument) == expected([*ticks, late])


@pytest.mark.engines("timescaledb")
async def test_late_tick_in_the_live_window_of_a_materialised_bucket_shows_after_settling(database: Database) -> None:
    instrument = await add_instrument(database)
    start = datetime.now(UTC).replace(second=0, microsecond=0) - 2 * MINUTE
    ticks = series(instrument, 10, start, step=1)
    await store(database, ticks)
    # A refresh beyond the live window, such as an operator may start by hand.
    with database.connect(database.writer) as conn:
        conn.execute("CALL refresh_continuous_aggregate('market.candles_1m', NULL, NULL)")
        conn.execute("CALL refresh_continuous_aggregate('market.candles_1h', NULL, NULL)")
    late = series(instrument, 3, start + timedelta(seconds=20), first_id=50)
    await store(database, late, quiet=True)
    await settle(database)
    assert levels(database, instrument) == expected(ticks + late)


@pytest.mark.engines("timescaledb")
async def test_late_tick_on_the_start_of_a_bucket_shows_after_settling(database: Database) -> None:
    """Refreshes in batches, the default since TimescaleDB 2.28.0, miss it before 2.29.0."""
    instrument = await add_instrument(database)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 2 * DAY
    ticks = series(instrument, 300, start + timedelta(seconds=1), step=300)
    await store(database, ticks)
    await settle(database)
    run_policies(database)
    late = [tick(instrument, 1000 + i, start + i * HOUR, price="1") for i in range(24)]
    for one in late:
        await store(database, [one])
        await settle(database)
    assert levels(database, instrument) == expected(ticks + late)


@pytest.mark.engines("timescaledb")
async def test_late_ticks_into_compressed_chunks_are_counted_once(database: Database) -> None:
    instrument = await add_instrument(database)
    start = datetime.now(UTC) - 12 * DAY
    ticks = series(instrument, 500, start, step=500)
    await store(database, ticks[::2], quiet=True)
    await settle(database)
    compressed = database.execute("SELECT compress_chunk(c) FROM show_chunks('market.ticks') AS c")
    assert len(compressed) >= 3
    await store(database, ticks, quiet=True)
    await store(database, ticks[100:300])
    await settle(database)
    assert levels(database, instrument) == expected(ticks)
    assert database.execute("SELECT count(*) FROM market.ticks") == [(len(ticks),)]


@pytest.mark.engines("timescaledb")
async def test_ticks_committed_while_their_range_is_refreshed_show_after_settling(database: Database) -> None:
    instrument = await add_instrument(database)
    start = datetime.now(UTC) - 3 * HOUR
    ticks, held = (
        series(instrument, 20, start, step=120),
        series(instrument, 20, start + MINUTE, step=120, first_id=100),
    )
    await store(database, ticks)
    async with connected(database) as conn:
        async with conn.transaction():
            await TickTable(conn).write(held)
            with database.connect() as other:
                other.execute("SET statement_timeout = '2s'")
                for level in ("1m", "1h"):
                    other.execute(
                        f"CALL refresh_continuous_aggregate('market.candles_{level}', NULL, now() - interval '1 h')"
                    )
        await Refresher(conn, database.engine).settle()
    assert levels(database, instrument) == expected(ticks + held)


async def test_retention_drops_ticks_and_no_candle(database: Database) -> None:
    instrument = await add_instrument(database)
    now = datetime.now(UTC)
    ticks = series(instrument, 300, now - 30 * DAY, step=30 * 86400 / 300)
    await store(database, ticks, quiet=True)
    await settle(database)
    run_policies(database)
    database.execute("UPDATE ops.storage SET compress_after = '3 days', drop_ticks_after = '10 days'")
    database.execute("SELECT market.apply_storage()")
    if database.engine == "timescaledb":
        ((job,),) = database.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        )
        database.execute("CALL run_job(%s)", (job,))
    else:
        async with connected(database) as conn:
            await Refresher(conn, database.engine).drop_old_ticks()
    ((oldest, left),) = database.execute("SELECT min(time), count(*) FROM market.ticks")
    assert now - 12 * DAY < oldest < now - 9 * DAY
    assert left < len(ticks)
    # Neither the policies nor late ticks at the edge, in hours and days whose ticks are gone in part, cost a candle.
    late = [tick(instrument, 1000 + i, now - 9 * DAY + i * HOUR, price="1") for i in range(1, 5)]
    await store(database, [*late, ticks[0], ticks[50]])
    await settle(database)
    run_policies(database)
    assert levels(database, instrument) == expected(ticks + late)
    for interval in ("1m", "4h", "1d", "1w"):
        assert await read(database, instrument, interval, newest=True) == reckon(ticks + late, interval)


async def test_import_over_what_came_live_changes_nothing(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 500, datetime.now(UTC) - 2 * HOUR, step=14)
    await store(database, ticks[:400])
    await settle(database)
    await store(database, ticks, quiet=True)
    await store(database, ticks, quiet=True)
    assert await settle(database) > 0
    assert await settle(database) == 0
    assert levels(database, instrument) == expected(ticks)


async def test_settle_tells_each_range_to_the_listeners_once_it_is_settled(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 3, datetime.now(UTC) - 2 * DAY, step=1)
    async with listening(database, "corrections") as conn:
        await store(database, ticks)
        assert await heard(conn) == []
        assert await settle(database) == 1
        assert await heard(conn) == [f"[[{instrument.id},{ticks[0].time_us},{ticks[-1].time_us}]]"]
