"""`tickwick simulate`."""

from pathlib import Path
from typing import Any, Final

import click
import msgspec

from app.cli.console import LOGGING, Number, load, out, run, settings_options
from app.errors import OperatorError

DEFAULT_SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC")


@click.command("simulate")
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
    type=Number(min=0, min_open=True),
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
    type=Number(min=0, min_open=True),
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
    help="Faults as name=value pairs, such as skip=0.01,duplicate=0.02,reorder=0.01,garbage=0.001,rest_failure=0.1,"
    "rest_latency_seconds=0.5,max_connection_seconds=60; POST /control changes them while it runs."
    "  [env: TICKWICK_MISBEHAVE]",
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
    """An exchange on this machine that speaks Binance's and Coinbase's websocket and REST.

    It has a market of its own, or replays a file.
    """
    from ingest.simulator import exchange as simulator
    from ingest.simulator.replay import Replay

    loaded = load(given)
    tapes = [Replay(path, speed=speed, keep_times=keep_times) for path in replays]
    chosen = symbols or (() if tapes else DEFAULT_SYMBOLS)
    exchange = simulator.Exchange(chosen, rate, seed, _misbehaviour(misbehaviour), replays=tapes)
    run(
        simulator.run(
            exchange, loaded.host, port, lambda address: out.print(f"trading at {address.ws} and {address.http}")
        )
    )


def _misbehaviour(text: str | None) -> Any:
    from ingest.simulator.misbehaviour import Misbehaviour

    try:
        pairs = dict(pair.split("=", 1) for pair in text.split(",")) if text else {}
        return msgspec.convert(pairs, Misbehaviour, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        names = ", ".join(field.name for field in msgspec.structs.fields(Misbehaviour))
        raise OperatorError(f"--misbehave takes name=value pairs of {names}: {error}") from None
