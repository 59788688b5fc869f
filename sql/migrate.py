"""Forward-only migrations: numbered, checksummed, one at a time under an advisory lock, each in its own transaction.

A file is named `NNNN_verb_object[.engine …].sql`; with engines in its name it runs on those alone. Its header says why,
which locks it takes and how to undo it. Two header lines change how it runs: `-- As:` names the role (operator, which
is the connected one; owner, the default; writer), and `-- Transaction: none` runs it outside a transaction (the file
then holds a single statement).
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from sql.engine import Choice, Engine, EngineRefused, choose, look_at

_FILE: Final = re.compile(r"^(?P<number>\d{4})_(?P<name>[a-z0-9]+(?:_[a-z0-9]+)+)(?P<engines>(?:\.[a-z-]+)*)\.sql$")
_LOCK: Final = 0x7469636B  # "tick"

_BOOTSTRAP: Final = """
CREATE SCHEMA IF NOT EXISTS ops;
CREATE TABLE IF NOT EXISTS ops.engine (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    engine   text NOT NULL,
    reason   text NOT NULL,
    chosen_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS ops.migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    seconds    double precision NOT NULL
);
"""


class MigrationRefused(Exception):
    """The database's history does not fit these files, or a right is missing; the text says so in one sentence."""


class Migration(NamedTuple):
    number: int
    name: str
    text: LiteralString

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def role(self) -> str:
        return self._header("As") or "owner"

    @property
    def transactional(self) -> bool:
        return self._header("Transaction") != "none"

    def _header(self, field: str) -> str | None:
        match = re.search(rf"^-- {field}:\s*(\w+)", self.text, re.MULTILINE)
        return match and match[1]


class Outcome(NamedTuple):
    engine: Engine
    reason: str
    applied: list[Migration]


def migrations(engine: Engine) -> list[Migration]:
    """The engine's migrations in order. Raises ValueError for a misnamed file, a number twice or a number left out."""
    found: dict[int, Migration] = {}
    for file in (files("sql") / "migrations").iterdir():
        match = _FILE.match(file.name)
        if match is None:
            raise ValueError(f"migrations/{file.name} is not named NNNN_verb_object[.engine].sql")
        engines = [Engine(name) for name in match["engines"].split(".") if name]
        if engines and engine not in engines:
            continue
        number = int(match["number"])
        if number in found:
            raise ValueError(f"migration {number:04} stands twice for the engine {engine}")
        found[number] = Migration(number, match["name"], file.read_text(encoding="utf-8"))
    if sorted(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations of the engine {engine} are not numbered 1 to {len(found)}")
    return [found[number] for number in sorted(found)]


def migrate(
    conn: psycopg.Connection,
    *,
    wanted: Engine | None = None,
    dry_run: bool = False,
    progress: Callable[[Migration], None] = lambda _: None,
) -> Outcome:
    """Bring the database up to date on its recorded engine, or on the best one the server offers, and record it.

    `conn` must be in autocommit mode. With `dry_run`, nothing is changed and `applied` lists what would be. Two runs at
    once wait for each other. Raises EngineRefused and MigrationRefused, and other psycopg errors as they come.
    """
    with _lock(conn), _rights(conn):
        recorded = recorded_engine(conn)
        if recorded and wanted not in (None, recorded.engine):
            raise EngineRefused(
                f"this database was set up on the engine {recorded.engine} and cannot change to {wanted}"
            )
        engine, reason = choose(look_at(conn), recorded.engine if recorded else wanted)
        pending = _pending(conn, migrations(engine), recorded is not None)
        if dry_run:
            return Outcome(engine, reason, pending)
        if recorded is None:
            _begin(conn, engine, reason)
        for migration in pending:
            progress(migration)
            _apply(conn, migration)
        return Outcome(engine, reason, pending)


def recorded_engine(conn: psycopg.Connection) -> Choice | None:
    """The engine the database was migrated for, or None when it never was."""
    known = conn.execute("SELECT to_regclass('ops.engine') IS NOT NULL").fetchone()
    if known is None or not known[0]:
        return None
    row = conn.execute("SELECT engine, reason FROM ops.engine").fetchone()
    return Choice(Engine(row[0]), row[1]) if row else None


def _pending(conn: psycopg.Connection, known: list[Migration], begun: bool) -> list[Migration]:
    done: dict[int, str] = dict(conn.execute("SELECT number, checksum FROM ops.migrations").fetchall()) if begun else {}
    newest = len(known)
    if done and max(done) > newest:
        raise MigrationRefused(f"the database is at migration {max(done):04}, newer than this version's {newest:04}")
    for migration in known:
        if done.get(migration.number, migration.checksum) != migration.checksum:
            raise MigrationRefused(f"migration {migration.number:04}_{migration.name} was changed after it was applied")
    return [migration for migration in known if migration.number not in done]


def _begin(conn: psycopg.Connection, engine: Engine, reason: str) -> None:
    if engine is not Engine.POSTGRES:
        conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")
    with conn.transaction():
        conn.execute(_BOOTSTRAP)
        conn.execute("INSERT INTO ops.engine (engine, reason) VALUES (%s, %s)", (engine, reason))


def _apply(conn: psycopg.Connection, migration: Migration) -> None:
    started = time.monotonic()
    record = sql.SQL("INSERT INTO ops.migrations (number, name, checksum, seconds) VALUES (%s, %s, %s, %s)")

    def values() -> tuple[int, str, str, float]:
        return migration.number, migration.name, migration.checksum, time.monotonic() - started

    if not migration.transactional:
        with _role(conn, migration):
            conn.execute(migration.text)
        conn.execute(record, values())
        return
    with conn.transaction():
        with _role(conn, migration):
            conn.execute(migration.text)
        conn.execute(record, values())


@contextmanager
def _role(conn: psycopg.Connection, migration: Migration) -> Iterator[None]:
    if migration.role == "operator":
        yield
        return
    conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"tickwick_{migration.role}")))
    yield
    conn.execute("RESET ROLE")


@contextmanager
def _rights(conn: psycopg.Connection) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationRefused(
            f"the role {conn.info.user} may not migrate {conn.info.dbname} ({error.diag.message_primary}):"
            " let the database's owner do it, as a role with CREATEROLE, or a superuser"
        ) from error


@contextmanager
def _lock(conn: psycopg.Connection) -> Iterator[None]:
    conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
