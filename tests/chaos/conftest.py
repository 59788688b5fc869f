"""Faults, each on real processes; the summary says how long it took to recover from each."""

from pathlib import Path

import pytest

from sql.engine import Engine
from tests.chaos.system import PROMISED_SECONDS, Measured
from tests.databases import Databases

_MEASURED = pytest.StashKey[Measured]()


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
def best_engine(databases: Databases) -> Engine:
    """TimescaleDB where it can be had, else plain PostgreSQL."""
    return Engine.POSTGRES if databases.missing(Engine.TIMESCALEDB) else Engine.TIMESCALEDB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the processes of a test have their working directories and their output."""
    return tmp_path
