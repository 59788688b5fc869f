"""Faults, each on real processes; the summary says how long it took to recover from each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.installations import timescaledb_installation
from sql.engine import Engine
from tests.chaos.system import PROMISED_SECONDS, Measured
from tests.databases import Database, Databases

_FOLDER = Path(__file__).parent
_MEASURED = pytest.StashKey[Measured]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker("chaos")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of xdist has measured to the process that writes the summary."""
    if hasattr(session.config, "workeroutput"):
        measured = session.config.stash.get(_MEASURED, Measured())
        session.config.workeroutput["recoveries"] = measured.recoveries


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    measured = node.config.stash.setdefault(_MEASURED, Measured())
    for name, seconds in getattr(node, "workeroutput", {}).get("recoveries", {}).items():
        measured.recoveries.setdefault(name, []).extend(seconds)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    measured = config.stash.get(_MEASURED, None)
    if measured is None or not measured.recoveries:
        return
    terminalreporter.section("recovered after")
    for name, seconds in sorted(measured.recoveries.items()):
        worst = max(seconds)
        late = "" if worst <= PROMISED_SECONDS else f"   more than the {PROMISED_SECONDS:g} s promised"
        terminalreporter.line(f"{name:60}{len(seconds):3} times, at most {worst:6.2f} s{late}")


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Measured:
    return pytestconfig.stash.setdefault(_MEASURED, Measured())


@pytest.fixture
def best_engine() -> Engine:
    """TimescaleDB where a server of it can be started, which may then be broken; else plain PostgreSQL."""
    return Engine.TIMESCALEDB if timescaledb_installation() else Engine.POSTGRES


@pytest.fixture
def best_database(databases: Databases) -> Iterator[Database]:
    """A migrated database, of TimescaleDB where it can be had, on a server that is not to be broken."""
    engine = Engine.POSTGRES if databases.missing(Engine.TIMESCALEDB) else Engine.TIMESCALEDB
    with databases.clone(engine) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the processes of a test have their working directories and their output."""
    return tmp_path
