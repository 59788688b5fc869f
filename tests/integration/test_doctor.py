"""The doctor: a healthy database is found so; each damage done by force is found, named, and mended if it can be."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg import sql as compose
from psycopg.types.json import Jsonb

import sql
from app import db
from app.errors import DatabaseRefused, OperatorError
from app.market.intervals import STORED, Interval, bucket_of
from app.market.model import Instrument, Tick
from ingest import doctor
from ingest.copy import TickTable
from ingest.doctor import Finding, Limits, Report
from sql.engine import Engine
from tests.databases import Database
from tests.integration.reckoning import reckon
from tests.integration.ticks import (
    add_instrument,
    connected,
    heard,
    listening,
    run_policies,
    series,
    settle,
    store,
    stored,
    tick,
)

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
COUNT = 240


async def filled(database: Database) -> tuple[Instrument, list[Tick]]:
    """An instrument with a tick every two minutes of eight hours before today, refreshed on every level."""
    instrument = await add_instrument(database)
    start = bucket_of(datetime.now(UTC), Interval.M1) - 33 * HOUR
    ticks = series(instrument, COUNT, start, step=120)
    await store(database, ticks, quiet=True)
    await settle(database)
    run_policies(database)
    return instrument, ticks


async def examined(
    database: Database,
    dsn: str | None = None,
    *,
    start: datetime | None = None,
    repair: bool = False,
    limits: Limits | None = None,
) -> Report:
    """The doctor's report, as the writer where no other role's DSN is given."""
    async with connected(database, dsn) as conn:
        examination = await doctor.examine(conn, start=start or datetime.now(UTC) - 2 * DAY, limits=limits)
        report = await doctor.diagnose(examination)
        return await doctor.mend(examination, report) if repair else report


def wrong(report: Report) -> dict[str, list[Finding]]:
    """What is wrong, by check."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.state == "wrong":
            assert finding.remedy, finding
            found.setdefault(finding.check, []).append(finding)
    return found


def only(report: Report, check: str) -> Finding:
    """The one thing that is wrong."""
    assert [*wrong(report)] == [check], report.findings
    (finding,) = wrong(report)[check]
    return finding


def of(report: Report, check: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.check == check]
    return finding


def candle_table(database: Database, level: str) -> compose.Composable:
    """Where the candles of a level lie, so that they can be damaged."""
    if database.engine is not Engine.TIMESCALEDB:
        return db.table(f"candles_{level}")
    ((schema, name),) = database.execute(
        "SELECT materialization_hypertable_schema, materialization_hypertable_name"
        " FROM timescaledb_information.continuous_aggregates WHERE view_name = %s",
        (f"candles_{level}",),
    )
    return compose.Identifier(schema, name)


def damage(database: Database, level: str, statement: str, values: Any = None) -> None:
    database.execute(compose.SQL(statement).format(candle_table(database, level)), values)


def levels(database: Database, instrument: Instrument) -> dict[str, list[Any]]:
    query = (
        "SELECT bucket, open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,"
        " taker_buy_volume::text, taker_buy_quote_volume::text, first_id, last_id"
        " FROM {} WHERE instrument_id = %s ORDER BY bucket"
    )
    return {
        level: database.execute(compose.SQL(query).format(db.table(f"candles_{level}")), (instrument.id,))
        for level in STORED
    }


def expected(ticks: Sequence[Tick]) -> dict[str, list[Any]]:
    return {level: reckon(ticks, level) for level in STORED}


ELSEWHERE = {
    Engine.TIMESCALEDB: {"rebuild_candles", "drop_old_ticks"},
    Engine.TIMESCALEDB_APACHE: {"policies", "failed_jobs", "watermarks", "unmaterialised"},
    Engine.POSTGRES: {"policies", "failed_jobs", "watermarks", "unmaterialised", "chunks", "chunk_interval"},
}
"""Queries for other engines."""

OTHERS_RIGHTS = {"apply_storage", "enable_trigger", "become_owner", "stop_roll_up"}
"""Run as the owner, or no statement that can be explained; the tests below run them."""


