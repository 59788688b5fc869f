"""The stage of the soak: everything there is, several of each, and a proxy on every way between them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg

from app.embedded import Server
from app.market.model import Tick
from ingest.simulator.void import Span
from sql.engine import Engine
from tests.chaos import truth as truths
from tests.chaos.audience import Audience
from tests.chaos.equipment import Burden, burden, eased
from tests.chaos.patience import PatientRest
from tests.chaos.processes import Process, Processes, processes, until
from tests.chaos.proxy import Proxy, proxying, proxying_database, through
from tests.chaos.sockets import lasting_port
from tests.chaos.system import own_server, start_ingest, start_serve
from tests.chaos.truth import Follower, Truth
from tests.databases import Database, Databases
from tests.integration.reckoning import reckon

TICKERS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDC", "DOGEUSDC", "SUIUSDC")
RATE: Final = 50.0
INGESTERS: Final = 3
SERVERS: Final = 2
LOOK_SECONDS: Final = 0.1
MOST_CANDLES: Final = 5_000
READING: Final = 15
WAYWARD: Final = 8
SMALL_BUFFER: Final = 16_384
"""Of the wayward, lest the kernel take all that a server sends them while they do not read."""
MORE: Final = Burden(rss=96.0, fds=32, tasks=16)
"""What a process may hold at the end beyond what it held when all were there and nothing had happened yet."""
STILL_SECONDS: Final = 1.0
"""Longer than a tick is on its way, when nothing is wrong."""
RECOVERY_SECONDS: Final = 60.0
"""Not the promise, which is a twelfth of it: beyond this it is taken to be stuck."""


class LivelyTruth(Truth):
    """What an exchange trades that leaves out ids, and whose clock is set; `void` may be added to while it trades."""

    def __init__(self, tickers: tuple[str, ...], rate: float, seed: int) -> None:
        super().__init__(tickers, rate, seed)
        self.void: dict[str, list[Span]] = {}

    def leave_out(self, symbol: str, span: Span) -> None:
        self.void.setdefault(symbol, []).append(span)
        self.tapes[symbol].void = self.void[symbol]

    def left_out(self, symbol: str, from_id: int, to_id: int) -> int:
        """How many ids between two, both inclusive, were never given."""
        return sum(max(0, min(last, to_id) - max(first, from_id) + 1) for first, last in self.void.get(symbol, ()))


@dataclass
class Stage:
    """What the soak plays on. The exchange is told again what it forgot when it was killed."""

    database: Database
    server: Server
    truth: LivelyTruth
    group: Processes
    exchange: Process
    exchange_http: str
    ingesters: list[Process]
    webs: list[Process]
    web_ports: list[int]
    writers: Proxy
    """Between the ingesters and the database."""
    readers: Proxy
    """Between the servers and the database."""
    venue: Proxy
    """Between the ingesters and the exchange."""
    followers: list[Follower]
    readers_of: list[Audience]
    """Clients who read all along, for each server."""
    wayward: list[Audience]
    """Clients who stop reading, or vanish, for each server."""
    session: aiohttp.ClientSession
    ahead: float = 0.0
    orders: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Burden] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """What followers saw that must not be."""
        return [each for follower in self.followers for each in follower.wrong[:5]]

    async def order(self, **orders: Any) -> dict[str, Any]:
        """Tell the exchange what to do wrong; answers its state."""
        async with self.session.post(f"{self.exchange_http}/control", json=orders) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def misbehave(self, **wrong: Any) -> None:
        """Have the exchange behave like this, from now on and when it comes back."""
        self.orders |= wrong
        await self.order(**wrong)

    async def set_clock(self, seconds: float) -> None:
        """Set the exchange's clock to so many seconds ahead of ours."""
        await self.order(clock=seconds - self.ahead)
        self.ahead = seconds

    async def leave_out(self, symbol: str, count: int) -> None:
        """Have the exchange never give so many ids that it would give soon."""
        state = await self.order()
        first = state["next_ids"][_ticker(symbol)] + round(RATE)
        self.truth.leave_out(symbol, (first, first + count - 1))
        await self.misbehave(void={_ticker(symbol): spans for symbol, spans in self.truth.void.items()})

    async def restart_exchange(self) -> None:
        self.exchange.start()
        await self.exchange.printed(r"trading at (\S+)")
        await self.order(clock=self.ahead, **self.orders)

    async def traded(self) -> dict[str, int]:
        """The id of the newest trade that each symbol's feed has come to."""
        next_ids = (await self.order())["next_ids"]
        return {symbol: next_ids[_ticker(symbol)] - 1 for symbol in self.truth.symbols}

    async def flowing(self, more: int) -> None:
        """Wait until each follower has been told of so many more trades."""
        wanted = [(follower, follower.trades + more) for follower in self.followers]
        await until(lambda: all(f.trades >= count for f, count in wanted), "trades flow", RECOVERY_SECONDS)

    async def recovered(self) -> float:
        """Wait until all that was traded before this call is stored, whole and settled, and told to the followers.

        Answers how many seconds that took.
        """
        wanted, began = await self.traded(), time.monotonic()
        while (problem := await self._behind(wanted)) is not None:
            assert not self.wrong, self.wrong
            if time.monotonic() > began + RECOVERY_SECONDS:
                raise AssertionError(f"not recovered: {problem}; {await asyncio.to_thread(self._lost)}")
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    async def _behind(self, wanted: dict[str, int]) -> str | None:
        try:
            held = await asyncio.to_thread(truths.held, self.database)
            unsettled = await asyncio.to_thread(truths.unsettled, self.database)
        except psycopg.OperationalError as error:
            return str(error)
        for symbol, last_id in wanted.items():
            have = held[symbol]
            left_out = self.truth.left_out(symbol, have.first_id, have.last_id)
            if have.last_id < last_id or have.ticks + left_out < have.last_id - have.first_id + 1:
                return f"{symbol} {have}, {left_out} left out, wanted up to {last_id}; unsettled: {unsettled[:5]}"
            for number, follower in enumerate(self.followers):
                if follower.last.get(symbol, -1) < last_id:
                    return f"follower {number} is at {follower.last.get(symbol)} of {symbol}, wanted {last_id}"
        return f"unsettled: {unsettled[:5]}" if unsettled else None

    def _lost(self) -> str:
        """The ids that are not stored, and what is known of them."""
        found = {}
        for symbol, ticks in truths.stored(self.database).items():
            sent = self.truth.ticks(symbol, ticks[0].trade_id, ticks[-1].trade_id)
            missing = truths.ranges(sorted({tick.trade_id for tick in sent} - {tick.trade_id for tick in ticks}))
            if missing:
                found[symbol] = missing
        return f"not stored: {found}"

    async def verdict(self) -> None:
        """With the exchange's clock right again and ingest at rest, everything against the truth."""
        await self._check_burdens()
        await self._come_to_rest()
        codes = await asyncio.gather(*(ingester.terminate() for ingester in self.ingesters))
        assert codes == [0] * len(codes), codes
        found = await asyncio.to_thread(truths.stored, self.database)
        sent = await asyncio.to_thread(truths.check_ticks, self.truth, found)
        unsettled = truths.unsettled(self.database)
        assert not unsettled, unsettled
        await asyncio.to_thread(truths.check_candles, self.database, sent)
        for port in self.web_ports:
            await self._check_rest(PatientRest(port), sent)
        await self._check_health()
        last = {symbol: ticks[-1].trade_id for symbol, ticks in sent.items()}
        await until(lambda: all(follower.last == last for follower in self.followers), "followers are told of all", 10)
        assert not self.wrong, self.wrong
        for audience in (*self.readers_of, *self.wayward):
            seen = await audience.leaves()
            assert not seen.wrong, (audience.process.name, seen.wrong)
            assert seen.trades > 0

    async def _come_to_rest(self) -> None:
        """Have the exchange send nothing more, and wait until nothing moves: what comes late has nobody to mend it."""
        await self.order(silence=3_600)
        before, began = None, time.monotonic()
        while True:
            held = await asyncio.to_thread(truths.held, self.database)
            problem = await self._behind({symbol: each.last_id for symbol, each in held.items()})
            if problem is None and held == before:
                return
            assert time.monotonic() < began + RECOVERY_SECONDS, problem
            before = held
            await asyncio.sleep(STILL_SECONDS)

    async def _check_burdens(self) -> None:
        """Of all processes, those too that were started again; some clients may still be on their way in or out."""
        for process in (*self.ingesters, *self.webs):
            await eased(self.session, process, self.before[process.name], MORE)

    async def _check_rest(self, rest: PatientRest, sent: dict[str, list[Tick]]) -> None:
        """REST's newest candles are what the ticks make, and those call themselves whole that no missing id touches."""
        for interval in truths.INTERVALS:
            for symbol, ticks in sent.items():
                candles = (await rest.get(f"/candles/{symbol}", interval=interval, limit=MOST_CANDLES))["candles"]
                wanted = reckon(ticks, interval)[-MOST_CANDLES:]
                differences = truths.differences([truths.row_of(candle) for candle in candles], wanted)
                assert not differences, f"{symbol} {interval} by REST: {differences[:2]}"
                doubtful = [c for c in candles if c["closed"] and c["complete"] == self._touched(symbol, c)]
                assert not doubtful, f"{symbol} {interval} by REST: {doubtful[:2]}"

    def _touched(self, symbol: str, candle: dict[str, Any]) -> bool:
        """Whether an id was left out within a candle, or right beside it."""
        spans = self.truth.void.get(symbol, ())
        return any(first <= candle["last_id"] + 1 and last >= candle["first_id"] - 1 for first, last in spans)

    async def _check_health(self) -> None:
        """`tickwick doctor` finds nothing wrong."""
        doctor = self.group.start("doctor", "doctor", "--dsn", self.database.dsn, "--json")
        await until(lambda: not doctor.alive, "the doctor has looked", RECOVERY_SECONDS)
        found = json.loads(doctor.output[doctor.output.index("{") :])
        wrong = [finding for finding in found["findings"] if finding["state"] == "wrong"]
        assert (doctor.code, wrong) == (0, []), f"doctor: {doctor.code} {wrong}"


