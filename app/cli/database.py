"""`tickwick migrate`: making the database right."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

import click
import psycopg

from app import db
from app.cli.console import LOGGING, load, out, settings_options
from sql.engine import Engine
from sql.migrate import Migration, migrate

ROLES: Final = ("owner", "writer", "app", "reader")


@click.command("migrate")
@settings_options("dsn", *LOGGING)
@click.option("--dry-run", is_flag=True, envvar="TICKWICK_DRY_RUN", help="Say what would be done, and do nothing.")
@click.option(
    "--engine",
    type=click.Choice([engine.value for engine in Engine]),
    envvar="TICKWICK_ENGINE",
    help="The storage engine, instead of the best one that the server offers.  [env: TICKWICK_ENGINE]",
)
def migrate_command(dry_run: bool, engine: str | None, **given: Any) -> None:
    """Bring the database up to date.

    Chooses the storage engine on the first run and records it. Sets the passwords of the roles tickwick_owner,
    tickwick_writer, tickwick_app and tickwick_reader where TICKWICK_OWNER_PASSWORD and so on are given.
    """
    chosen = Engine(engine) if engine else None
    dsn = db.conninfo(load(given).dsn, "tickwick migrate")
    with _connection(dsn) as conn:
        outcome = migrate(
            conn, wanted=chosen, dry_run=dry_run, progress=lambda m: out.print(f"  {m.number:04} {m.name}")
        )
        if not dry_run:
            set_passwords(conn)
    out.print(f"engine {outcome.engine}: {outcome.reason}")
    if dry_run:
        for migration in outcome.applied:
            out.print(f"  would apply {_name(migration)}")
    out.print(f"{len(outcome.applied)} migrations {'would be' if dry_run else 'were'} applied")


def _name(migration: Migration) -> str:
    return f"{migration.number:04} {migration.name}"


def set_passwords(conn: psycopg.Connection[Any]) -> None:
    """Give the roles the passwords that the environment names; the server sees them only as SCRAM verifiers."""
    for role in ROLES:
        password = os.environ.get(f"TICKWICK_{role.upper()}_PASSWORD")
        if password:
            name = f"tickwick_{role}"
            verifier = conn.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
            query = psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                psycopg.sql.Identifier(name), psycopg.sql.Literal(verifier)
            )
            conn.execute(query)


@contextlib.contextmanager
def _connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with db.translated(), psycopg.connect(dsn, autocommit=True) as conn:
        yield conn
