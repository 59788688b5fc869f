"""Limits are counted in the database: exactly, by many at once, window by window, and by the app alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app import db, usage
from app.usage import Usage, forget, spend
from tests.databases import Database

MINUTE_START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
async def conn(any_database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await db.connect(any_database.app, "test", numerics_as_text=True) as connection:
        yield connection


def rows(database: Database) -> list[tuple[Any, ...]]:
    return database.execute("SELECT limit_name, subject, used FROM ops.usage ORDER BY 1, 2")


async def test_costs_of_one_window_add_up_by_limit_and_subject(database: Database) -> None:
    async with await db.connect(database.app, "test", numerics_as_text=True) as conn:
        assert (await spend(conn, "binance weight", "10.0.0.1", 2, 60, at=MINUTE_START)).used == 2
        assert (await spend(conn, "binance weight", "10.0.0.1", 40, 60, at=MINUTE_START)).used == 42
        assert (await spend(conn, "binance weight", "10.0.0.2", 1, 60, at=MINUTE_START)).used == 1
        assert (await spend(conn, "binance connections", "10.0.0.1", 1, 300, at=MINUTE_START)).used == 1
        found = await spend(conn, "binance weight", "10.0.0.1", 0, 60)
    assert found.used == 0  # by the database's clock, that minute is another
    assert 1 <= found.seconds_left <= 60


@pytest.mark.parametrize(
    ("later", "used", "left"),
    [
        (timedelta(0), 6, 60),
        (SECOND, 6, 59),
        (timedelta(seconds=1.5), 6, 59),
        (timedelta(seconds=59.999999), 6, 1),
        (60 * SECOND, 1, 60),
        (120 * SECOND, 1, 60),
        (timedelta(days=400), 1, 60),
    ],
)
async def test_window_begins_anew_at_each_whole_minute(
    conn: psycopg.AsyncConnection[Any], later: timedelta, used: int, left: int
) -> None:
    assert await spend(conn, "weight", "a", 5, 60, at=MINUTE_START) == Usage(5, 60)
    assert await spend(conn, "weight", "a", 1, 60, at=MINUTE_START + later) == Usage(used, left)


async def test_one_overtaken_by_the_turn_of_the_window_counts_in_the_next(conn: psycopg.AsyncConnection[Any]) -> None:
    assert await spend(conn, "weight", "a", 5, 60, at=MINUTE_START + 60 * SECOND) == Usage(5, 60)
    assert await spend(conn, "weight", "a", 1, 60, at=MINUTE_START + 59 * SECOND) == Usage(6, 61)
    assert await spend(conn, "weight", "a", 1, 60, at=MINUTE_START + 61 * SECOND) == Usage(7, 59)


async def test_clock_set_back_locks_nobody_out(conn: psycopg.AsyncConnection[Any]) -> None:
    assert (await spend(conn, "weight", "a", 5_000, 60, at=MINUTE_START)).used == 5_000
    assert await spend(conn, "weight", "a", 1, 60, at=MINUTE_START - timedelta(hours=1)) == Usage(1, 60)


async def test_many_connections_at_once_lose_no_cost(database: Database) -> None:
    async def one_process(turns: int) -> list[int]:
        async with await db.connect(database.app, "test") as conn:
            used = []
            for turn in range(turns):
                at = MINUTE_START + timedelta(seconds=59.9) + turn * timedelta(seconds=0.01)
                used.append((await spend(conn, "weight", "a", 1, 3600, at=at)).used)
            return used

    told = await asyncio.gather(*(one_process(50) for _ in range(6)))
    assert sorted(used for one in told for used in one) == [*range(1, 301)]


async def test_many_connections_across_the_turn_of_a_window_count_each_cost_once(database: Database) -> None:
    async def one_process(turns: int) -> list[tuple[int, int]]:
        async with await db.connect(database.app, "test") as conn:
            told = []
            for tenth in range(turns):
                moment = MINUTE_START + timedelta(seconds=59) + tenth * timedelta(seconds=0.1)
                usage = await spend(conn, "weight", "a", 1, 60, at=moment)
                told.append(((59 + tenth // 10 + usage.seconds_left) // 60, usage.used))
            return told

    told = await asyncio.gather(*(one_process(20) for _ in range(5)))
    first, second = ([used for one in told for of, used in one if of == window] for window in (1, 2))
    assert sorted(first) == [*range(1, len(first) + 1)]
    assert sorted(second) == [*range(1, 101 - len(first))]


async def test_forget_deletes_what_is_over_and_nothing_else(
    conn: psycopg.AsyncConnection[Any], any_database: Database
) -> None:
    await spend(conn, "weight", "over", 1, 60, at=datetime.now(UTC) - timedelta(minutes=5))
    await spend(conn, "weight", "current", 1, 3600)
    await spend(conn, "weight", "ahead", 1, 60, at=datetime.now(UTC) + timedelta(minutes=5))
    await forget(conn)
    assert rows(any_database) == [("weight", "ahead", 1), ("weight", "current", 1)]


@pytest.mark.parametrize(
    ("subject", "kept"),
    [
        ("x" * 1_000_000, "x" * 64),
        ("10.0.0.1\x00", "10.0.0.1"),
        ("\ud800", ""),
        ("", ""),
        ("'; DROP TABLE ops.usage; --", "'; DROP TABLE ops.usage; --"),
        ("2001:db8:85a3::8a2e:370:7334%eth0", "2001:db8:85a3::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("日本" * 50, "日本" * 32),
    ],
)
async def test_subject_of_any_text_is_kept_within_bounds(
    conn: psycopg.AsyncConnection[Any], any_database: Database, subject: str, kept: str
) -> None:
    assert (await spend(conn, "weight", subject, 3, 60)).used == 3
    assert rows(any_database) == [("weight", kept, 3)]


async def test_addresses_that_one_host_has_for_itself_count_as_one(conn: psycopg.AsyncConnection[Any]) -> None:
    assert (await spend(conn, "weight", "2001:db8:0:1::1", 3, 60)).used == 3
    assert (await spend(conn, "weight", "2001:db8:0:1:ffff:ffff:ffff:ffff", 3, 60)).used == 6
    assert (await spend(conn, "weight", "2001:db8:0:2::1", 3, 60)).used == 3
    assert (await spend(conn, "weight", "::ffff:10.0.0.1", 3, 60)).used == 3
    assert (await spend(conn, "weight", "::ffff:10.0.0.2", 3, 60)).used == 3


def test_nobody_but_the_app_sees_or_changes_what_is_used(database: Database) -> None:
    for role in (database.reader, database.writer):
        for statement in ("SELECT * FROM ops.usage", "DELETE FROM ops.usage", "UPDATE ops.usage SET used = 0"):
            with database.connect(role) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)
    with database.connect(database.app) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("TRUNCATE ops.usage")


def test_counting_writes_no_rows_to_the_log(database: Database) -> None:
    with database.connect() as conn:
        query = "SELECT relpersistence FROM pg_class WHERE oid IN ('ops.usage'::regclass, 'ops.usage_pkey'::regclass)"
        assert conn.execute(query).fetchall() == [("u",), ("u",)]


async def test_rows_of_windows_that_are_over_are_deleted_again_and_again(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "TIDY_SECONDS", 0.01)
    async with db.pool(any_database.app, "test", 1) as pool:
        tidying = asyncio.create_task(usage.tidy_for_ever(pool))
        for subject in ("a", "b"):
            async with pool.connection() as conn:
                await spend(conn, "weight", subject, 1, 60, at=MINUTE_START)
            async with asyncio.timeout(20):
                while rows(any_database):  # noqa: ASYNC110  # nothing announces it
                    await asyncio.sleep(0.01)
        tidying.cancel()
        await asyncio.wait([tidying])
