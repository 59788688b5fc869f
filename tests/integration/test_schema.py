"""One schema on three engines: columns, rights, and queries that fit it."""

import re
from typing import Any

import psycopg
import pytest
from psycopg import sql as compose

import sql
from tests.databases import Database

TICK = {
    "time": "timestamp with time zone",
    "instrument_id": "integer",
    "trade_id": "bigint",
    "price": "numeric",
    "size": "numeric",
    "buyer_is_maker": "boolean",
    "received_at": "timestamp with time zone",
}
CANDLE = {
    "instrument_id": "integer",
    "bucket": "timestamp with time zone",
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), "numeric"),
    "trades": "bigint",
    **dict.fromkeys(("taker_buy_volume", "taker_buy_quote_volume"), "numeric"),
    **dict.fromkeys(("first_id", "last_id"), "bigint"),
}
COLUMNS = {
    "ticks": TICK,
    "candles_1m": CANDLE,
    "candles_1h": CANDLE,
    "candles_1d": CANDLE,
    "candles": {
        "time": "timestamp with time zone",
        "symbol": "text",
        "interval": "text",
        **{name: kind for name, kind in CANDLE.items() if name not in ("instrument_id", "bucket")},
    },
    "trades": {
        "time": "timestamp with time zone",
        "symbol": "text",
        "trade_id": "bigint",
        "price": "numeric",
        "size": "numeric",
        "side": "text",
        "received_at": "timestamp with time zone",
    },
}


OF_THE_APP = {"market", "binance", "usage"}
ELSEWHERE = {True: {"drop_old_ticks"}, False: {"refresh", "refresh_bounds"}}
"""Queries for other engines than timescaledb, and for timescaledb alone."""


def columns(database: Database, relation: str) -> dict[str, str]:
    query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
    return dict(database.execute(f"{query} AND attnum > 0 AND NOT attisdropped ORDER BY attnum", (relation,)))


def test_tables_and_views_have_the_same_columns_on_each_engine(database: Database) -> None:
    assert {name: columns(database, f"market.{name}") for name in COLUMNS} == COLUMNS
    assert {name: [*columns(database, f"market.{name}")] for name in COLUMNS} == {
        name: [*expected] for name, expected in COLUMNS.items()
    }


@pytest.mark.parametrize("domain", ["market", "binance", "usage", "ingest", "gaps", "ownership"])
def test_every_named_query_fits_the_schema(database: Database, domain: str) -> None:
    role = database.app if domain in OF_THE_APP else database.writer
    with database.connect(role) as conn:
        conn.execute(sql.load("ingest")["make_staging"].replace("ON COMMIT DROP", ""))
        for name, query in sql.load(domain).items():
            if name in ELSEWHERE[database.engine == "timescaledb"]:
                continue
            level = "'market.candles_1m'" if name == "refresh" else "market.candles_1m"
            text, numbers = query.replace("{level}", level), dict[str, int]()
            text = text.replace("{order}", "DESC").replace("{options}", "")
            text = re.sub(r"%\((\w+)\)s", lambda m: f"${numbers.setdefault(m[1], len(numbers) + 1)}", text)  # noqa: B023
            result = conn.pgconn.prepare(b"", text.encode())
            assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, f"{name}: {result.get_error_message()}"


def refused(database: Database, role: str, statement: str) -> bool:
    with database.connect(role) as conn:
        try:
            conn.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


def add(database: Database) -> None:
    database.execute(
        "INSERT INTO market.instruments (source, ticker, feed, contiguous_ids) VALUES ('SIM', 'BTCUSDT', 'trade', true)"
    )
    database.execute("SELECT market.make_room('{2024-01-01}')")
    database.execute("INSERT INTO market.ticks VALUES ('2024-01-01 12:00Z', 1, 1, 10, 1, true)")


INSERT = "INSERT INTO market.ticks VALUES ('2024-01-01 12:00Z', 1, 2, 11, 1, false)"


