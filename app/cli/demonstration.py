"""`tickwick demo`."""

from pathlib import Path
from typing import Any

import click

from app.cli.console import Number, load, out, settings_options


@click.command("demo")
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
    type=Number(min=0, max=8760),
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

    options = DemoOptions(data_dir or default_data_dir(), source, fresh, history, browser, postgres_bin)
    demo(options, load(given, quiet=True), out)
