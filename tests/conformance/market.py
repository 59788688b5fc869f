"""A server in a process of its own, and the market that it serves: instruments of several sources and their trades.

Past trades end before the server starts, and nothing is added to their instruments: what REST tells of them can be
compared at leisure. Live trades go to other instruments.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import requests

from app.market.model import Feed, InstrumentId, Tick, plain, to_micros
from ingest.copy import TickTable
from sql.engine import Engine
from tests.databases import Database, Databases
from tests.end_to_end.commands import free_port
from tests.integration.ticks import connected

PATIENCE: Final = 20.0
"""Seconds after which something that should have come counts as missing."""


class Listed(NamedTuple):
    """An instrument, and what Binance-style clients are to call it."""

    native: str
    name: str
    unified: str
    """ccxt's symbol: BASE/QUOTE."""
    base: str | None
    quote: str | None
    kind: str = "spot"
    scale: int = 2
    feed: Feed = "trade"
    past: bool = True


INSTRUMENTS: Final = (
    Listed("BINANCE:BTCUSDT", "BTCUSDT", "BTC/USDT", "BTC", "USDT"),
    Listed("COINBASE:BTC-USD", "BTCUSD", "BTC/USD", "BTC", "USD"),
    Listed("KRAKEN:BTC-USD", "KRAKEN.BTCUSD", "KRAKEN.BTC/USD", "BTC", "USD", scale=1),
    Listed("SHOP:COFFEE-EUR", "COFFEEEUR", "COFFEE/EUR", "COFFEE", "EUR", kind="good", feed="quote"),
    Listed("IMPORT:SOL/USD", "SOLUSD", "SOL/USD", "SOL", "USD"),
    Listed("SHOP:LAMP", "LAMP", "LAMP/XXX", None, None, kind="good", scale=0, feed="quote"),
    Listed("BINANCE:ETHUSDT", "ETHUSDT", "ETH/USDT", "ETH", "USDT", past=False),
    Listed("KRAKEN:ETH-USDT", "KRAKEN.ETHUSDT", "KRAKEN.ETH/USDT", "ETH", "USDT", past=False),
    Listed("SHOP:TEA-EUR", "TEAEUR", "TEA/EUR", "TEA", "EUR", kind="good", feed="quote", past=False),
    Listed("BINANCE:DOGEUSDT", "DOGEUSDT", "DOGE/USDT", "DOGE", "USDT", past=False),
)
PAST: Final = tuple(listed for listed in INSTRUMENTS if listed.past)
BTC, COINBASE, KRAKEN, COFFEE, SLASHED, LAMP, ETH, KRAKEN_ETH, TEA, SILENT = INSTRUMENTS
NATIVE: Final = tuple(listed for listed in PAST if listed is not SLASHED)
"""Past ones that the native API can be asked for: a slash does not fit into its addresses."""


