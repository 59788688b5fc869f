"""The command line. Every flag has its environment variable; a mistake gets one sentence and exit code 2."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click
import msgspec
import psycopg
import uvloop
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from app import db, settings
from app.errors import DatabaseRefused, DatabaseUnavailable, OperatorError, TickwickError
from app.settings import Settings
from app.signals import until_signal
from app.telemetry import configure_logging
from sql.engine import Engine, EngineRefused
from sql.migrate import Migration, MigrationRefused, migrate

Command = TypeVar("Command", bound=Callable[..., Any])

ROLES: Final = ("owner", "writer", "app", "reader")
MAX_REJECTIONS_SHOWN: Final = 100
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


class _Number(click.FloatRange):
    """As FloatRange, but not `nan`, which no comparison rules out, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def settings_options(*names: str) -> Callable[[Command], Command]:
    """The flags of these settings, with the help, default and environment variable that `Settings` declares."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = fields[name]
            text = next(meta.description for meta in get_args(field.type)[1:] if meta.description)
            shown = f"  [env: TICKWICK_{name.upper()}; default: {field.default if field.default != '' else 'none'}]"
            command = click.option("--" + name.replace("_", "-"), name, metavar="VALUE", help=text + shown)(command)
        return command

    return decorate


LOGGING: Final = ("log_level", "log_format")
INGEST: Final = ("source", "url", "rest_url", "instruments", "feed")


def _settings(given: dict[str, Any]) -> Settings:
    loaded = settings.load(given, os.environ)
    configure_logging(loaded)
    return loaded


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tickwick")
def cli() -> None:
    """Ticks in, wicks out: every price tick in TimescaleDB, candles, and a live feed, behind one address.

    Start with `tickwick demo`. For a database of your own: `tickwick migrate`, then `tickwick ingest` and
    `tickwick serve`, each as often as you like.
    """


@cli.command("migrate")
@settings_options("dsn", *LOGGING)
@click.option("--dry-run", is_flag=True, envvar="TICKWICK_DRY_RUN", help="Say what would be done, and do nothing.")
@click.option(
    "--engine",
    type=click.Choice([engine.value for engine in Engine]),
    envvar="TICKWICK_ENGINE",
    help="The storage engine, instead of the best one that the server offers.  [env: TICKWICK_ENGINE]",
)
def migrate_command(dry_run: bool, engine: str | None, **given: Any) -> None:
    """Bring the database up to date.

    Chooses the storage engine on the first run and records it. Sets the passwords of the roles tickwick_owner,
    tickwick_writer, tickwick_app and tickwick_reader where TICKWICK_OWNER_PASSWORD and so on are given.
    """
    chosen = Engine(engine) if engine else None
    dsn = db.conninfo(_settings(given).dsn, "tickwick migrate")
    with _connection(dsn) as conn:
        outcome = migrate(
            conn, wanted=chosen, dry_run=dry_run, progress=lambda m: _out.print(f"  {m.number:04} {m.name}")
        )
        if not dry_run:
            set_passwords(conn)
    _out.print(f"engine {outcome.engine}: {outcome.reason}")
    if dry_run:
        for migration in outcome.applied:
            _out.print(f"  would apply {_name(migration)}")
    _out.print(f"{len(outcome.applied)} migrations {'would be' if dry_run else 'were'} applied")


def _name(migration: Migration) -> str:
    return f"{migration.number:04} {migration.name}"


def set_passwords(conn: psycopg.Connection[Any]) -> None:
    """Give the roles the passwords that the environment names; the server sees them only as SCRAM verifiers."""
    for role in ROLES:
        password = os.environ.get(f"TICKWICK_{role.upper()}_PASSWORD")
        if password:
            name = f"tickwick_{role}"
            verifier = conn.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
            query = psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                psycopg.sql.Identifier(name), psycopg.sql.Literal(verifier)
            )
            conn.execute(query)


@contextlib.contextmanager
def _connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with db.translated(), psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@cli.command("serve")
@settings_options(
    "dsn", "host", "port", "pool_size", "max_clients", "stream_flush_ms", "heartbeat_s", "outbox_bytes", *LOGGING
)
def serve_command(**given: Any) -> None:
    """Serve REST, the live stream, the page and the API docs."""
    from app.main import serve  # slow to import, and the other commands need no web framework

    _run(serve(_settings(given), lambda address: _out.print(f"serving {address}")))


@cli.command("ingest")
@settings_options("dsn", *INGEST, "flush_ms", "flush_ticks", "buffer_ticks", "host", "metrics_port", *LOGGING)
def ingest_command(**given: Any) -> None:
    """Take ticks from an exchange into the database.

    A second process for the same instruments waits as a hot standby.
    """
    from ingest.service import run

    _run(until_signal(run(_settings(given), lambda symbols: _out.print(f"ingesting {', '.join(symbols)}"))))


@cli.command("import")
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
    loaded = _settings(given)
    sys.exit(_run(_import(loaded, files, instrument, layout, strict=strict)))


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
            _err.print(f"{place}:{rejected.line}: {rejected.field}: {rejected.reason}", markup=False, soft_wrap=True)

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
        _err.print(f"… and {shown - MAX_REJECTIONS_SHOWN} more rejected rows")
    table = Table(Column("file", overflow="fold"), "instrument", "new", "duplicate", "rejected")
    for report in reports:
        table.add_row(
            report.path.name, report.symbol, f"{report.new:,}", f"{report.duplicate:,}", f"{report.rejected:,}"
        )
    _out.print(table)
    if stopped:
        _err.print(f"tickwick: {stopped}", markup=False, soft_wrap=True)
    return 1 if stopped or any(report.rejected for report in reports) else 0


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=_err, transient=True)


@cli.command("simulate")
@settings_options("host", *LOGGING)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9443,
    show_default=True,
    envvar="TICKWICK_SIMULATOR_PORT",
    help="Port to listen on.  [env: TICKWICK_SIMULATOR_PORT]",
)
@click.option(
    "--symbol",
    "symbols",
    multiple=True,
    envvar="TICKWICK_SYMBOLS",
    help="A symbol to trade; give it several times.  [env: TICKWICK_SYMBOLS; default: BTCUSDT ETHUSDT SOLUSDT XRPUSDC]",
)
@click.option(
    "--rate",
    type=_Number(min=0, min_open=True),
    default=5.0,
    show_default=True,
    envvar="TICKWICK_RATE",
    help="Trades a second, of each symbol.  [env: TICKWICK_RATE]",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    envvar="TICKWICK_SEED",
    help="The same seed is the same market.  [env: TICKWICK_SEED]",
)
@click.option(
    "--replay",
    "replays",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="TICKWICK_REPLAY",
    help="A Binance dump to trade instead; give it several times.  [env: TICKWICK_REPLAY]",
)
@click.option(
    "--speed",
    type=_Number(min=0, min_open=True),
    default=1.0,
    show_default=True,
    envvar="TICKWICK_SPEED",
    help="How much faster than it happened.  [env: TICKWICK_SPEED]",
)
@click.option(
    "--keep-times",
    is_flag=True,
    envvar="TICKWICK_KEEP_TIMES",
    help="Send a replay's own times instead of today's.  [env: TICKWICK_KEEP_TIMES]",
)
@click.option(
    "--misbehave",
    "misbehaviour",
    envvar="TICKWICK_MISBEHAVE",
    help="Faults as name=value pairs, such as skip=0.01,duplicate=0.02,reorder=0.01,garbage=0.001,"
    "max_connection_seconds=60; POST /control changes them while it runs.  [env: TICKWICK_MISBEHAVE]",
)
def simulate_command(
    port: int,
    symbols: tuple[str, ...],
    rate: float,
    seed: int,
    replays: tuple[Path, ...],
    speed: float,
    keep_times: bool,
    misbehaviour: str | None,
    **given: Any,
) -> None:
    """An exchange on this machine that speaks Binance's websocket and REST, with a market of its own or a replay."""
    from ingest.simulator import exchange as simulator
    from ingest.simulator.replay import Replay

    loaded = _settings(given)
    tapes = [Replay(path, speed=speed, keep_times=keep_times) for path in replays]
    chosen = symbols or (() if tapes else DEFAULT_SYMBOLS)
    exchange = simulator.Exchange(chosen, rate, seed, _misbehaviour(misbehaviour), replays=tapes)
    _run(
        simulator.run(
            exchange, loaded.host, port, lambda address: _out.print(f"trading at {address.ws} and {address.http}")
        )
    )


