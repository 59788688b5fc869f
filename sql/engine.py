"""The three storage engines, and how one is chosen for a server.

Nothing above `sql/` asks for the engine: names and columns are the same on all three.
"""

from enum import StrEnum
from typing import Final, NamedTuple

import psycopg

OLDEST_POSTGRES: Final = 15
OLDEST_TIMESCALEDB: Final = (2, 19)


class Engine(StrEnum):
    TIMESCALEDB = "timescaledb"
    TIMESCALEDB_APACHE = "timescaledb-apache"
    POSTGRES = "postgres"


class EngineRefused(Exception):
    """The server cannot carry the product, or not on the engine asked for; the text says why in one sentence."""


class Choice(NamedTuple):
    engine: Engine
    reason: str


class Server(NamedTuple):
    postgres: int
    timescaledb: str | None
    """The version installed in this database, else the one that could be; None where there is none."""
    licence: str | None


def look_at(conn: psycopg.Connection) -> Server:
    """What the server offers: versions and licence. Changes nothing; `conn` must be in autocommit mode."""
    row = conn.execute(
        "SELECT current_setting('server_version_num')::int / 10000, coalesce(installed_version, default_version),"
        " EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb%')"
        " FROM (SELECT) AS one LEFT JOIN pg_available_extensions ON name = 'timescaledb'"
    ).fetchone()
    assert row is not None  # one row joined to at most one
    postgres, timescaledb, preloaded = row
    return Server(postgres, timescaledb, _licence(conn) if timescaledb and preloaded else None)


def _licence(conn: psycopg.Connection) -> str:
    # The setting exists only once the extension does: make it, look, and take it back.
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")
            row = conn.execute("SELECT current_setting('timescaledb.license')").fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise EngineRefused(
            "this role may not create the extension timescaledb: create it as a superuser, or choose --engine postgres"
        ) from error
    assert row is not None  # a single value
    return str(row[0])


def choose(server: Server, wanted: Engine | None = None) -> Choice:
    """The best engine that the server can carry, or the one that is wanted.

    Raises EngineRefused when the server is too old, or lacks what the wanted engine needs.
    """
    if server.postgres < OLDEST_POSTGRES:
        raise EngineRefused(f"PostgreSQL {server.postgres} is too old: {OLDEST_POSTGRES} or newer is needed")
    if wanted is Engine.POSTGRES:
        return Choice(Engine.POSTGRES, "it was asked for")
    if server.timescaledb is None:
        if wanted is not None:
            raise EngineRefused(f"the engine {wanted} needs the extension timescaledb, which this server does not have")
        return Choice(Engine.POSTGRES, "the server has no extension timescaledb")
    if _version(server.timescaledb) < OLDEST_TIMESCALEDB:
        oldest = ".".join(map(str, OLDEST_TIMESCALEDB))
        raise EngineRefused(
            f"TimescaleDB {server.timescaledb} is too old: {oldest} or newer is needed, or choose --engine postgres"
        )
    if server.licence is None:
        if wanted is not None:
            raise EngineRefused(f"the engine {wanted} needs timescaledb in the server's shared_preload_libraries")
        return Choice(Engine.POSTGRES, "timescaledb is installed but not in the server's shared_preload_libraries")
    return _by_licence(server, wanted)


def _by_licence(server: Server, wanted: Engine | None) -> Choice:
    community = server.licence == "timescale"
    if wanted is Engine.TIMESCALEDB and not community:
        raise EngineRefused(
            "the engine timescaledb needs the Community licence:"
            f" timescaledb.license is '{server.licence}' on this server, not 'timescale'"
        )
    if community and wanted is not Engine.TIMESCALEDB_APACHE:
        return Choice(Engine.TIMESCALEDB, f"TimescaleDB {server.timescaledb} with the Community licence is there")
    return Choice(
        Engine.TIMESCALEDB_APACHE, f"TimescaleDB {server.timescaledb} is there with the licence '{server.licence}'"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".") if part.isdigit())
