"""Checks of what keeps the candles and drops the old: triggers, policies, chunks or partitions; and their cures."""

from datetime import timedelta
from typing import Any, Final

from psycopg import sql

from app.db import table
from ingest.doctor.examination import Examination, as_owner, named
from ingest.doctor.findings import EXAMPLES, Cure, Finding, counted, listed, moment
from sql.engine import Engine

_LEVELS: Final = ("minutes", "hours", "days")
_OWNER: Final = "--repair, as a role that may act as tickwick_owner"
# Ingest drops every hour on engines without policies; TimescaleDB's policy runs once a day.
_GRACE: Final = {Engine.TIMESCALEDB: timedelta(days=2)}
_HOURLY: Final = timedelta(hours=2)
# Some builds of TimescaleDB end a background job with this after all its work is done and committed.
_HARMLESS: Final = "cannot drop portal"


async def triggers(examination: Examination) -> list[Finding]:
    """What announces ticks, rolls them up, and tells of gaps and instruments is there and switched on."""
    rows = await examination.rows("triggers", rolls_up=examination.engine is not Engine.TIMESCALEDB)
    return [_trigger(row) for row in rows if row.state not in ("O", "A")] or [
        Finding("triggers", "market", "ok", f"all {len(rows)} are there and enabled")
    ]


def _trigger(row: Any) -> Finding:
    subject = f"{row.relation}.{row.name}"
    if row.state is None:
        return Finding("triggers", subject, "wrong", "is not there", "restore the schema: its migration made it")
    return Finding("triggers", subject, "wrong", "is disabled", _OWNER)


async def enable_triggers(examination: Examination) -> list[Cure]:
    """Switch the triggers on again. What they did not do meanwhile is for other cures."""
    rows = await examination.rows("triggers", rolls_up=examination.engine is not Engine.TIMESCALEDB)
    cures = []
    async with as_owner(examination):
        for row in rows:
            if row.state in ("D", "R"):
                query = sql.SQL(named("enable_trigger"))
                await examination.execute(query.format(relation=table(row.relation), trigger=sql.Identifier(row.name)))
                cures.append(Cure("triggers", f"{row.relation}.{row.name}", True, "enabled"))
    return cures


async def policies(examination: Examination) -> list[Finding]:
    """Each policy that ops.storage asks for is there, enabled, and as market.apply_storage() would set it."""
    rows = await examination.rows("policies")
    problems = [(row, problem) for row in rows if (problem := policy_problem(row))]
    findings = [Finding("policies", _job(row), "wrong", problem, _OWNER) for row, problem in problems]
    storage = await examination.row("storage")
    if problem := _losing(rows):
        findings.append(Finding("policies", "candles_1m", "wrong", problem, _OWNER))
    for row in await examination.rows("chunk_interval"):
        if row.actual != storage.chunk_interval:
            detail = f"chunks to come are {row.actual} long instead of {storage.chunk_interval}"
            findings.append(Finding("policies", "ticks", "wrong", detail, _OWNER))
    jobs = {(row.job, row.relation) for row in rows}
    return findings or [Finding("policies", "market", "ok", f"all {len(jobs)} are as ops.storage says")]


def _job(row: Any) -> str:
    return f"{row.job.removeprefix('policy_')} of {row.relation}"


def policy_problem(row: Any) -> str | None:
    """What is wrong with one setting of a policy, or with the policy as a whole; None where nothing is."""
    if not row.expected:
        return "is there, though ops.storage asks for none"
    if row.job_id is None:
        return "is not there" if row.setting not in ("end_offset", "schedule") else None  # told once
    if not row.scheduled:
        return "is disabled" if row.setting not in ("end_offset", "schedule") else None
    if row.actual != row.wanted:
        return f"{row.setting} is {_interval(row.actual)} instead of {_interval(row.wanted)}"
    return None


def _interval(value: timedelta | None) -> str:
    return "unlimited" if value is None else str(value)


def _losing(rows: list[Any]) -> str | None:
    """A refresh of minutes over dropped ticks deletes their candles."""
    actual = {(row.relation, row.setting): row for row in rows if row.job_id is not None}
    start = actual.get(("candles_1m", "start_offset"))
    dropped = next((row for row in rows if row.job == "policy_retention" and row.job_id is not None), None)
    if start is None or dropped is None or (start.actual and dropped.actual and start.actual < dropped.actual):
        return None
    return "its refresh reaches back to where ticks are dropped, and deletes their candles"


async def apply_storage(examination: Examination) -> list[Cure]:
    """Set all policies anew from ops.storage."""
    async with as_owner(examination):
        await examination.execute("apply_storage")
    return [Cure("policies", "market", True, "market.apply_storage() set them anew")]