def _ticker(symbol: str) -> str:
    return symbol.partition(":")[2]


@asynccontextmanager
async def staged(
    databases: Databases, engine: Engine, folder: Path, seed: int, followers: int = 4
) -> AsyncIterator[Stage]:
    """Everything up, followed, and flowing."""
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(processes(folder))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        server, database = await stack.enter_async_context(own_server(databases, engine))
        writers = await stack.enter_async_context(proxying_database(database.dsn))
        readers = await stack.enter_async_context(proxying_database(database.dsn))
        port = lasting_port()
        symbols = [argument for ticker in TICKERS for argument in ("--symbol", ticker)]
        exchange = group.start(
            "exchange", "simulate", *("--port", str(port), "--rate", str(RATE), "--seed", str(seed)), *symbols
        )
        await exchange.printed(r"trading at (\S+)")
        venue = await stack.enter_async_context(proxying("127.0.0.1", port))
        ingesters = [
            start_ingest(
                group, f"ingest{number}", through(writers, database.writer), f"ws://127.0.0.1:{venue.port}", TICKERS
            )
            for number in range(1, INGESTERS + 1)
        ]
        web_ports = [lasting_port() for _ in range(SERVERS)]
        webs = [
            start_serve(group, f"serve{n}", through(readers, database.app), web_port)
            for n, web_port in enumerate(web_ports, 1)
        ]
        for web in webs:
            await web.printed(r"serving (\S+)")
        for process in (*ingesters, *webs):
            process.supervised = True
        truth = LivelyTruth(TICKERS, RATE, seed)
        await until(lambda: set(truths.held(database)) == set(truth.symbols), "every instrument has ticks")
        clients = [Follower(truth) for _ in range(followers)]
        addresses = [f"ws://127.0.0.1:{web_ports[n % SERVERS]}/api/v1/stream" for n in range(followers)]
        following = [asyncio.create_task(c.run(a)) for c, a in zip(clients, addresses, strict=True)]
        stage = Stage(
            *(database, server, truth, group, exchange, f"http://127.0.0.1:{port}", ingesters, webs, web_ports),
            *(writers, readers, venue, clients),
            *([Audience(group, f"reading{n}", at, READING, truth.symbols) for n, at in enumerate(web_ports, 1)],),
            *(
                [
                    Audience(group, f"wayward{n}", at, WAYWARD, truth.symbols, buffer=SMALL_BUFFER)
                    for n, at in enumerate(web_ports, 1)
                ],
            ),
            session,
        )
        try:
            for audience in (*stage.readers_of, *stage.wayward):
                await audience.comes()
            await stage.flowing(100)
            stage.before = {process.name: await burden(session, process) for process in (*ingesters, *webs)}
            yield stage
        finally:
            for task in following:
                task.cancel()
            ended = await asyncio.gather(*following, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
