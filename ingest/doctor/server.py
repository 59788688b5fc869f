"""Checks of the server and the database as a whole: versions, roles, clock, queue, transactions, replication."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ingest.doctor.examination import Examination
from ingest.doctor.findings import EXAMPLES, Finding, duration, listed
from sql.engine import Engine, EngineRefused, Server, choose
from sql.migrate import Migration
from sql.migrate import migrations as known_migrations

_MONITOR = "this role sees only its own sessions: grant it pg_monitor, or ask as the operator"
_GIB = 1 << 30


async def engine(examination: Examination) -> list[Finding]:
    """The server still offers the engine that the database was set up on."""
    row = await examination.row("offer")
    offered = Server(row.postgres, row.installed_version or row.default_version, row.licence or None)
    recorded = examination.engine
    try:
        if recorded is not Engine.POSTGRES:
            choose(offered, recorded)
    except EngineRefused as error:
        return [Finding("engine", recorded, "wrong", str(error), "give the server back what it was set up with")]
    return [Finding("engine", recorded, "ok", f"PostgreSQL {row.postgres} offers it")]


async def extension(examination: Examination) -> list[Finding]:
    """The extension in the database is of the version that the server's library has."""
    row = await examination.row("offer")
    if row.installed_version is None:
        detail = "is not in this database, but its engine needs it"
        return [Finding("extension", "timescaledb", "wrong", detail, "CREATE EXTENSION timescaledb SCHEMA public")]
    if row.installed_version != row.default_version:
        detail = f"is at {row.installed_version}, the server's library at {row.default_version}"
        return [
            Finding("extension", "timescaledb", "wrong", detail, "ALTER EXTENSION timescaledb UPDATE, first of all")
        ]
    return [Finding("extension", "timescaledb", "ok", row.installed_version)]


async def migrations(examination: Examination) -> list[Finding]:
    """All migrations that this version knows were applied, and no others."""
    applied = {row.number: row.checksum for row in await examination.rows("applied_migrations")}
    return [migration_finding(applied, known_migrations(examination.engine))]


def migration_finding(applied: dict[int, str], known: Sequence[Migration]) -> Finding:
    newest = max(applied, default=0)
    if newest > len(known):
        detail = f"the database is at {newest:04}, this version knows {len(known):04}"
        return Finding("migrations", "schema", "wrong", detail, "use the newer version that migrated it")
    if changed := [f"{m.number:04}_{m.name}" for m in known if applied.get(m.number, m.checksum) != m.checksum]:
        detail = f"changed after they were applied: {listed(changed, len(changed))}"
        return Finding("migrations", "schema", "wrong", detail, "put the files back as they were")
    if pending := [f"{m.number:04}_{m.name}" for m in known if m.number not in applied]:
        detail = f"not applied: {listed(pending, len(pending))}"
        return Finding("migrations", "schema", "wrong", detail, "tickwick migrate")
    return Finding("migrations", "schema", "ok", f"all {len(known)} applied")


async def roles(examination: Examination) -> list[Finding]:
    """The four roles are there and can log in."""
    there = {row.name: row.may_log_in for row in await examination.rows("roles")}
    findings = []
    for name in (f"tickwick_{role}" for role in ("owner", "writer", "app", "reader")):
        if name not in there:
            findings.append(
                Finding("roles", name, "wrong", "is not there", f"CREATE ROLE {name} LOGIN, and its rights")
            )
        elif not there[name]:
            findings.append(Finding("roles", name, "wrong", "may not log in", f"ALTER ROLE {name} LOGIN"))
    return findings or [Finding("roles", "tickwick_*", "ok", "all four are there")]


async def clock(examination: Examination) -> list[Finding]:
    """The server's clock and this machine's agree."""
    before, started = datetime.now(UTC), time.monotonic()
    row = await examination.row("clock")
    took = time.monotonic() - started
    return [clock_finding((row.now - before).total_seconds(), took, examination.limits.clock)]


def clock_finding(ahead: float, took: float, limit: float) -> Finding:
    """`ahead`: by how much the server's clock was ahead of ours of when we asked; the answer took `took` seconds."""
    difference = ahead if ahead < 0 else max(0.0, ahead - took)
    if abs(difference) <= limit:
        return Finding("clock", "server", "ok", f"within {limit:g} seconds of this machine's")
    side = "ahead of" if difference > 0 else "behind"
    detail = f"{abs(difference):,.1f} seconds {side} this machine's"
    return Finding("clock", "server", "wrong", detail, "set both by NTP: what is late is told by the server's clock")