def test_reader_reads_the_market_and_nothing_else(database: Database) -> None:
    add(database)
    with database.connect(database.reader) as conn:
        for relation in COLUMNS:
            assert conn.execute(compose.SQL("SELECT * FROM market.{}").format(compose.Identifier(relation))).fetchall()
        assert conn.execute("SHOW statement_timeout").fetchone() == ("30s",)
        schemas = conn.execute(
            "SELECT nspname FROM pg_namespace"
            " WHERE has_schema_privilege(oid, 'USAGE') AND nspname !~ '^(pg_|_?timescaledb)'"
        ).fetchall()
    assert {name for (name,) in schemas} == {"market", "public", "information_schema"}
    for statement in (INSERT, "DELETE FROM market.gaps", "SELECT * FROM ops.engine", "CREATE TABLE market.mine ()"):
        assert refused(database, database.reader, statement), statement
    assert refused(database, database.reader, "SELECT market.make_room('{2024-01-02}')") or (
        database.engine != "postgres"  # there it does nothing
    )


def test_app_reads_but_writes_no_ticks(database: Database) -> None:
    add(database)
    with database.connect(database.app) as conn:
        assert conn.execute("SELECT count(*) FROM market.ticks").fetchone() == (1,)
        assert conn.execute("SELECT engine FROM ops.engine").fetchone() == (str(database.engine),)
    for statement in (
        INSERT,
        "DELETE FROM market.ticks",
        "UPDATE market.instruments SET active = false",
        "DELETE FROM market.stale_ranges",
        "UPDATE ops.storage SET live_window = '1 hour'",
        "SELECT market.apply_storage()",
    ):
        assert refused(database, database.app, statement), statement


def test_writer_writes_ticks_and_instruments_but_not_how_they_are_kept(database: Database) -> None:
    add(database)
    with database.connect(database.writer) as conn:
        conn.execute(INSERT)
        conn.execute(
            "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time) VALUES (1,3,4,now(),now())"
        )
        assert conn.execute("SELECT sum(trades) FROM market.candles_1d").fetchone() == (2,)
    for statement in (
        "UPDATE market.ticks SET price = 1",
        "UPDATE ops.storage SET live_window = '1 hour'",
        "DROP TABLE market.ticks",
        "DELETE FROM market.instruments",
        "SELECT market.apply_storage()",
    ):
        assert refused(database, database.writer, statement), statement


def test_views_for_people_name_symbols_sides_and_intervals(database: Database) -> None:
    add(database)
    trades = database.execute("SELECT symbol, trade_id, side FROM market.trades")
    candles = database.execute("SELECT interval, symbol, time, close FROM market.candles ORDER BY interval")
    assert trades == [("SIM:BTCUSDT", 1, "sell")]
    times: list[Any] = [time.isoformat() for _, _, time, _ in candles]
    assert [row[:2] for row in candles] == [("1d", "SIM:BTCUSDT"), ("1h", "SIM:BTCUSDT"), ("1m", "SIM:BTCUSDT")]
    assert times == ["2024-01-01T00:00:00+00:00", "2024-01-01T12:00:00+00:00", "2024-01-01T12:00:00+00:00"]


def test_storage_refuses_periods_that_would_lose_candles(database: Database) -> None:
    for change in (
        "live_window = '10 seconds'",
        "compress_after = '1 hour'",
        "drop_ticks_after = '1 day'",
        "drop_ticks_after = '7 days'",
        "compress_after = NULL, chunk_interval = '7 days', drop_ticks_after = '9 days'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            database.execute(f"UPDATE ops.storage SET {change}")  # noqa: S608


def test_storage_applies_anew_after_a_change(database: Database) -> None:
    database.execute("UPDATE ops.storage SET compress_after = '10 days', drop_ticks_after = '30 days'")
    database.execute("SELECT market.apply_storage()")
    database.execute("UPDATE ops.storage SET compress_after = NULL, drop_ticks_after = NULL")
    database.execute("SELECT market.apply_storage()")
    if database.engine == "timescaledb":
        jobs = database.execute("SELECT proc_name FROM timescaledb_information.jobs WHERE job_id >= 1000")
        assert sorted(jobs) == [("policy_refresh_continuous_aggregate",)] * 3
