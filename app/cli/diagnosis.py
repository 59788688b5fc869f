"""`tickwick doctor`: is what is stored right, and is what keeps it right at work?"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.markup import escape
from rich.status import Status
from rich.table import Column, Table

from app import db
from app.cli.console import LOGGING, err, load, out, run, settings_options
from app.errors import InvalidParameter, OperatorError
from app.market.parameters import time_of
from app.settings import Settings

if TYPE_CHECKING:
    from ingest.doctor import Finding, Report

_COLOURS: Final = {"ok": "green", "wrong": "red", "unknown": "yellow"}
_OF_INSTRUMENTS: Final = frozenset({"ids", "gaps", "candles"})
_ALIKE: Final = 3  # that many subjects of a check share a line where all is said of them at once


class Time(click.ParamType[datetime]):
    """A time as REST takes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return time_of("time", value, datetime.now(UTC))
        except InvalidParameter as error:
            self.fail(error.message, param, ctx)


@click.command("doctor")
@settings_options("dsn", "source", "url", "rest_url", *LOGGING)
@click.argument("symbols", nargs=-1)
@click.option(
    "--from",
    "start",
    type=Time(),
    envvar="TICKWICK_FROM",
    help="Where the range begins: ISO 8601, a date, or Unix time.  [env: TICKWICK_FROM; default: 24 hours before --to]",
)
@click.option("--to", "end", type=Time(), envvar="TICKWICK_TO", help="Where it ends.  [env: TICKWICK_TO; default: now]")
@click.option("--json", "as_json", is_flag=True, envvar="TICKWICK_JSON", help="Print JSON.  [env: TICKWICK_JSON]")
@click.option(
    "--repair", is_flag=True, envvar="TICKWICK_REPAIR", help="Mend what can be, and look again.  [env: TICKWICK_REPAIR]"
)
def doctor_command(
    symbols: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
    as_json: bool,
    repair: bool,
    **given: Any,
) -> None:
    """Check ticks, candles and what keeps them, for some instruments or all.

    --repair asks the exchange of each instrument for what is missing; --source, --url and --rest-url say where one is
    that is not at its usual address.

    Exit code 1 when something is wrong. The role tickwick_writer sees nearly all; a superuser, all. What a role may not
    see is told as unknown, which is not wrong. Candles are compared by whole UTC days.

    \b
    --json prints one object:
      state     ok, wrong or unknown: the worst of all findings
      from, to  the range; engine, role: where and as whom
      findings  a list of {check, subject, state, detail, remedy}; remedy may be null
      repairs   what --repair did, a list of {check, subject, done, detail}; the findings are then those after it
    """
    report = run(_doctor(load(given, quiet=True), symbols, start, end, repair=repair, quiet=as_json))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        show(report)
    sys.exit(1 if report.state == "wrong" else 0)


async def _doctor(
    loaded: Settings,
    symbols: Sequence[str],
    start: datetime | None,
    end: datetime | None,
    *,
    repair: bool,
    quiet: bool,
) -> "Report":
    from ingest import backfill, doctor

    async def fetch(symbol: str) -> doctor.Cure:
        try:
            filled = await backfill.fill_open(loaded, symbol, progress)
        except OperatorError as error:
            return doctor.Cure("gaps", symbol, False, str(error))
        said = f"{filled.new:,} ticks fetched, {filled.unfillable:,} do not exist, {filled.missing:,} still missing"
        return doctor.Cure("gaps", symbol, filled.missing == 0, said)

    with _status(quiet) as status:

        def progress(text: str) -> None:
            if status is not None:
                status.update(text)

        async with await db.connect(loaded.dsn, "tickwick doctor") as conn:
            with db.translated():
                examination = await doctor.examine(conn, symbols, start, end)
                report = await doctor.diagnose(examination, progress)
                return await doctor.mend(examination, report, progress, fetch) if repair else report


def _status(quiet: bool) -> AbstractContextManager[Status | None]:
    return nullcontext() if quiet or not err.is_terminal else err.status("looking")


def show(report: "Report") -> None:
    """Print a report for people."""
    table = Table(
        Column("check", no_wrap=True), Column("subject", overflow="fold"), "state", Column("details", overflow="fold")
    )
    for subject, finding in gathered(report.findings):
        details = escape(finding.detail) + (f"\n[dim]→ {escape(finding.remedy)}[/dim]" if finding.remedy else "")
        colour = _COLOURS[finding.state]
        table.add_row(finding.check, escape(subject), f"[{colour}]{finding.state}[/{colour}]", details)
    out.print(table)
    for cure in report.repairs:
        verb = "mended" if cure.done else "could not mend"
        out.print(f"{verb} {cure.check} of {cure.subject}: {cure.detail}", markup=False, soft_wrap=True)
    count = sum(finding.state == "wrong" for finding in report.findings)
    unknown = sum(finding.state == "unknown" for finding in report.findings)
    out.print(
        f"{count} wrong, {unknown} unknown, from {report.start:%Y-%m-%d %H:%M:%S}Z to {report.end:%Y-%m-%d %H:%M:%S}Z"
    )


def gathered(findings: "Sequence[Finding]") -> "list[tuple[str, Finding]]":
    """Each finding with its subject; subjects of a check of whom the same good is said share one."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.state == "ok":
            alike.setdefault((finding.check, finding.detail), []).append(finding)
    shown: list[tuple[str, Finding]] = []
    for finding in findings:
        same = alike.get((finding.check, finding.detail), []) if finding.state == "ok" else []
        if len(same) < _ALIKE:
            shown.append((finding.subject, finding))
        elif finding is same[0]:
            what = "instruments" if finding.check in _OF_INSTRUMENTS else finding.check
            shown.append((f"{len(same)} {what}", finding))
    return shown
