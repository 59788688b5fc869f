"""Prints the table. `python -m tests.bench [ingest latency fanout stall candles binance …]` runs some of it."""

import sys

from rich.console import Console
from rich.table import Table

from tests.bench import binance, candles, fanout, ingest, latency, recovery, spool, stall
from tests.bench.harness import database

PARTS = {
    "ingest": ingest,
    "latency": latency,
    "fanout": fanout,
    "stall": stall,
    "candles": candles,
    "binance": binance,
    "recovery": recovery,
    "spool": spool,
}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    out = Console(highlight=False, width=180)
    table = Table("figure", "ours", "control", "ratio", "goal")
    with database() as db:
        out.print(f"{db.description}, engine {db.engine}")
        for name in wanted:
            with out.status(name):
                for figure in PARTS[name].figures(db):
                    table.add_row(*figure)
    out.print(table)


main()