def test_every_query_fits_the_schema(database: Database) -> None:
    queries = sql.load("doctor")
    now, slack = datetime.now(UTC), timedelta(seconds=1)
    values = {
        **dict.fromkeys(("start", "end", "opening", "time", "minutes", "hours", "days"), now),
        **dict.fromkeys(("slack", "grace"), slack),
        **dict.fromkeys(("contiguous", "ticks_kept", "rolls_up", "queue"), True),
        **dict.fromkeys(("instrument_id", "examples"), 1),
        "instrument_ids": [1],
        "names": ["BTCUSDT"],
    }
    with database.connect(database.writer) as conn:
        for name in queries.keys() - ELSEWHERE[database.engine] - OTHERS_RIGHTS:
            parts = {part: compose.SQL(queries[part]) for part in ("anomalies", "differences")}
            whole = compose.SQL(queries[name])
            query = whole.format(**parts) if "{" in queries[name] else whole
            assert conn.execute(compose.SQL("EXPLAIN ") + query, values).fetchall(), name


@pytest.mark.parametrize("role", ["writer", "dsn"])
async def test_healthy_database_is_all_ok(database: Database, role: str) -> None:
    await filled(database)
    await filled_with_quotes(database)
    report = await examined(database, getattr(database, role))
    assert {finding.state for finding in report.findings} == {"ok"}, report.findings
    assert report.state == "ok"
    assert [check.name for check in doctor.CHECKS if database.engine in check.engines] == [
        *dict.fromkeys(finding.check for finding in report.findings)
    ]


async def filled_with_quotes(database: Database) -> None:
    quotes = await add_instrument(database, "EURUSD", feed="quote", contiguous_ids=False)
    now = datetime.now(UTC)
    await store(database, [tick(quotes, 1000 * i, now - 5 * MINUTE + i * MINUTE) for i in range(5)])
    await settle(database)


async def test_empty_database_is_all_ok(database: Database) -> None:
    report = await examined(database)
    assert {finding.state for finding in report.findings} == {"ok"}, report.findings


async def test_healthy_database_stays_ok_while_ticks_come(database: Database) -> None:
    instrument, _ = await filled(database)
    now = datetime.now(UTC)
    done = asyncio.Event()

    async def write() -> None:
        async with connected(database) as conn:
            for i in range(60):
                live = series(instrument, 20, now + i * timedelta(milliseconds=20), 0.001, COUNT + 1 + 20 * i)
                await TickTable(conn).write(live)
        done.set()

    writing = asyncio.create_task(write())
    rounds = 0
    while not done.is_set() or rounds < 2:
        report = await examined(database)
        assert report.state == "ok", wrong(report)
        rounds += 1
    await writing


async def test_lost_tick_is_found_and_its_candle_kept_until_it_is_back(database: Database) -> None:
    instrument, ticks = await filled(database)
    before = levels(database, instrument)
    database.execute("DELETE FROM market.ticks WHERE trade_id BETWEEN 100 AND 101")
    found = wrong(await examined(database))
    assert [*found] == ["ids", "candles"]
    assert found["ids"][0].subject == instrument.symbol
    assert "2 ids missing" in found["ids"][0].detail
    assert "100-101" in found["ids"][0].detail
    assert "2 of 1m" in found["candles"][0].detail
    assert "2 of them know more trades" in found["candles"][0].detail

    report = await examined(database, repair=True)
    assert [(cure.check, cure.done) for cure in report.repairs] == [("ids", True)]
    assert [*wrong(report)] == ["gaps", "candles"]
    assert database.execute("SELECT from_id, to_id, state, from_time, to_time FROM market.gaps") == [
        (100, 101, "open", ticks[98].time, ticks[101].time)
    ]
    assert levels(database, instrument) == before  # all that is left of the lost ticks

    await store(database, ticks[99:101], quiet=True)
    report = await examined(database, repair=True)
    assert report.state == "ok", wrong(report)
    assert levels(database, instrument) == expected(ticks)
    assert database.execute("SELECT state FROM market.gaps") == [("filled",)]


