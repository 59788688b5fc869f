"""The command line. Every flag has its environment variable; a mistake gets one sentence and exit code 2."""

import sys

import click

from app.cli.console import err
from app.cli.database import migrate_command
from app.cli.demonstration import demo_command
from app.cli.diagnosis import doctor_command
from app.cli.ingestion import backfill_command, import_command, ingest_command
from app.cli.serving import serve_command
from app.cli.simulation import simulate_command
from app.errors import DatabaseRefused, DatabaseUnavailable, OperatorError, TickwickError
from sql.engine import EngineRefused
from sql.migrate import MigrationRefused

COMMANDS = (
    migrate_command,
    serve_command,
    ingest_command,
    import_command,
    backfill_command,
    doctor_command,
    simulate_command,
    demo_command,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tickwick")
def cli() -> None:
    """Ticks in, wicks out: every price tick in TimescaleDB, candles, and a live feed, behind one address.

    Start with `tickwick demo`. For a database of your own: `tickwick migrate`, then `tickwick ingest` and
    `tickwick serve`, each as often as you like.
    """


for command in COMMANDS:
    cli.add_command(command)


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
        err.print(f"tickwick: {error.format_message().rstrip('.')}{hint}", markup=False, soft_wrap=True)
        sys.exit(2)
    except (OperatorError, EngineRefused, MigrationRefused, DatabaseUnavailable, DatabaseRefused) as error:
        err.print(f"tickwick: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except TickwickError as error:
        err.print(f"tickwick: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
