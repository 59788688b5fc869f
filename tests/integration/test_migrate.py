"""Migrations on real servers: fresh, again, at once, and what is refused."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from sql.engine import Engine, EngineRefused
from sql.migrate import Migration, MigrationRefused, Outcome, migrate, migrations, recorded_engine
from tests.databases import Database, Databases

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def conn(empty_database: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


def relations(conn: Connection) -> set[str]:
    query = "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('market', 'ops')"
    return {str(row[0]) for row in conn.execute(query)}


def test_migrate_brings_an_empty_database_to_the_newest_version_once(conn: Connection, engine: Engine) -> None:
    told: list[Migration] = []
    outcome = migrate(conn, wanted=engine, progress=told.append)
    assert outcome.applied == told == migrations(engine)
    assert migrate(conn).applied == []
    assert recorded_engine(conn) == (engine, outcome.reason)


def test_migrate_picks_the_best_engine_that_the_server_carries(conn: Connection, engine: Engine) -> None:
    outcome = migrate(conn)
    assert outcome.engine is engine
    assert outcome.reason


def test_migrate_dry_run_changes_nothing_and_lists_what_it_would_do(conn: Connection, engine: Engine) -> None:
    outcome = migrate(conn, wanted=engine, dry_run=True)
    assert outcome.applied == migrations(engine)
    assert relations(conn) == set()
    assert conn.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None


def test_migrate_refuses_a_file_that_was_changed_after_it_was_applied(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("UPDATE ops.migrations SET checksum = 'other' WHERE number = 2")
        with pytest.raises(MigrationRefused, match="0002_create_storage was changed after it was applied"):
            migrate(conn)


def test_migrate_refuses_a_database_that_is_newer(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("INSERT INTO ops.migrations (number, name, checksum, seconds) VALUES (9999, 'later', '', 0)")
        with pytest.raises(MigrationRefused, match="the database is at migration 9999, newer than"):
            migrate(conn)


def test_migrate_applies_what_is_missing_in_between(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("DROP VIEW market.candles, market.trades; DELETE FROM ops.migrations WHERE number = 7")
        assert [migration.number for migration in migrate(conn).applied] == [7]


def test_migrate_twice_at_once_applies_each_migration_once(empty_database: str, engine: Engine) -> None:
    outcomes: list[Outcome] = []

    def run() -> None:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            outcomes.append(migrate(connection, wanted=engine))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(outcome.applied) for outcome in outcomes) == [0, len(migrations(engine))]


def test_migrate_leaves_a_failed_migration_undone_and_its_lock_free(
    conn: Connection, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [m._replace(text=m.text + "; SELECT 1 / 0") if m.number == 3 else m for m in migrations(engine)]
    with monkeypatch.context() as patch:
        patch.setattr("sql.migrate.migrations", lambda _: broken)
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate(conn, wanted=engine)
    assert "market.instruments" not in relations(conn)
    assert migrate(conn).applied == migrations(engine)[2:]


@pytest.mark.engines("postgres")
def test_migrate_refuses_timescaledb_on_a_server_without_it(conn: Connection) -> None:
    if recorded := conn.execute("SELECT FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone():
        pytest.skip(f"this server has it: {recorded}")
    with pytest.raises(EngineRefused, match="needs the extension timescaledb, which this server does not have"):
        migrate(conn, wanted=Engine.TIMESCALEDB)


@pytest.mark.engines("timescaledb-apache")
def test_migrate_refuses_the_community_engine_under_the_apache_licence(conn: Connection) -> None:
    with pytest.raises(EngineRefused, match=r"timescaledb\.license is 'apache'"):
        migrate(conn, wanted=Engine.TIMESCALEDB)


def test_migrate_refuses_to_change_the_engine_of_a_database(database: Database) -> None:
    other = Engine.TIMESCALEDB if database.engine is Engine.POSTGRES else Engine.POSTGRES
    with database.connect() as conn, pytest.raises(EngineRefused, match=f"was set up on the engine {database.engine}"):
        migrate(conn, wanted=other)


def test_migrate_says_in_one_sentence_that_rights_are_missing(empty_database: str, engine: Engine) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        user = f"nobody_{conn.info.backend_pid}"
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'nothing'").format(sql.Identifier(user)))
        try:
            as_nobody = make_conninfo(empty_database, user=user, password="nothing")
            with (
                psycopg.connect(as_nobody, autocommit=True) as poor,
                pytest.raises((MigrationRefused, EngineRefused)) as refused,
            ):
                migrate(poor)
            assert "\n" not in str(refused.value)
            assert ("create the extension" if engine is not Engine.POSTGRES else "CREATEROLE") in str(refused.value)
            assert relations(conn) == set()
        finally:
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def test_migrate_needs_no_superuser_but_the_owner_of_the_database_with_createrole(
    databases: Databases, engine: Engine
) -> None:
    with databases.fresh_server(engine) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE ROLE keeper LOGIN CREATEROLE")
            conn.execute("CREATE DATABASE kept OWNER keeper")
        with psycopg.connect(server.dsn("kept", "keeper"), autocommit=True) as conn:
            assert migrate(conn, wanted=engine).applied == migrations(engine)
            assert migrate(conn).applied == []