async def test_jump_is_explained_by_gaps_that_are_open_or_unfillable_but_not_filled(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100, bucket_of(datetime.now(UTC), Interval.H1) - 30 * HOUR, step=60)
    await store(database, [t for t in ticks if not 50 <= t.trade_id <= 59], quiet=True)
    await settle(database)
    run_policies(database)
    insert = (
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, closed_at, reason)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
    )
    at = (ticks[48].time, ticks[59].time)
    database.execute(insert, (instrument.id, 50, 54, *at, "unfillable", at[1], "the venue has no history"))
    database.execute(insert, (instrument.id, 55, 57, *at, "open", None, None))
    database.execute(insert, (instrument.id, 58, 59, *at, "filled", at[1], None))
    report = await examined(database)
    assert [*wrong(report)] == ["ids", "gaps"]
    assert "58-59" in wrong(report)["ids"][0].detail
    assert "2 ids missing" in wrong(report)["ids"][0].detail
    assert "55-57" in wrong(report)["gaps"][0].detail
    (told,) = [finding for finding in report.findings if "unfillable" in finding.detail]
    assert (told.state, told.subject) == ("ok", instrument.symbol)
    assert "the venue has no history" in told.detail

    report = await examined(database, repair=True)
    assert [*wrong(report)] == ["gaps"]
    assert database.execute("SELECT from_id, state FROM market.gaps ORDER BY 1") == [
        (50, "unfillable"), (55, "open"), (58, "open")
    ]  # fmt: skip


async def test_jump_over_a_quiet_time_and_the_start_of_the_range_is_found(database: Database) -> None:
    instrument = await add_instrument(database)
    now = datetime.now(UTC)
    ticks = [tick(instrument, 1, now - 5 * DAY), tick(instrument, 5, now - HOUR), tick(instrument, 6, now - HOUR)]
    await store(database, ticks, quiet=True)
    await settle(database)
    run_policies(database)
    assert "2-4" in only(await examined(database), "ids").detail
    assert "2-4" in only(await examined(database, start=now - 30 * DAY), "ids").detail


async def test_ids_at_midnight_in_either_order_are_no_jump(database: Database) -> None:
    instrument = await add_instrument(database)
    midnight = bucket_of(datetime.now(UTC), Interval.D1)
    times = [-50, -0.2, 0.1, -0.1, 0.3, -0.05, 20]  # seconds around midnight, in order of ids
    await store(database, [tick(instrument, i + 1, midnight + timedelta(seconds=s)) for i, s in enumerate(times)])
    await settle(database)
    run_policies(database)
    report = await examined(database)
    assert report.state == "ok", wrong(report)


async def test_ids_out_of_order_and_ids_twice_are_found(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 300, bucket_of(datetime.now(UTC) - DAY, Interval.D1), step=120)
    again = [
        tick(instrument, 150, ticks[149].time + MINUTE / 4, str(ticks[149].price)),
        tick(instrument, 20, ticks[200].time + MINUTE / 4),
    ]
    await store(database, [*ticks, *again], quiet=True)
    await settle(database)
    run_policies(database)
    detail = only(await examined(database), "ids").detail
    assert "stored with two times: 20 at" in detail
    assert "150 at" in detail
    assert "the order of ids is not that of times: 20 → 21" in detail
    assert "missing" not in detail


async def test_id_again_on_another_day_is_out_of_order(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 48, bucket_of(datetime.now(UTC) - 2 * DAY, Interval.D1), step=3600)
    await store(database, [*ticks, tick(instrument, 3, ticks[40].time + MINUTE)], quiet=True)
    await settle(database)
    run_policies(database)
    detail = only(await examined(database), "ids").detail
    assert "the order of ids is not that of times: 3 → " in detail
    assert "missing" not in detail


FALSIFICATIONS = {
    "UPDATE {} SET high = high + 1": "high",
    "UPDATE {} SET open = open + 1, trades = trades + 1, taker_buy_volume = 0": "open, taker_buy_volume, trades",
    "UPDATE {} SET trades = trades - 1, first_id = first_id + 1": "first_id, trades",
    "DELETE FROM {}": "missing",
}
"""What is done to the candles of a level, and what is told of it."""