async def notification_queue(examination: Examination) -> list[Finding]:
    """Listeners read what they are sent: the queue is far from full. When it is full, no tick can be committed."""
    used = (await examination.row("notification_queue")).used
    holders = await examination.rows("oldest_transactions", queue=True, examples=EXAMPLES)
    return [queue_finding(used, holders, examination.limits.queue)]


def queue_finding(used: float, holders: Sequence[Any], limit: float) -> Finding:
    if used <= limit:
        return Finding("notification queue", "server", "ok", f"{used:.0%} full")
    seen = [row for row in holders if row.seconds is not None]
    oldest = f"; the oldest transaction is of {session(seen[0])}" if seen else ""
    remedy = "end the session whose transaction holds it back: pg_terminate_backend(pid)"
    return Finding("notification queue", "server", "wrong", f"{used:.0%} full{oldest}", remedy)


def session(row: Any) -> str:
    """A session in a transaction, so that it can be found."""
    return f"pid {row.pid} ({row.application or row.role}, {row.state}, since {duration(row.seconds)})"


async def transactions(examination: Examination) -> list[Finding]:
    """No transaction is so old that vacuum cannot clean up behind it."""
    sessions = await examination.rows("oldest_transactions", queue=False, examples=EXAMPLES)
    prepared = await examination.rows("prepared_transactions", examples=EXAMPLES)
    limits = examination.limits
    old = [session(row) for row in sessions if row.seconds is not None and row.seconds > _patience(limits, row.state)]
    old += [f"prepared {row.gid!r} of {row.role}" for row in prepared if row.seconds > limits.idle_transaction]
    if old:
        remedy = "end them: pg_terminate_backend(pid), ROLLBACK PREPARED"
        return [Finding("transactions", "database", "wrong", f"hold back vacuum: {listed(old, len(old))}", remedy)]
    if any(row.hidden for row in sessions):
        return [Finding("transactions", "database", "unknown", _MONITOR)]
    return [Finding("transactions", "database", "ok", "none is old")]


def _patience(limits: Any, state: str | None) -> float:
    idle = (state or "").startswith("idle in transaction")
    return float(limits.idle_transaction if idle else limits.transaction)


async def replication(examination: Examination) -> list[Finding]:
    """Standbys keep up, and no replication slot holds WAL that nobody fetches."""
    limit = examination.limits.replay
    findings = []
    if (await examination.row("chosen_engine")).standby:
        behind = (await examination.row("replay")).seconds or 0
        findings.append(Finding("replication", "server", "ok", f"is a standby, {duration(behind)} behind"))
    findings += [standby_finding(row, limit) for row in await examination.rows("standbys")]
    findings += [finding for row in await examination.rows("slots") if (finding := slot_finding(row))]
    return findings or [Finding("replication", "server", "ok", "is the primary, without standbys")]


def standby_finding(row: Any, limit: float) -> Finding:
    subject = f"standby {row.name}"
    if row.state is None:
        return Finding("replication", subject, "unknown", _MONITOR)
    if (row.seconds or 0) > limit:
        remedy = "see its network and its disk"
        return Finding("replication", subject, "wrong", f"{row.state}, {duration(row.seconds)} behind", remedy)
    return Finding("replication", subject, "ok", f"{row.state}, {row.seconds or 0:.1f} seconds behind")


def slot_finding(row: Any) -> Finding | None:
    """What a slot says of its standby; None for one that reserves nothing."""
    subject = f"slot {row.name}"
    held = f"holds {row.held / _GIB:.1f} GiB of WAL" if row.held is not None else "holds no WAL"
    if row.wal_status in ("lost", "unreserved"):
        detail = f"its WAL is {row.wal_status}: its standby cannot catch up, or soon will not"
        return Finding("replication", subject, "wrong", detail, "build the standby anew, and drop the slot")
    if not row.active and row.held is not None:
        remedy = f"start who uses it, or pg_drop_replication_slot({row.name!r})"
        return Finding("replication", subject, "wrong", f"is not in use, and {held}", remedy)
    return Finding("replication", subject, "ok", held) if row.active else None