DEFAULT_SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC")


def _misbehaviour(text: str | None) -> Any:
    from ingest.simulator.misbehaviour import Misbehaviour

    try:
        pairs = dict(pair.split("=", 1) for pair in text.split(",")) if text else {}
        return msgspec.convert(pairs, Misbehaviour, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        names = ", ".join(field.name for field in msgspec.structs.fields(Misbehaviour))
        raise OperatorError(f"--misbehave takes name=value pairs of {names}: {error}") from None


@cli.command("demo")
@settings_options("port", "log_level")
@click.option(
    "--source",
    type=click.Choice(["simulator", "binance"]),
    default="simulator",
    show_default=True,
    envvar="TICKWICK_DEMO_SOURCE",
    help="The market: simulated, or Binance itself.  [env: TICKWICK_DEMO_SOURCE]",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TICKWICK_DATA_DIR",
    help="Where the database lives.  [env: TICKWICK_DATA_DIR; default: your data directory]",
)
@click.option(
    "--fresh", is_flag=True, envvar="TICKWICK_FRESH", help="Begin with an empty database.  [env: TICKWICK_FRESH]"
)
@click.option(
    "--history",
    type=_Number(min=0, max=8760),
    default=4.0,
    show_default=True,
    envvar="TICKWICK_HISTORY",
    help="Hours of simulated history to begin with.  [env: TICKWICK_HISTORY]",
)
@click.option(
    "--browser/--no-browser", default=True, envvar="TICKWICK_BROWSER", help="Open the page.  [env: TICKWICK_BROWSER]"
)
@click.option(
    "--postgres-bin",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="TICKWICK_POSTGRES_BIN",
    help="Programs of the PostgreSQL to run on.  [env: TICKWICK_POSTGRES_BIN]",
)
def demo_command(
    source: str,
    data_dir: Path | None,
    fresh: bool,
    history: float,
    browser: bool,
    postgres_bin: Path | None,
    **given: Any,
) -> None:
    """Everything on this machine: a database, an exchange, ingest, and the page with moving candles.

    Runs on a local PostgreSQL with TimescaleDB where there is one, else on the PostgreSQL that comes with
    `tickwick[demo]`. Data is kept between runs.
    """
    from app.demo import DemoOptions, default_data_dir, demo

    loaded = settings.load(given, os.environ)
    if given["log_level"] is None and "TICKWICK_LOG_LEVEL" not in os.environ:
        loaded = msgspec.structs.replace(loaded, log_level="error")
    configure_logging(loaded)
    demo(DemoOptions(data_dir or default_data_dir(), source, fresh, history, browser, postgres_bin), loaded, _out)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)


def main() -> None:
    """The entry point: our own errors are one sentence on standard error and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        hint = f"; see `{error.ctx.command_path} --help`" if isinstance(error, click.UsageError) and error.ctx else ""
        _err.print(f"tickwick: {error.format_message().rstrip('.')}{hint}", markup=False, soft_wrap=True)
        sys.exit(2)
    except (OperatorError, EngineRefused, MigrationRefused, DatabaseUnavailable, DatabaseRefused) as error:
        _err.print(f"tickwick: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except TickwickError as error:
        _err.print(f"tickwick: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