@pytest.mark.parametrize("level", STORED)
async def test_wrong_candle_is_found_on_each_level_and_mended(database: Database, level: str) -> None:
    instrument, ticks = await filled(database)
    async with listening(database, "corrections") as listener:
        for statement, told in FALSIFICATIONS.items():
            damage(database, level, statement)
            detail = wrong(await examined(database))["candles"][0].detail
            assert f" of {level}" in detail
            assert told in detail
            report = await examined(database, repair=True)
            assert not wrong(report)
            assert [(c.check, c.subject, c.done) for c in report.repairs] == [("candles", instrument.symbol, True)]
            assert levels(database, instrument) == expected(ticks)
            assert await heard(listener) != []


@pytest.mark.engines("timescaledb")
async def test_late_tick_that_nobody_refreshed_is_found_and_mended(database: Database) -> None:
    instrument, ticks = await filled(database)
    late = [tick(instrument, COUNT + 1, ticks[-1].time + timedelta(seconds=1)), tick(instrument, 0, ticks[0].time)]
    await store(database, late)
    assert (await examined(database)).state == "ok"  # it still waits for its refresh
    database.execute("DELETE FROM market.stale_ranges")
    assert " of 1m, " in only(await examined(database), "candles").detail
    report = await examined(database, repair=True)
    assert report.state == "ok", wrong(report)
    assert levels(database, instrument) == expected([*ticks, *late])


async def test_candle_without_ticks_is_told_and_never_deleted(database: Database) -> None:
    instrument, ticks = await filled(database)
    row = database.execute(compose.SQL("SELECT * FROM {} LIMIT 0").format(db.table("candles_1m")))
    assert row == []
    bucket = ticks[0].time - MINUTE
    damage(
        database,
        "1m",
        "INSERT INTO {} (instrument_id, bucket, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,"
        " taker_buy_quote_volume, first_id, last_id) VALUES (%s, %s, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)",
        (instrument.id, bucket),
    )
    for repair in (False, True):
        report = await examined(database, repair=repair)
        detail = wrong(report)["candles"][0].detail
        assert "has no ticks" in detail
    assert database.execute("SELECT trades FROM market.candles_1m WHERE bucket = %s", (bucket,)) == [(1,)]


@pytest.mark.engines("timescaledb")
async def test_repair_refreshes_nothing_where_another_instrument_lost_its_ticks(database: Database) -> None:
    instrument, ticks = await filled(database)
    other = await add_instrument(database, "ETHUSDT", contiguous_ids=False)
    others = [tick(other, 1, ticks[100].time), tick(other, 2, ticks[200].time)]
    await store(database, others, quiet=True)
    await settle(database)
    kept = levels(database, other)
    database.execute("DELETE FROM market.ticks WHERE instrument_id = %s AND trade_id = 1", (other.id,))
    damage(database, "1m", "UPDATE {} SET high = high + 1 WHERE first_id IN (101, 120) AND trades = 1")
    report = await examined(database, repair=True)
    assert [cure.done for cure in report.repairs if cure.check == "candles"] == [True, False]
    assert levels(database, other) == kept
    highs = database.execute(
        "SELECT first_id, high FROM market.candles_1m WHERE instrument_id = %s AND first_id IN (101, 120) ORDER BY 1",
        (instrument.id,),
    )
    assert highs == [(101, ticks[100].price + 1), (120, ticks[119].price)]


@pytest.mark.engines("timescaledb-apache", "postgres")
async def test_candles_are_mended_exactly_while_ticks_come(database: Database) -> None:
    instrument, ticks = await filled(database)
    start = bucket_of(datetime.now(UTC), Interval.M1) - 30 * timedelta(seconds=1)
    live = series(instrument, 2_000, start, 0.005, COUNT + 1)
    done = asyncio.Event()

    async def write() -> None:
        async with connected(database) as conn:
            table = TickTable(conn)
            for i in range(0, len(live), 20):
                await table.write(live[i : i + 20])
        done.set()

    writing = asyncio.create_task(write())
    while not done.is_set():
        for level in STORED:
            damage(
                database,
                level,
                "UPDATE {} SET high = high + 1, volume = volume + 1 WHERE bucket = date_trunc(%s, bucket)",
                ("hour",),
            )
        await examined(database, repair=True)
    await writing
    report = await examined(database, repair=True)
    assert report.state == "ok", wrong(report)
    assert levels(database, instrument) == expected([*ticks, *live])


