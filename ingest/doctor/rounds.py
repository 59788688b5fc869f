"""The checks and the cures, in order, and the two ways through them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import psycopg

from ingest.doctor import candles, server, storage, ticks
from ingest.doctor.examination import Examination, composed
from ingest.doctor.findings import Cure, Finding, Report, counted, worst
from ingest.refresher import Refresher
from sql.engine import Engine

_FULL: Final = frozenset({Engine.TIMESCALEDB})
_PLAIN: Final = frozenset({Engine.POSTGRES})
_CHUNKED: Final = frozenset({Engine.TIMESCALEDB, Engine.TIMESCALEDB_APACHE})
_ROLLED_UP: Final = frozenset({Engine.TIMESCALEDB_APACHE, Engine.POSTGRES})
_ALL: Final = frozenset(Engine)


class Check(NamedTuple):
    name: str
    look: Callable[[Examination], Awaitable[list[Finding]]]
    engines: frozenset[Engine] = _ALL


class Remedy(NamedTuple):
    """What is done when a check finds something wrong."""

    check: str
    apply: Callable[[Examination], Awaitable[list[Cure]]]
    engines: frozenset[Engine] = _ALL


async def open_gaps(examination: Examination) -> list[Cure]:
    """Have what is missing fetched: open a gap for each jump that none explains."""
    query = composed("open_unexplained", anomalies="anomalies")
    cures = []
    for subject in examination.subjects:
        opened = 0
        async for piece in examination.pieces(subject):
            opened += await examination.execute(query, **piece)
        if opened:
            detail = f"{counted(opened, 'gap')} opened: to be fetched"
            cures.append(Cure("ids", subject.symbol, True, detail))
    return cures


async def fill_gaps(examination: Examination) -> list[Cure]:
    """Close the gaps whose ids have all arrived."""
    before = await _open(examination)
    await Refresher(examination.conn, examination.engine).fill_gaps()
    closed = before - await _open(examination)
    return (
        [Cure("gaps", "all instruments", True, f"{counted(closed, 'gap')} closed, all arrived")] if closed > 0 else []
    )


async def _open(examination: Examination) -> int:
    rows = await examination.rows(
        "gaps_in_range",
        instrument_ids=[subject.id for subject in examination.subjects],
        start=examination.start,
        end=examination.end,
    )
    return sum(row.count for row in rows if row.state == "open")


async def settle(examination: Examination) -> list[Cure]:
    """Do the refresher's work."""
    settled = await Refresher(examination.conn, examination.engine).settle()
    return [Cure("stale ranges", "refresher", True, f"{counted(settled, 'range')} settled")]


CHECKS: Final = (
    Check("engine", server.engine),
    Check("extension", server.extension, _CHUNKED),
    Check("migrations", server.migrations),
    Check("roles", server.roles),
    Check("clock", server.clock),
    Check("triggers", storage.triggers),
    Check("policies", storage.policies, _FULL),
    Check("jobs", storage.jobs, _FULL),
    Check("materialised", storage.materialised, _FULL),
    Check("chunks", storage.chunks, _CHUNKED),
    Check("partitions", storage.partitions, _PLAIN),
    Check("retention", storage.retention),
    Check("ids", ticks.ids),
    Check("gaps", ticks.gaps),
    Check("stale ranges", ticks.stale_ranges),
    Check("candles", candles.candles),
    Check("notification queue", server.notification_queue),
    Check("transactions", server.transactions),
    Check("replication", server.replication),
)

# First what keeps the data right, then the ticks, then what is made of them.
CURES: Final = (
    Remedy("triggers", storage.enable_triggers),
    Remedy("policies", storage.apply_storage, _FULL),
    Remedy("retention", storage.drop_old_ticks, _ROLLED_UP),
    Remedy("ids", open_gaps),
    Remedy("gaps", fill_gaps),
    Remedy("stale ranges", settle),
    Remedy("candles", candles.rebuild),
)


async def diagnose(
    examination: Examination, progress: Callable[[str], None] = lambda _: None, checks: Sequence[Check] = CHECKS
) -> Report:
    """Run the checks that fit the engine; `progress` hears the name of each before it runs. Changes nothing."""
    findings: list[Finding] = []
    for check in checks:
        if examination.engine in check.engines:
            progress(check.name)
            findings += await _look(examination, check)
    return _report(examination, findings, [])


async def mend(
    examination: Examination,
    found: Report,
    progress: Callable[[str], None] = lambda _: None,
    fetch: Callable[[str], Awaitable[Cure]] | None = None,
) -> Report:
    """Apply the cures for what was found wrong, then look again: the report is of the state after them.

    `fetch` asks an instrument's exchange for what its open gaps miss.
    """
    wrong = {finding.check for finding in found.findings if finding.state == "wrong"}
    cures: list[Cure] = []
    for remedy in CURES:
        if remedy.check in wrong and examination.engine in remedy.engines:
            progress(f"mending {remedy.check}")
            cures += await _apply(examination, remedy)
        if remedy.check == "gaps" and wrong & {"ids", "gaps"} and fetch:
            for gap in [gap for gap in await ticks.gaps(examination) if gap.state == "wrong"]:
                progress(f"fetching what is missing of {gap.subject}")
                cures.append(await fetch(gap.subject))
                wrong.add("stale ranges")
    after = await diagnose(examination, progress)
    return _report(examination, after.findings, cures)


def _report(examination: Examination, findings: list[Finding], cures: list[Cure]) -> Report:
    return Report(
        worst(findings), examination.start, examination.end, examination.engine, examination.role, findings, cures
    )


async def _look(examination: Examination, check: Check) -> list[Finding]:
    try:
        findings = await check.look(examination)
    except psycopg.errors.InsufficientPrivilege as error:
        return [Finding(check.name, "database", "unknown", f"{_said(error)}: connect as a role that may")]
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn) as error:
        return [Finding(check.name, "database", "wrong", _said(error), "restore the schema")]
    return findings or [Finding(check.name, "all instruments", "ok", "there are none")]


async def _apply(examination: Examination, remedy: Remedy) -> list[Cure]:
    try:
        return await remedy.apply(examination)
    except psycopg.errors.InsufficientPrivilege as error:
        who = "a role that may act as tickwick_owner" if remedy.check in ("triggers", "policies") else "tickwick_writer"
        return [Cure(remedy.check, "database", False, f"{_said(error)}: connect as {who}")]


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__
