"""The doctor's judgements on what cannot be had from a test's server, and how findings are put together."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli.diagnosis import gathered
from ingest.doctor import CHECKS, CURES, Finding
from ingest.doctor.candles import spans
from ingest.doctor.findings import State, duration, listed, moment, worst
from ingest.doctor.server import clock_finding, migration_finding, queue_finding, session, slot_finding, standby_finding
from ingest.doctor.storage import policy_problem
from sql.engine import Engine
from sql.migrate import Migration

NOON = datetime(2024, 3, 15, 12, tzinfo=UTC)
KNOWN = [Migration(1, "create_one", "SELECT 1"), Migration(2, "create_two", "SELECT 2")]


def row(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    ("ahead", "took", "state"),
    [(0.0, 0.001, "ok"), (5.0, 4.0, "ok"), (5.0, 0.1, "wrong"), (-1.9, 0.1, "ok"), (-2.1, 9.0, "wrong")],
)
def test_clock_finding_allows_for_the_time_that_the_answer_took(ahead: float, took: float, state: State) -> None:
    assert clock_finding(ahead, took, 2).state == state


def test_queue_finding_names_the_oldest_transaction_that_can_be_seen() -> None:
    hidden = row(pid=1, seconds=None, application=None, role=None, state=None)
    oldest = row(pid=42, seconds=7_300.0, application="tickwick serve", role="tickwick_app", state="active")
    assert queue_finding(0.5, [oldest], 0.5).state == "ok"
    finding = queue_finding(0.75, [hidden, oldest], 0.5)
    assert finding.state == "wrong"
    assert finding.detail == "75% full; the oldest transaction is of pid 42 (tickwick serve, active, since 2 hours)"
    assert queue_finding(0.75, [hidden], 0.5).detail == "75% full"


def test_session_without_an_application_goes_by_its_role() -> None:
    assert session(row(pid=1, seconds=61, application="", role="postgres", state="active")).startswith(
        "pid 1 (postgres,"
    )


@pytest.mark.parametrize(
    ("state", "seconds", "expected"),
    [("streaming", 0.2, "ok"), ("streaming", None, "ok"), ("catchup", 11.0, "wrong"), (None, None, "unknown")],
)
def test_standby_finding_by_its_lag(state: str | None, seconds: float | None, expected: State) -> None:
    assert standby_finding(row(name="one", state=state, seconds=seconds), 10).state == expected


@pytest.mark.parametrize(
    ("active", "status", "held", "expected"),
    [
        (True, "reserved", 5, "ok"),
        (True, "extended", 5 << 30, "ok"),
        (True, "unreserved", 5, "wrong"),
        (False, "lost", None, "wrong"),
        (False, "reserved", 5, "wrong"),
        (False, None, None, None),
    ],
)
def test_slot_finding_by_what_it_holds(
    active: bool, status: str | None, held: int | None, expected: str | None
) -> None:
    finding = slot_finding(row(name="one", active=active, wal_status=status, held=held))
    assert (finding and finding.state) == expected


@pytest.mark.parametrize(
    ("applied", "state", "told"),
    [
        ({1: KNOWN[0].checksum, 2: KNOWN[1].checksum}, "ok", "all 2"),
        ({1: KNOWN[0].checksum}, "wrong", "0002_create_two"),
        ({}, "wrong", "0001_create_one, 0002_create_two"),
        ({1: "other", 2: KNOWN[1].checksum}, "wrong", "changed after they were applied: 0001_create_one"),
        ({1: "", 2: "", 3: ""}, "wrong", "this version knows 0002"),
    ],
)
def test_migration_finding_tells_what_is_missing_changed_or_newer(
    applied: dict[int, str], state: State, told: str
) -> None:
    finding = migration_finding(applied, KNOWN)
    assert finding.state == state
    assert told in finding.detail


def policy(**changes: Any) -> Any:
    usual = {"setting": "drop_after", "wanted": timedelta(days=9), "actual": timedelta(days=9)}
    return row(**{"expected": True, "job_id": 1000, "scheduled": True, **usual, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"expected": False}, "is there, though ops.storage asks for none"),
        ({"job_id": None, "scheduled": None, "actual": None}, "is not there"),
        ({"job_id": None, "setting": "end_offset"}, None),
        ({"scheduled": False}, "is disabled"),
        ({"actual": timedelta(days=8)}, "drop_after is 8 days, 0:00:00 instead of 9 days, 0:00:00"),
        ({"setting": "start_offset", "wanted": None}, "start_offset is 9 days, 0:00:00 instead of unlimited"),
    ],
)
def test_policy_problem_tells_a_policy_as_a_whole_once(changes: dict[str, Any], problem: str | None) -> None:
    assert policy_problem(policy(**changes)) == problem


def test_spans_join_where_they_meet() -> None:
    hour = timedelta(hours=1)
    found = [
        (NOON + 3 * hour, NOON + 4 * hour),
        (NOON, NOON + hour),
        (NOON + hour, NOON + 2 * hour),
        (NOON, NOON + hour),
    ]
    assert spans(found) == [(NOON, NOON + 2 * hour), (NOON + 3 * hour, NOON + 4 * hour)]
    assert spans([]) == []


def test_listed_names_a_few_and_counts_the_rest() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 1_004) == "a, b, c and 1,001 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7_200, "2 hours"), (2e5, "2 days")]
)
def test_duration_is_told_in_the_largest_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_moment_is_what_the_flags_take() -> None:
    assert moment(NOON) == "2024-03-15T12:00:00Z"


def test_worst_is_wrong_before_unknown_before_ok() -> None:
    ok, unknown, wrong = (Finding("ids", "A", state, "") for state in ("ok", "unknown", "wrong"))
    assert worst([ok, unknown, wrong, ok]) == "wrong"
    assert worst([ok, unknown]) == "unknown"
    assert worst([]) == "ok"


def test_gathered_puts_the_same_good_word_of_many_into_one_line() -> None:
    good = [Finding("ids", symbol, "ok", "fine") for symbol in "ABCD"]
    bad = [Finding("ids", symbol, "wrong", "jump") for symbol in "EFG"]
    others = [Finding("candles", symbol, "ok", "fine") for symbol in "AB"]
    shown = gathered([*good[:2], *bad, *good[2:], *others])
    assert [(subject, finding.check, finding.state) for subject, finding in shown] == [
        ("4 instruments", "ids", "ok"),
        ("E", "ids", "wrong"),
        ("F", "ids", "wrong"),
        ("G", "ids", "wrong"),
        ("A", "candles", "ok"),
        ("B", "candles", "ok"),
    ]


def test_every_cure_is_for_a_check_that_runs_on_its_engines() -> None:
    engines = {check.name: check.engines for check in CHECKS}
    assert len(engines) == len(CHECKS)
    for cure in CURES:
        assert cure.engines <= engines[cure.check], cure.check
    assert all(check.engines <= frozenset(Engine) for check in CHECKS)