async def test_repair_waits_for_ticks_that_are_not_yet_committed(database: Database) -> None:
    instrument, ticks = await filled(database)
    late = tick(instrument, 0, ticks[0].time - timedelta(seconds=1))
    damage(database, "1d", "UPDATE {} SET high = high + 1")
    async with connected(database) as conn:
        async with conn.transaction():
            await TickTable(conn).write([late], quiet=True)
            mending = asyncio.create_task(examined(database, repair=True))
            if database.engine is not Engine.TIMESCALEDB:
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
                async with asyncio.timeout(20):
                    while database.execute(waiting, (database.name,)) == [(0,)]:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        await mending
    await settle(database)
    assert levels(database, instrument) == expected([*ticks, late])


@pytest.mark.parametrize("trigger", ["announce", "roll_up"])
async def test_disabled_trigger_is_found_and_enabled_by_the_operator(database: Database, trigger: str) -> None:
    if trigger == "roll_up" and database.engine is Engine.TIMESCALEDB:
        trigger = "announce"
    instrument, ticks = await filled(database)
    database.execute(f"ALTER TABLE market.ticks DISABLE TRIGGER {trigger}")
    unseen = series(instrument, 5, ticks[-1].time + timedelta(seconds=1), 1, COUNT + 1)
    await store(database, unseen)
    found = wrong(await examined(database))
    assert found["triggers"][0].subject == f"ticks.{trigger}"
    report = await examined(database, repair=True)
    (refused,) = [cure for cure in report.repairs if cure.check == "triggers"]
    assert not refused.done
    assert "tickwick_owner" in refused.detail
    report = await examined(database, database.dsn, repair=True)
    assert report.state == "ok", wrong(report)
    assert [(c.subject, c.done) for c in report.repairs if c.check == "triggers"] == [(f"ticks.{trigger}", True)]
    assert levels(database, instrument) == expected([*ticks, *unseen])


async def test_trigger_that_is_gone_is_named(any_database: Database) -> None:
    any_database.execute("DROP TRIGGER announce ON market.gaps")
    finding = only(await examined(any_database), "triggers")
    assert (finding.subject, finding.detail) == ("gaps.announce", "is not there")


@pytest.mark.engines("timescaledb")
@pytest.mark.parametrize(
    ("statement", "subject", "told"),
    [
        (
            "SELECT remove_continuous_aggregate_policy('market.candles_1h')",
            "refresh_continuous_aggregate of candles_1h",
            "is not there",
        ),
        ("CALL remove_columnstore_policy('market.ticks')", "compression of ticks", "is not there"),
        (
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs"
            " WHERE hypertable_name = 'candles_1d'",
            "refresh_continuous_aggregate of candles_1d",
            "is disabled",
        ),
        (
            'SELECT alter_job(job_id, config => config || \'{"end_offset": "00:05:00"}\')'
            " FROM timescaledb_information.jobs WHERE hypertable_name = 'candles_1m'",
            "refresh_continuous_aggregate of candles_1m",
            "end_offset is 0:05:00 instead of 0:02:00",
        ),
        (
            "SELECT alter_job(job_id, schedule_interval => '1 day')"
            " FROM timescaledb_information.jobs WHERE hypertable_name = 'candles_1m'",
            "refresh_continuous_aggregate of candles_1m",
            "schedule is 1 day",
        ),
        ("UPDATE ops.storage SET compress_after = '9 days'", "compression of ticks", "compress_after is 7 days"),
        ("SELECT set_chunk_time_interval('market.ticks', interval '3 days')", "ticks", "chunks to come are 3 days"),
    ],
)
async def test_policy_that_is_not_as_storage_says_is_found_and_set_by_the_operator(
    database: Database, statement: str, subject: str, told: str
) -> None:
    database.execute(statement)
    finding = only(await examined(database), "policies")
    assert finding.subject == subject
    assert told in finding.detail
    report = await examined(database, repair=True)
    assert [(cure.check, cure.done) for cure in report.repairs] == [("policies", False)]
    assert "tickwick_owner" in report.repairs[0].detail
    report = await examined(database, database.dsn, repair=True)
    assert report.state == "ok", wrong(report)
    assert [(cure.check, cure.done) for cure in report.repairs] == [("policies", True)]


