"""The whole product in real processes: an exchange, ingesters, servers, and clients that follow; and one verdict."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
import pytest

from app.embedded import Server
from app.installations import timescaledb_installation
from sql.engine import Engine
from sql.migrate import migrate
from tests.chaos import truth as truths
from tests.chaos.equipment import Burden, burden, eased
from tests.chaos.patience import PatientRest
from tests.chaos.processes import Process, Processes, processes, until
from tests.chaos.sockets import lasting_port
from tests.chaos.truth import Follower, Truth
from tests.databases import Database, Databases

TICKERS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
RATE: Final = 150.0
PROMISED_SECONDS: Final = 5.0
"""Within which the product promises to have recovered; measured here, and not asserted: the machine may be busy."""
PATIENCE_SECONDS: Final = 30.0
AHEAD: Final = 0.2
"""Seconds. What came before a fault must not pass for recovery from it."""
MORE: Final = Burden(rss=64.0, fds=16, tasks=8)
"""What a process may hold beyond what it held before the faults: buffers that grew once, pools at their bound."""


@dataclass
class Measured:
    """How long recoveries took, in seconds, by scenario."""

    recoveries: dict[str, list[float]] = field(default_factory=dict)

    def note(self, scenario: str, seconds: float) -> None:
        self.recoveries.setdefault(scenario, []).append(seconds)


@dataclass
class System:
    """Everything that runs in one scenario."""

    name: str
    database: Database
    server: Server | None
    """The database's own, which the scenario may break."""
    truth: Truth
    group: Processes
    exchange: Process
    exchange_http: str
    ingesters: list[Process]
    web: Process
    web_port: int
    followers: list[Follower]
    session: aiohttp.ClientSession
    measured: Measured
    before: dict[str, tuple[int, Burden]] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """What followers saw that must not be."""
        return [each for follower in self.followers for each in follower.wrong[:5]]

    async def order(self, **orders: Any) -> dict[str, Any]:
        """Tell the exchange what to do wrong."""
        async with self.session.post(f"{self.exchange_http}/control", json=orders) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def flowing(self, more: int = 100) -> None:
        """Wait until clients have been told of so many more trades."""
        wanted = sum(follower.trades for follower in self.followers) + more * len(self.followers)
        await until(lambda: sum(follower.trades for follower in self.followers) >= wanted, "trades flow")

    async def traded(self, more: int) -> None:
        """Wait until the exchange has traded so much more of each symbol, whether or not anybody was told."""
        wanted = {symbol: last_id + more for symbol, last_id in self.truth.last_ids().items()}
        await until(lambda: all(i >= wanted[s] for s, i in self.truth.last_ids().items()), f"{more} trades", 60)

    async def elapsed(self, seconds: float) -> None:
        """Let a fault last."""
        await asyncio.sleep(seconds)

    async def recovered(self, within: float = PATIENCE_SECONDS) -> float:
        """Wait until all that is traded up to AHEAD from now is stored, whole and settled, and told to the followers.

        Answers how many seconds that took, and notes it.
        """
        wanted, began = self.truth.last_ids(AHEAD), time.monotonic()
        while (problem := await self._behind(wanted)) is not None:
            assert not self.wrong, self.wrong
            assert time.monotonic() < began + within, f"not recovered: {problem}"
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        self.measured.note(self.name, took)
        return took

    async def _behind(self, wanted: dict[str, int]) -> str | None:
        try:
            held = await asyncio.to_thread(truths.held, self.database)
            unsettled = await asyncio.to_thread(truths.unsettled, self.database)
        except psycopg.OperationalError as error:
            return str(error)
        for symbol, last_id in wanted.items():
            if symbol not in held or held[symbol].last_id < last_id or not held[symbol].whole:
                return f"{symbol} {held.get(symbol)}, wanted up to {last_id}; unsettled: {unsettled[:5]}"
            for follower in self.followers:
                if follower.last.get(symbol, -1) < last_id:
                    return f"a follower is at {follower.last.get(symbol)} of {symbol}, wanted {last_id}"
        return f"unsettled: {unsettled[:5]}" if unsettled else None

    async def weigh(self) -> None:
        """Note what each process holds; a process that is started anew is not compared."""
        for process in (*self.ingesters, self.web):
            self.before[process.name] = process.pid, await burden(self.session, process)

    async def verdict(self) -> None:
        """After the last recovery: what was taken is let go; then, with ingest at rest, all against the truth."""
        await self._check_burdens()
        # All at once: none may take over what another has left, and be ended with that gap open.
        codes = await asyncio.gather(*(ingester.terminate() for ingester in self.ingesters))
        assert not any(codes), codes
        found = await asyncio.to_thread(truths.stored, self.database)
        sent = await asyncio.to_thread(truths.check_ticks, self.truth, found)
        unsettled = truths.unsettled(self.database)
        assert not unsettled, unsettled
        await asyncio.to_thread(truths.check_candles, self.database, sent)
        await truths.check_rest(PatientRest(self.web_port), sent)
        last = {symbol: ticks[-1].trade_id for symbol, ticks in sent.items()}
        await until(lambda: all(follower.last == last for follower in self.followers), "followers are told of all", 10)
        assert not self.wrong, self.wrong

    async def _check_burdens(self) -> None:
        for process in (*self.ingesters, self.web):
            pid, before = self.before[process.name]
            if process.pid == pid:
                await eased(self.session, process, before, MORE)


