"""`tickwick ingest`, `import` and `backfill`: the ways of ticks into the database."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from app.cli.console import LOGGING, err, load, out, run, settings_options
from app.errors import InvalidParameter
from app.market.parameters import time_of
from app.settings import Settings
from app.signals import until_signal

MAX_REJECTIONS_SHOWN: Final = 100
INGEST: Final = ("source", "url", "rest_url", "instruments", "feed")
WRITING: Final = ("flush_ms", "flush_ticks", "buffer_ticks", "spool_dir", "spool_bytes")


@click.command("ingest")
@settings_options("dsn", *INGEST, "api_key", "poll_seconds", *WRITING, "host", "metrics_port", *LOGGING)
def ingest_command(**given: Any) -> None:
    """Take ticks from an exchange into the database.

    Several processes for one exchange share its instruments evenly, and take over from one that dies. What is tracked
    is what the database says: --instruments adds to it, `SELECT market.untrack('BINANCE:BTCUSDT')` takes away.
    """
    from ingest import service

    run(until_signal(service.run(load(given), lambda symbols: out.print(f"ingesting {', '.join(symbols)}"))))


@click.command("import")
@settings_options("dsn", *LOGGING)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--instrument",
    envvar="TICKWICK_INSTRUMENT",
    help="SOURCE:TICKER, where the file's name does not tell it.  [env: TICKWICK_INSTRUMENT]",
)
@click.option(
    "--layout",
    type=click.Choice(["trades", "aggTrades", "plain"]),
    envvar="TICKWICK_LAYOUT",
    help="The files' layout, where neither name nor content tells it.  [env: TICKWICK_LAYOUT]",
)
@click.option(
    "--strict",
    is_flag=True,
    envvar="TICKWICK_STRICT",
    help="Stop at the first bad row, leaving nothing of its file.  [env: TICKWICK_STRICT]",
)
def import_command(files: tuple[Path, ...], instrument: str | None, layout: Any, strict: bool, **given: Any) -> None:
    """Import files of trades: Binance's daily dumps (CSV or ZIP), or CSV with a header.

    A dump's name, such as XRPETH-aggTrades-2019-10-11.csv, tells instrument and layout. Exit code 1 when rows were
    rejected: each is reported with its line, field and reason, and the rest is imported; or, with --strict, nothing of
    its file and none of the files after it.
    """
    loaded = load(given)
    sys.exit(run(_import(loaded, files, instrument, layout, strict=strict)))


async def _import(
    loaded: Settings, files: tuple[Path, ...], instrument: str | None, layout: Any, *, strict: bool
) -> int:
    from ingest import archive
    from ingest.load import FileReport, Importer, StrictRejection

    shown = 0

    def reject(path: Path, rejected: archive.Rejected) -> None:
        nonlocal shown
        shown += 1
        if shown <= MAX_REJECTIONS_SHOWN:
            place = f"{path}:{rejected.member}" if rejected.member else str(path)
            err.print(f"{place}:{rejected.line}: {rejected.field}: {rejected.reason}", markup=False, soft_wrap=True)

    reports: list[FileReport] = []
    stopped: StrictRejection | None = None
    with _progress() as progress:
        task = progress.add_task("importing", total=sum(archive.size(path) for path in files))
        importer = Importer(loaded.dsn, progress=lambda read: progress.advance(task, read), reject=reject)
        try:
            for path in files:
                progress.update(task, description=path.name)
                reports.append(await importer.load(path, instrument, layout, strict=strict))
        except StrictRejection as error:
            stopped = error
        finally:
            if reports:
                progress.update(task, description="refreshing candles")
                await importer.settle()
    if shown > MAX_REJECTIONS_SHOWN:
        err.print(f"… and {shown - MAX_REJECTIONS_SHOWN} more rejected rows")
    table = Table(Column("file", overflow="fold"), "instrument", "new", "duplicate", "rejected")
    for report in reports:
        table.add_row(
            report.path.name, report.symbol, f"{report.new:,}", f"{report.duplicate:,}", f"{report.rejected:,}"
        )
    out.print(table)
    if stopped:
        err.print(f"tickwick: {stopped}", markup=False, soft_wrap=True)
    return 1 if stopped or any(report.rejected for report in reports) else 0


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True)


@click.command("backfill")
@settings_options("dsn", "source", "url", "rest_url", "feed", *LOGGING)
@click.argument("symbol")
@click.option(
    "--from",
    "start",
    required=True,
    metavar="TIME",
    envvar="TICKWICK_FROM",
    help="Where to begin: a date, ISO 8601 with an offset, or Unix time.  [env: TICKWICK_FROM]",
)
@click.option(
    "--to",
    "end",
    metavar="TIME",
    envvar="TICKWICK_TO",
    help="Where to end, itself left out; now where it is not given.  [env: TICKWICK_TO]",
)
def backfill_command(symbol: str, start: str, end: str | None, **given: Any) -> None:
    """Fetch the trades of an instrument that are missing between two times, such as BINANCE:BTCUSDT.

    The exchange is that of the symbol; addresses hold for it where --source names it. What is there already is not
    fetched again: after Ctrl-C or a failure the same command goes on where it stopped. Exit code 1 when trades stayed
    missing.
    """
    loaded = load(given, quiet=True)
    source, separator, ticker = symbol.upper().partition(":")
    if not (source and separator and ticker):
        raise click.UsageError(f"{symbol!r} is not SOURCE:TICKER, such as BINANCE:BTCUSDT")
    now = datetime.now(UTC)
    begin, until = _time("--from", start, now), min(now, _time("--to", end, now))
    if begin >= until:
        raise click.UsageError("--from is not before --to" if end else "--from is not in the past")
    sys.exit(run(_backfill(loaded, f"{source}:{ticker}", begin, until)))


def _time(option: str, text: str | None, default: datetime) -> datetime:
    try:
        return time_of(option, text, default)
    except InvalidParameter as error:
        raise click.UsageError(str(error)) from None


async def _backfill(loaded: Settings, symbol: str, start: datetime, end: datetime) -> int:
    from ingest import backfill

    report: backfill.Report | None = None
    started = time.monotonic()

    async def work(progress: Progress) -> None:
        nonlocal report
        task = progress.add_task(symbol, total=None)
        report = await backfill.backfill(
            loaded,
            symbol,
            start,
            end,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            say=lambda text: progress.update(task, description=text),
        )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        await until_signal(work(progress))
    if report is None:
        err.print("stopped: what was fetched is stored, and the same command goes on from there")
        return 130
    table = Table("instrument", "new", "already there", "unfillable", "missing", "seconds")
    counts = (report.new, report.there, report.unfillable, report.missing)
    table.add_row(symbol, *(f"{count:,}" for count in counts), f"{time.monotonic() - started:.1f}")
    out.print(table)
    return 1 if report.missing else 0