@pytest.mark.engines("timescaledb")
async def test_retention_that_would_let_a_refresh_delete_candles_is_found(database: Database) -> None:
    database.execute("SELECT add_retention_policy('market.ticks', drop_after => interval '5 days')")
    findings = wrong(await examined(database))["policies"]
    assert {(f.subject, f.detail.split(",")[0]) for f in findings} == {
        ("retention of ticks", "is there"),
        ("candles_1m", "its refresh reaches back to where ticks are dropped"),
    }
    report = await examined(database, database.owner, repair=True)
    assert not wrong(report).get("policies")


@pytest.mark.engines("timescaledb")
@pytest.mark.parametrize(
    ("message", "state"), [('cannot drop portal ""', "ok"), ("out of memory", "wrong"), (None, "unknown")]
)
async def test_job_that_failed_is_found_unless_its_error_is_harmless(
    database: Database, message: str | None, state: str
) -> None:
    ((job,),) = database.execute("SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name = 'candles_1m'")
    database.execute(
        "INSERT INTO _timescaledb_internal.bgw_job_stat SELECT %s, now(), now(), now(), now(), false, 1, '1s', '1s', 0,"
        " 1, 0, 1, 0, 0",
        (job,),
    )
    if message:
        database.execute(
            "INSERT INTO _timescaledb_internal.bgw_job_stat_history"
            " (job_id, pid, execution_start, execution_finish, succeeded, data)"
            " VALUES (%s, 1, now(), now(), false, %s)",
            (job, Jsonb({"error_data": {"message": message, "sqlerrcode": "24000"}})),
        )
    report = await examined(database, database.dsn)
    finding = of(report, "jobs")
    assert finding.state == state
    assert finding.subject == "refresh_continuous_aggregate of candles_1m"
    assert (message or "may not see") in finding.detail


@pytest.mark.engines("timescaledb")
async def test_policies_that_do_not_run_are_found(database: Database) -> None:
    instrument = await add_instrument(database)
    await store(database, series(instrument, 100, datetime.now(UTC) - HOUR, step=10))
    database.execute("DELETE FROM market.stale_ranges")
    assert only(await examined(database), "materialised").subject == "candles_1m"
    run_policies(database)
    assert (await examined(database)).state == "ok"


@pytest.mark.engines("timescaledb", "timescaledb-apache")
async def test_chunk_in_the_far_future_is_found(database: Database) -> None:
    instrument, _ = await filled(database)
    await store(database, [tick(instrument, COUNT + 1, datetime(2101, 5, 6, tzinfo=UTC))])
    finding = only(await examined(database), "chunks")
    assert "of 2101-05-06" in finding.detail


@pytest.mark.engines("timescaledb")
async def test_chunks_that_should_be_compressed_are_found(database: Database) -> None:
    instrument = await add_instrument(database)
    await store(database, series(instrument, 40, datetime.now(UTC) - 40 * DAY, step=86400), quiet=True)
    await settle(database)
    run_policies(database)
    assert "older than ops.storage.compress_after not compressed" in only(await examined(database), "chunks").detail
    database.execute("SELECT compress_chunk(c) FROM show_chunks('market.ticks', older_than => interval '7 days') AS c")
    report = await examined(database, start=datetime.now(UTC) - 50 * DAY)
    assert report.state == "ok", wrong(report)


@pytest.mark.engines("postgres")
async def test_partitions_in_the_far_future_or_not_attached_are_found(database: Database) -> None:
    instrument, _ = await filled(database)
    database.execute("SELECT market.make_room('{2024-01-01}')")
    assert (await examined(database)).state == "ok"
    await store(database, [tick(instrument, COUNT + 1, datetime(2101, 5, 6, tzinfo=UTC))])
    database.execute("ALTER TABLE market.ticks DETACH PARTITION market.ticks_20240101")
    findings = wrong(await examined(database))["partitions"]
    assert ["ticks_20240101" in findings[0].detail, "ticks_21010506" in findings[1].detail] == [True, True]


