"""Databases for the tests, on each engine that this machine can run.

`database` runs a test once for each engine, `@pytest.mark.engines("timescaledb")` for those named alone; `any_database`
runs it once, on plain PostgreSQL. TICKWICK_TEST_TIMESCALEDB_DSN names a superuser's connection to a TimescaleDB server
to be thrown away afterwards: roles stay behind on it.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from app.embedded import Server
from sql.engine import Engine
from tests.databases import Database, Databases

_KEY = pytest.StashKey[Databases]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: real processes, and what is done to them; most of the time is waiting")
    config.addinivalue_line("markers", "engines(*names): run a test of `engine` or `database` on these engines alone")
    # What an ingester leaves behind is not to be found by another test, nor by the user.
    state = tempfile.TemporaryDirectory(prefix="tickwick-state-", ignore_cleanup_errors=True)
    os.environ["XDG_STATE_HOME"] = state.name
    config.add_cleanup(state.cleanup)
    databases = config.stash[_KEY] = Databases()
    config.add_cleanup(databases.stop)  # after Ctrl-C too


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        databases = metafunc.config.stash[_KEY]
        marker = metafunc.definition.get_closest_marker("engines")
        wanted = [Engine(name) for name in marker.args] if marker else list(Engine)
        metafunc.parametrize("engine", [engine for engine in wanted if not databases.missing(engine)], ids=str)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of xdist has used to the process that writes the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["engines"] = [engine.value for engine in session.config.stash[_KEY].used]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    used = getattr(node, "workeroutput", {}).get("engines", [])
    node.config.stash[_KEY].used.update(Engine(name) for name in used)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    databases = config.stash[_KEY]
    if not databases.used:
        return
    terminalreporter.section("engines")
    for engine in Engine:
        if engine in databases.used:
            text = f"ran on {databases.describe(engine)}"
        else:
            text = f"not run: {databases.missing(engine) or 'no test asked for it'}"
        terminalreporter.line(f"{engine:20}{text}")


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config) -> Databases:
    return pytestconfig.stash[_KEY]


@pytest.fixture
def database(databases: Databases, engine: Engine) -> Iterator[Database]:
    """A migrated database on each engine in turn."""
    with databases.clone(engine) as made:
        yield made


@pytest.fixture
def any_database(databases: Databases) -> Iterator[Database]:
    """A migrated database on plain PostgreSQL, for tests to which the engine is all the same."""
    with databases.clone(Engine.POSTGRES) as made:
        yield made


@pytest.fixture
def any_server(databases: Databases) -> Iterator[Server]:
    """The server of `any_database`, for tests that stop and start it; it runs again afterwards."""
    server = databases.server(Engine.POSTGRES)
    yield server
    server.stop()
    server.start()


@pytest.fixture
def empty_database(databases: Databases, engine: Engine) -> Iterator[str]:
    """The operator's DSN of a database that was never migrated, on each engine in turn."""
    with databases.empty(engine) as dsn:
        yield dsn