class Market:
    """A running server, the trades that it knows, and a hand on the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.url = ""
        self.now = datetime.now(UTC)
        self._cents = 200_010
        self.ids = {listed: self._add(listed) for listed in INSTRUMENTS}
        self.trades: dict[Listed, list[Tick]] = {listed: [] for listed in INSTRUMENTS}

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that is 200."""
        answer = requests.get(self.url + path, params=query, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def native(self, path: str, listed: Listed, **query: Any) -> Any:
        """What the native API tells of an instrument."""
        return self.get(f"/api/v1/{path}/{listed.native}", **query)

    async def fill(self) -> None:
        """Past trades: a few on days of the last months, then denser and denser until some seconds ago."""
        for listed in PAST:
            await self._store(listed, list(_past(self.ids[listed], listed, self.now)))

    async def trade(self, listed: Listed, count: int = 1, price: str = "2000.10", size: str = "0.250") -> list[Tick]:
        """New trades from now on, a microsecond apart, sides in turn, in one transaction as ingest writes them."""
        start = to_micros(datetime.now(UTC))
        first = self.trades[listed][-1].trade_id + 1 if self.trades[listed] else 1
        if listed.feed == "quote":
            first = start
        ticks = [
            Tick(self.ids[listed], first + n, start + n, Decimal(price), Decimal(size), _side(listed, n))
            for n in range(count)
        ]
        await self._store(listed, ticks)
        return ticks

    async def news(self, listed: Listed) -> str:
        """A price that has not been before, just traded; far enough from the last to be a change in percent."""
        self._cents += 100
        price = plain(Decimal(self._cents) / 100)
        await self.trade(listed, 3, price=price)
        return price

    async def trade_until(self, listed: Listed, done: asyncio.Future[Any]) -> Any:
        """Trade again and again until somebody has seen it; answers what he got."""
        async with asyncio.timeout(PATIENCE):
            while not done.done():
                await self.trade(listed)
                await asyncio.wait([done], timeout=0.1)
        return done.result()

    async def _store(self, listed: Listed, ticks: list[Tick]) -> None:
        async with connected(self.database) as conn:
            await TickTable(conn).write(ticks)
        self.trades[listed].extend(ticks)

    def _add(self, listed: Listed) -> InstrumentId:
        source, _, ticker = listed.native.partition(":")
        row = (source, ticker, listed.base, listed.quote, listed.kind, listed.scale, listed.feed)
        ((number,),) = self.database.execute(
            "INSERT INTO market.instruments (source, ticker, base, quote, kind, price_scale, feed, contiguous_ids)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            (*row, listed.feed == "trade"),
        )
        return InstrumentId(number)


def kline_of(candle: dict[str, Any]) -> list[Any]:
    """Time in ms, open, high, low, close and volume of a candle of the native API."""
    opened_at = datetime.fromisoformat(candle["time"])
    return [to_micros(opened_at) // 1000, *(candle[name] for name in ("open", "high", "low", "close", "volume"))]


def _past(instrument: InstrumentId, listed: Listed, now: datetime) -> Iterator[Tick]:
    ages = [
        *(timedelta(days=days, minutes=7 * n) for days in (95, 64, 40, 33, 20, 12, 9, 6, 4, 3, 2) for n in (3, 2, 1)),
        *(timedelta(minutes=minutes) for minutes in range(1_560, 20, -11)),
        *(timedelta(seconds=seconds, microseconds=431) for seconds in range(1_200, 3, -4)),
    ]
    scale = 10**listed.scale
    for n, age in enumerate(ages):
        time_us = to_micros(now - age)
        price = Decimal(40_000 * scale + (n + 37 * instrument) * 7_919 % (900 * scale)) / scale
        size = Decimal((n + instrument) * 31 % 977 + 1) / 1000
        trade_id = time_us if listed.feed == "quote" else 1_000 + n
        yield Tick(instrument, trade_id, time_us, price, size, _side(listed, n))


def _side(listed: Listed, n: int) -> bool | None:
    """A source of quotes does not tell who took."""
    return None if listed.feed == "quote" else n % 3 == 0


def settled(*ask: Callable[[], Any], same: Callable[[Any], Any] = lambda answer: answer) -> list[Any]:
    """The answers to several questions about one state: asked again where the first answer changed meanwhile.

    Windows of tickers move with the clock; `same` is what of the first answer tells whether it changed.
    """
    for _ in range(10):
        answers = [question() for question in ask]
        if same(ask[0]()) == same(answers[0]):
            return answers
    raise AssertionError("the first answer changes all the time")


@contextmanager
def opened(databases: Databases, engine: Engine = Engine.POSTGRES, **environment: str) -> Iterator[Market]:
    """A market of its own, filled and served; unless told otherwise, the clients' limits are never reached."""
    limits = {"TICKWICK_REQUEST_WEIGHT": "1000000000", "TICKWICK_CONNECTION_LIMIT": "1000000"}
    with databases.clone(engine) as database:
        market = Market(database)
        asyncio.run(market.fill())
        with served(database, **{**limits, **environment}) as market.url:
            yield market


@contextmanager
def served(database: Database, **environment: str) -> Iterator[str]:
    """The address of `tickwick serve` on a database, in a process of its own that logs no error and ends well."""
    port = free_port()
    given = {"TICKWICK_DSN": database.app, "TICKWICK_PORT": str(port), "TICKWICK_LOG_FORMAT": "json", **environment}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"], env={**os.environ, **given}, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            if ready := _await_ready(f"http://127.0.0.1:{port}", process):
                yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            code = process.wait(PATIENCE)
            log.seek(0)
            print(text := log.read())
        assert ready, text
        assert code == 0, text
        assert not (found := [*_errors(text)]), "\n".join(found)


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    for _ in itertools.takewhile(lambda _: process.poll() is None, range(400)):
        try:
            if requests.get(url + "/readyz", timeout=1).status_code == 200:
                return True
        except requests.ConnectionError:
            pass
        time.sleep(0.05)  # nothing announces it
    return False


def _errors(log: str) -> Iterator[str]:
    """Lines that are no log events, such as those of a traceback, and events that are errors."""
    for line in log.splitlines():
        try:
            if json.loads(line).get("level") not in ("error", "critical"):
                continue
        except ValueError:
            pass
        yield line