def start_ingest(group: Processes, name: str, dsn: str, url: str, tickers: Sequence[str]) -> Process:
    """An ingester of a simulated exchange, which serves metrics."""
    port = lasting_port()
    options = "--source", "simulator", "--url", url, "--instruments", ",".join(tickers), "--metrics-port", str(port)
    process = group.start(name, "ingest", "--dsn", dsn, *options)
    process.metrics_at = f"http://127.0.0.1:{port}"
    return process


def start_serve(group: Processes, name: str, dsn: str, port: int, *options: str) -> Process:
    process = group.start(name, "serve", "--dsn", dsn, "--port", str(port), *options)
    process.metrics_at = f"http://127.0.0.1:{port}"
    return process


@asynccontextmanager
async def own_server(databases: Databases, engine: Engine) -> AsyncIterator[tuple[Server, Database]]:
    """A PostgreSQL server for one test, and a migrated database on it; may be killed: its commits are synchronous."""
    if engine is not Engine.POSTGRES and timescaledb_installation() is None:
        pytest.skip(f"{engine} is at hand on a server alone that others may use: it is not to be broken")
    with databases.fresh_server(engine) as server:
        databases.used.add(engine)
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET synchronous_commit = on")
            conn.execute("SELECT pg_reload_conf()")
            conn.execute("CREATE DATABASE chaos")
        with psycopg.connect(server.dsn("chaos"), autocommit=True) as conn:
            migrate(conn, wanted=engine)
        roles = [server.dsn("chaos", f"tickwick_{role}") for role in ("owner", "writer", "app", "reader")]
        yield server, Database(engine, server.dsn("chaos"), *roles)


@asynccontextmanager
async def running(
    name: str,
    folder: Path,
    database: Database,
    measured: Measured,
    *,
    server: Server | None = None,
    tickers: Sequence[str] = TICKERS,
    rate: float = RATE,
    seed: int = 1,
    ingesters: int = 1,
    supervised: bool = True,
    writer_dsn: str | None = None,
    app_dsn: str | None = None,
    followers: int = 1,
    misbehave: str = "",
) -> AsyncIterator[System]:
    """Everything up, followed and flowing; `writer_dsn` and `app_dsn` lead ingest and serve another way."""
    async with processes(folder) as group, aiohttp.ClientSession() as session:
        symbols = [argument for ticker in tickers for argument in ("--symbol", ticker)]
        options = ("--misbehave", misbehave) if misbehave else ()
        exchange = group.start(
            "exchange",
            "simulate",
            *("--port", str(lasting_port()), "--rate", str(rate), "--seed", str(seed)),
            *symbols,
            *options,
        )
        ws = await exchange.printed(r"trading at (\S+)")
        http = ws.replace("ws", "http", 1)
        taking = [
            start_ingest(group, f"ingest{number}", writer_dsn or database.writer, ws, tickers)
            for number in range(1, ingesters + 1)
        ]
        truth, port = Truth(tickers, rate, seed), lasting_port()
        web = start_serve(group, "serve", app_dsn or database.app, port)
        await web.printed(r"serving (\S+)")
        await until(lambda: _begun(database, truth, taking), "every instrument has ticks")
        for process in (*taking, web):
            process.supervised = supervised
        clients = [Follower(truth) for _ in range(followers)]
        following = [asyncio.create_task(c.run(f"ws://127.0.0.1:{port}/api/v1/stream")) for c in clients]
        system = System(
            name, database, server, truth, group, exchange, http, taking, web, port, clients, session, measured
        )
        try:
            await system.flowing()
            await system.weigh()
            yield system
        finally:
            for task in following:
                task.cancel()
            ended = await asyncio.gather(*following, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error


def _begun(database: Database, truth: Truth, ingesters: list[Process]) -> bool:
    for ingester in ingesters:
        assert ingester.alive, f"{ingester.name} has ended"
    return set(truths.held(database)) == set(truth.symbols)