async def test_retention_that_is_behind_is_found_and_no_candle_is_lost_to_it(database: Database) -> None:
    instrument = await add_instrument(database)
    now = datetime.now(UTC)
    ticks = series(instrument, 240, now - 12 * DAY, step=4320)
    await store(database, ticks, quiet=True)
    await settle(database)
    run_policies(database)
    database.execute("UPDATE ops.storage SET compress_after = '60 hours', drop_ticks_after = '5 days'")
    database.execute("DELETE FROM market.stale_ranges")
    start = now - 14 * DAY
    finding = next(iter(wrong(await examined(database, start=start))["retention"]))
    assert "older than ops.storage.drop_ticks_after" in finding.detail
    database.execute("SELECT market.apply_storage()") if database.engine is Engine.TIMESCALEDB else None
    if database.engine is Engine.TIMESCALEDB:
        database.execute("SELECT drop_chunks('market.ticks', older_than => interval '5 days')")
        database.execute(
            "SELECT compress_chunk(c) FROM show_chunks('market.ticks', older_than => interval '60 hours') AS c"
        )
    report = await examined(database, start=start, repair=True)
    assert report.state == "ok", wrong(report)
    assert "without ticks" in of(report, "candles").detail
    assert levels(database, instrument) == expected(ticks)
    # What is left is still held against each other.
    damage(database, "1h", "DELETE FROM {} WHERE bucket < now() - interval '8 days'")
    assert " of 1h" in only(await examined(database, start=start), "candles").detail
    report = await examined(database, start=start, repair=True)
    if database.engine is Engine.TIMESCALEDB:
        assert not report.repairs[0].done
        assert levels(database, instrument)["1m"] == expected(ticks)["1m"]
    else:
        assert report.state == "ok", wrong(report)
        assert levels(database, instrument) == expected(ticks)


async def test_repair_after_retention_was_lengthened_deletes_no_candle(database: Database) -> None:
    instrument = await add_instrument(database)
    now = datetime.now(UTC)
    ticks = series(instrument, 100, now - 10 * DAY, step=8640)
    await store(database, ticks, quiet=True)
    await settle(database)
    run_policies(database)
    database.execute("UPDATE ops.storage SET compress_after = NULL")
    database.execute("SELECT market.apply_storage()")
    database.execute("DELETE FROM market.ticks WHERE time < now() - interval '5 days'")  # as a policy once did
    damage(database, "1d", "UPDATE {} SET high = high + 1 WHERE bucket < now() - interval '2 days'")
    await examined(database, start=now - 12 * DAY, repair=True)
    assert levels(database, instrument)["1m"] == expected(ticks)["1m"]
    assert levels(database, instrument)["1h"] == expected(ticks)["1h"]


async def test_stale_range_that_waits_is_found_and_settled(database: Database) -> None:
    instrument, ticks = await filled(database)
    late = tick(instrument, 0, ticks[0].time)
    await store(database, [late])
    assert of(await examined(database), "stale ranges").state == "ok"
    database.execute("UPDATE market.stale_ranges SET marked_at = now() - interval '1 hour'")
    assert "since 1 hour" in only(await examined(database), "stale ranges").detail
    report = await examined(database, repair=True)
    assert report.state == "ok"
    assert [(cure.check, cure.done) for cure in report.repairs] == [("stale ranges", True)]
    assert levels(database, instrument) == expected([*ticks, late])


async def test_gap_whose_ids_arrived_is_closed(database: Database) -> None:
    instrument, ticks = await filled(database)
    database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time) VALUES (%s, 10, 12, %s, %s)",
        (instrument.id, ticks[8].time, ticks[12].time),
    )
    assert "1 open gap of 3 ids, 10-12" in only(await examined(database), "gaps").detail
    report = await examined(database, repair=True)
    assert report.state == "ok"
    assert report.repairs[0].detail.startswith("1 gap closed")