async def jobs(examination: Examination) -> list[Finding]:
    """No policy's last run failed; what is harmless is told."""
    findings = []
    for row in await examination.rows("failed_jobs"):
        if row.message is None:
            state, message = "unknown", "its last run failed, and this role may not see why"
        elif _HARMLESS in row.message:
            state, message = "ok", f"its last run ended with {row.message!r}, after its work was done"
        else:
            state, message = "wrong", f"its last run failed: {row.message}"
        remedy = "see timescaledb_information.job_errors" if state != "ok" else None
        findings.append(Finding("jobs", _job(row), state, message, remedy))  # type: ignore[arg-type]  # one of the three
    return findings or [Finding("jobs", "market", "ok", "no policy's last run failed")]


async def materialised(examination: Examination) -> list[Finding]:
    """The policies keep up: no candle waits for its level's refresh much longer than it should."""
    rows = await examination.rows("watermarks")
    marks = {name: row.watermark for name, row in zip(_LEVELS, rows, strict=True)}
    behind = await examination.rows("unmaterialised", **marks)
    remedy = "see that TimescaleDB's background workers run (timescaledb.max_background_workers), and the jobs"
    return [
        Finding(
            "materialised",
            row.level,
            "wrong",
            f"{counted(row.count, 'candle')} not materialised, since {moment(row.since)}: every read counts them anew",
            remedy,
        )
        for row in behind
    ] or [Finding("materialised", "market", "ok", "each level up to its policy's offset")]


async def chunks(examination: Examination) -> list[Finding]:
    """Old chunks are compressed, and none lies beyond any sensible time."""
    row = await examination.row("chunks", grace=_GRACE.get(examination.engine, _HOURLY), examples=EXAMPLES)
    findings = []
    if examination.engine is Engine.TIMESCALEDB and row.loose:
        detail = f"{counted(row.loose, 'chunk')} older than ops.storage.compress_after not compressed"
        findings.append(Finding("chunks", "ticks", "wrong", detail, "see the compression policy and its job"))
    if row.ahead:
        findings.append(_ahead(row.ahead))
    detail = f"{counted(row.count, 'chunk')}, {row.compressed:,} compressed"
    return findings or [Finding("chunks", "ticks", "ok", detail)]


async def partitions(examination: Examination) -> list[Finding]:
    """All partitions are attached, and none lies beyond any sensible time."""
    rows = await examination.rows("partitions", grace=_HOURLY)
    findings = []
    if loose := [row.name for row in rows if not row.attached]:
        detail = f"not attached, so that ticks of their days cannot be stored: {listed(loose, len(loose))}"
        findings.append(Finding("partitions", "ticks", "wrong", detail, "ALTER TABLE market.ticks ATTACH PARTITION"))
    if ahead := [row.name for row in rows if row.ahead]:
        findings.append(_ahead(ahead))
    today = "" if any(row.today for row in rows) else "; none of today yet, the first tick makes it"
    return findings or [Finding("partitions", "ticks", "ok", f"{counted(len(rows), 'partition')}, all attached{today}")]


def _ahead(names: list[str]) -> Finding:
    return Finding(
        "partitions" if names[0].startswith("ticks_") else "chunks",
        "ticks",
        "wrong",
        f"in the far future: {listed(names, len(names))}",
        "delete the ticks whose time is wrong, then drop it",
    )


async def retention(examination: Examination) -> list[Finding]:
    """Ticks older than ops.storage.drop_ticks_after are gone."""
    grace = _GRACE.get(examination.engine, _HOURLY)
    if examination.engine is Engine.POSTGRES:
        undropped = sum(bool(row.undropped) for row in await examination.rows("partitions", grace=grace))
    else:
        undropped = (await examination.row("chunks", grace=grace, examples=EXAMPLES)).undropped
    kept = (await examination.row("storage")).drop_ticks_after
    if not undropped:
        return [
            Finding("retention", "ticks", "ok", "kept for ever" if kept is None else f"dropped after {kept.days} days")
        ]
    detail = f"{counted(undropped, 'chunk')} of ticks older than ops.storage.drop_ticks_after still there"
    remedy = (
        "see the retention policy and its job" if examination.engine is Engine.TIMESCALEDB else "--repair drops them"
    )
    return [Finding("retention", "ticks", "wrong", detail, remedy)]


async def drop_old_ticks(examination: Examination) -> list[Cure]:
    """Apply retention where no policy does."""
    row = await examination.row("drop_old_ticks")
    return [Cure("retention", "ticks", True, f"{counted(row.drop_old_ticks, 'chunk')} dropped")]
