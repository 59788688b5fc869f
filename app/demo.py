"""Everything on one machine: database, market, ingest and server, in one process, until Ctrl-C."""

import asyncio
import os
import sys
import time
import webbrowser
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import platformdirs
import psycopg
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app import db
from app.embedded import Server, find_installation
from app.errors import OperatorError
from app.main import bind, serve_on
from app.market.model import Instrument, Tick
from app.settings import Settings
from ingest import gaps, instruments
from ingest.copy import TickTable
from ingest.gaps import Piece
from ingest.instruments import Listing
from ingest.refresher import Refresher
from ingest.sequence import Sequence
from ingest.service import run as ingest
from ingest.simulator.exchange import Exchange
from ingest.simulator.market import Market
from ingest.simulator.tape import history
from sql.migrate import Outcome, migrate

DATABASE: Final = "tickwick"
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC")
RATE: Final = 5.0
SEED: Final = 1
BATCH: Final = 10_000
LATEST: Final = "SELECT * FROM market.candles WHERE interval = '1m' ORDER BY time DESC LIMIT 5"


class DemoOptions(NamedTuple):
    data_dir: Path
    source: str
    fresh: bool
    history_hours: float
    browser: bool
    postgres_bin: Path | None


def default_data_dir() -> Path:
    """Where the demo keeps its database. As root not below root's home, which the server's own user could not enter."""
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/tickwick/demo")
    return Path(platformdirs.user_data_dir("tickwick", appauthor=False)) / "demo"


def demo(options: DemoOptions, settings: Settings, out: Console) -> None:
    """Run until a signal, and stop everything within 5 s. Raises OperatorError where something cannot start."""
    started = time.monotonic()
    listening = bind(settings.host, settings.port)
    server = Server(find_installation(options.postgres_bin), options.data_dir)
    if options.fresh:
        server.discard()
    with server:
        outcome = _migrate(server)
        out.print(
            f"[bold]{server.installation.describe()}[/], engine {outcome.engine}, data in {options.data_dir}",
            soft_wrap=True,
        )
        uvloop.run(_Demo(options, settings, server, outcome, out, started).run(listening))


def _migrate(server: Server) -> Outcome:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        if not conn.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchall():
            conn.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(DATABASE)))
    with psycopg.connect(server.dsn(DATABASE), autocommit=True) as conn:
        return migrate(conn)


class _Demo:
    def __init__(
        self, options: DemoOptions, settings: Settings, server: Server, outcome: Outcome, out: Console, started: float
    ) -> None:
        self._options = options
        self._server = server
        self._outcome = outcome
        self._out = out
        self._started = started
        self._writer_dsn = server.dsn(DATABASE, "tickwick_writer")
        self._serving = msgspec.structs.replace(settings, dsn=server.dsn(DATABASE, "tickwick_app"))
        self._ingesting = msgspec.structs.replace(
            settings,
            dsn=self._writer_dsn,
            instruments=",".join(SYMBOLS),
            spool_dir=settings.spool_dir or str(options.data_dir / "spool"),
        )

    async def run(self, listening: Any) -> None:
        async with AsyncExitStack() as stack:
            if self._options.source == "simulator":
                exchange = Exchange(SYMBOLS, RATE, SEED)
                address = await stack.enter_async_context(exchange.serve())
                self._ingesting = msgspec.structs.replace(self._ingesting, source="simulator", url=address.ws)
                await self._import_history(exchange)
            ingesting = asyncio.create_task(ingest(self._ingesting), name="ingest")
            serving = asyncio.create_task(serve_on(listening, self._serving, self._welcome), name="serve")
            watching = asyncio.create_task(self._watch_database(), name="database watch")
            # The server stops by signal; whichever ends, ends the others.
            await asyncio.wait({ingesting, serving, watching}, return_when=asyncio.FIRST_COMPLETED)
            tasks = (watching, ingesting, serving)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        self._check_database()  # first: whatever else failed may have failed for want of it
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _import_history(self, exchange: Exchange) -> None:
        """Store what the exchange has traded up to now: the last hours, or since the demo last ran if that is less."""
        listed = [exchange.tape(symbol).listing for symbol in SYMBOLS]
        listings = {each.symbol: Listing(each.base, each.quote, each.tick_places) for each in listed}
        async with await db.connect(self._writer_dsn, "tickwick demo") as conn:
            found = await instruments.ensure(conn, "SIM", listings, "trade", contiguous_ids=True)
            last = await instruments.last_stored(conn, [each.id for each in found])
            spans = {instrument: self._span(exchange, instrument, last[instrument.id]) for instrument in found}
            total = sum(end - start for start, end in spans.values())
            table, sequence = TickTable(conn), Sequence(last)
            with Progress(
                TextColumn("history"), BarColumn(), MofNCompleteColumn(), console=self._out, transient=True
            ) as progress:
                task = progress.add_task("history", total=total)
                for instrument, (start, end) in spans.items():
                    market = Market(instrument.ticker, RATE, SEED)
                    for batch in _batches(history(market, instrument.id, start, end)):
                        holes, _ = sequence.observe(batch)
                        await table.write(batch, quiet=True, holes=holes)
                        async with conn.transaction():
                            for hole in holes:
                                await gaps.replace(conn, hole, [Piece(hole, "unfillable", "the demo did not run")])
                        progress.advance(task, len(batch))
        async with await db.connect(self._writer_dsn, "tickwick demo") as conn:
            await Refresher(conn, self._outcome.engine).settle()

    async def _watch_database(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._check_database()

    def _check_database(self) -> None:
        if not self._server.running:
            raise OperatorError(f"the demo's database ended by itself; its log is {self._server.log_file}")

    def _span(self, exchange: Exchange, instrument: Instrument, last: tuple[int, int] | None) -> tuple[int, int]:
        end = exchange.next_id(instrument.ticker)
        start = max(1, end - int(timedelta(hours=self._options.history_hours).total_seconds() * RATE))
        return max(start, last[0] + 1 if last else 1), end

    def _welcome(self, address: str) -> None:
        seconds = time.monotonic() - self._started
        first = f"{'SIM' if self._options.source == 'simulator' else 'BINANCE'}:{SYMBOLS[0]}"
        subscribe = f'{{"op":"subscribe","channel":"trades","symbols":["{first}"]}}'
        ws = address.replace("http", "ws", 1)
        python = sys.executable
        self._out.print(f"\n[bold green]Tickwick is up[/] after {seconds:.1f} s\n")
        for line in (
            f"  page         {address}/",
            f"  API docs     {address}/schema",
            f"  as Binance   {address}/api/v3, {ws}/ws, {ws}/stream",
            f"  TradingView  {address}/udf",
            f"  metrics      {address}/metrics\n",
        ):
            self._out.print(line, soft_wrap=True)
        self._out.print("Try:\n", soft_wrap=True)
        for line in (
            f"  curl '{address}/api/v1/candles/{first}?interval=1m&limit=3'",
            f"  (echo '{subscribe}'; sleep 5) | {python} -m websockets {ws}/api/v1/stream",
            f'  {self._server.psql_command(DATABASE)} -c "{LATEST}"',
            f"  {python} -m app doctor --dsn '{self._server.dsn(DATABASE)}'",
        ):
            self._out.print(line, markup=False, soft_wrap=True)
        self._out.print("\nCtrl-C stops everything; the data is kept.")
        if self._options.browser:
            webbrowser.open(address)


def _batches(ticks: Iterable[Tick]) -> Iterator[list[Tick]]:
    source = iter(ticks)
    while batch := [*islice(source, BATCH)]:
        yield batch