async def test_old_transaction_is_named_to_who_may_see_it(any_database: Database) -> None:
    limits = Limits(idle_transaction=0)
    with any_database.connect() as conn:
        conn.execute("SET application_name = 'a forgotten psql'")
        conn.execute("BEGIN")
        conn.execute("SELECT 1")
        finding = only(await examined(any_database, any_database.dsn, limits=limits), "transactions")
        assert f"pid {conn.info.backend_pid} (a forgotten psql, idle in transaction" in finding.detail
        unknown = of(await examined(any_database, limits=limits), "transactions")
        assert (unknown.state, "pg_monitor" in unknown.detail) == ("unknown", True)


async def test_replication_slot_that_nobody_uses_is_found(any_database: Database) -> None:
    any_database.execute("SELECT pg_create_physical_replication_slot('tickwick_forgotten', true)")
    try:
        assert only(await examined(any_database), "replication").subject == "slot tickwick_forgotten"
    finally:
        any_database.execute("SELECT pg_drop_replication_slot('tickwick_forgotten')")


async def test_migration_that_is_missing_or_changed_is_named(any_database: Database) -> None:
    any_database.execute("UPDATE ops.migrations SET checksum = 'other' WHERE number = 3")
    assert "0003_create_instruments" in only(await examined(any_database), "migrations").detail
    any_database.execute("DELETE FROM ops.migrations WHERE number = 3")
    finding = only(await examined(any_database), "migrations")
    assert (finding.detail, finding.remedy) == ("not applied: 0003_create_instruments", "tickwick migrate")


async def test_table_that_is_gone_is_told_and_the_other_checks_go_on(any_database: Database) -> None:
    any_database.execute("DROP TABLE market.gaps")
    report = await examined(any_database)
    assert "market.gaps" in wrong(report)["gaps"][0].detail
    assert of(report, "replication").state == "ok"


async def test_examination_of_what_is_not_there_is_refused(any_database: Database) -> None:
    for source in ("SIM", "OTHER"):
        await add_instrument(any_database, source=source)
    now = datetime.now(UTC)
    async with connected(any_database) as conn:
        with pytest.raises(OperatorError, match="may be any of OTHER:BTCUSDT, SIM:BTCUSDT"):
            await doctor.examine(conn, ["btcusdt"])
        with pytest.raises(OperatorError, match="NONSENSE"):
            await doctor.examine(conn, ["SIM:BTCUSDT", "NONSENSE"])
        with pytest.raises(OperatorError, match="--to"):
            await doctor.examine(conn, start=now, end=now)
        found = await doctor.examine(conn, ["sim:btcusdt"])
        assert [subject.symbol for subject in found.subjects] == ["SIM:BTCUSDT"]
    async with connected(any_database, any_database.reader) as conn:
        with pytest.raises(DatabaseRefused), db.translated():
            await doctor.examine(conn)


async def test_largest_id_that_can_be_stored_is_no_obstacle(database: Database) -> None:
    instrument = await add_instrument(database)
    start = bucket_of(datetime.now(UTC) - DAY, Interval.D1)
    ids = [0, 2**63 - 1]
    await store(database, [tick(instrument, i, start + i % 2 * timedelta(seconds=1)) for i in ids], quiet=True)
    await settle(database)
    run_policies(database)
    detail = only(await examined(database), "ids").detail
    assert f"{2**63 - 2:,} ids missing" in detail
    assert [*wrong(await examined(database, repair=True))] == ["gaps"]


async def test_many_faults_are_counted_and_few_are_named(database: Database) -> None:
    instrument = await add_instrument(database)
    start = bucket_of(datetime.now(UTC), Interval.H1) - 20 * HOUR
    ticks = series(instrument, 2000, start, step=30)
    await store(database, ticks[::2], quiet=True)
    await settle(database)
    run_policies(database)
    damage(database, "1m", "UPDATE {} SET volume = volume + 1")
    found = wrong(await examined(database))
    assert "999 ids missing" in found["ids"][0].detail
    assert "and 996 more" in found["ids"][0].detail
    assert all(len(f.detail) < 1_000 for findings in found.values() for f in findings)
    report = await examined(database, repair=True)
    assert [*wrong(report)] == ["gaps"]
    assert database.execute("SELECT count(*) FROM market.gaps WHERE state = 'open'") == [(999,)]
    assert levels(database, instrument) == expected(ticks[::2])
    assert stored(database, instrument)[0].price == Decimal(ticks[0].price)
