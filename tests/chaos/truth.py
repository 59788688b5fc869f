"""What was truly traded, and whether table, candles, REST, and a client that followed all along agree with it."""

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

import websockets

from app.market.model import Candle, InstrumentId, Tick
from ingest.simulator.market import Market
from ingest.simulator.void import VoidedTape
from tests.databases import Database
from tests.integration.reckoning import Row, reckon
from tests.integration.rest import Rest

INTERVALS = ("1s", "1m", "1h", "1d")
STORED = INTERVALS[1:]
SHOWN = 20
_LEVEL = (
    "SELECT symbol, bucket, open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,"
    " taker_buy_volume::text, taker_buy_quote_volume::text, first_id, last_id"
    " FROM market.candles_{level} JOIN market.instruments AS i ON i.id = instrument_id ORDER BY symbol, bucket"
)


class Truth:
    """What a simulated exchange trades: the same seed is the same market, in every process."""

    def __init__(self, tickers: Iterable[str], rate: float, seed: int) -> None:
        self._alone = threading.Lock()
        self.tapes = {f"SIM:{ticker}": VoidedTape(Market(ticker, rate, seed)) for ticker in tickers}

    @property
    def symbols(self) -> list[str]:
        return list(self.tapes)

    def last_ids(self, ahead: float = 0.0) -> dict[str, int]:
        """The id of the newest trade of each symbol by now, or so many seconds ahead."""
        now_us = time.time_ns() // 1000 + round(ahead * 1_000_000)
        with self._alone:
            return {symbol: tape.id_at(now_us + 1) - 1 for symbol, tape in self.tapes.items()}

    def ticks(self, symbol: str, from_id: int, to_id: int) -> list[Tick]:
        """The trades between two ids, both inclusive, in their order."""
        with self._alone:
            trades = self.tapes[symbol].trades(from_id, to_id - from_id + 1)
        return [trade.tick(InstrumentId(0)) for trade in trades if trade.id <= to_id]

    def tick(self, symbol: str, trade_id: int) -> Tick:
        return self.ticks(symbol, trade_id, trade_id)[0]


class Held(NamedTuple):
    """What the table holds of a symbol, in short."""

    first_id: int
    last_id: int
    ticks: int

    @property
    def whole(self) -> bool:
        return self.ticks == self.last_id - self.first_id + 1


def held(database: Database) -> dict[str, Held]:
    rows = database.execute(
        "SELECT symbol, min(trade_id), max(trade_id), count(*)"
        " FROM market.ticks JOIN market.instruments AS i ON i.id = instrument_id GROUP BY symbol"
    )
    return {symbol: Held(*rest) for symbol, *rest in rows}


def unsettled(database: Database) -> list[tuple[Any, ...]]:
    """Open gaps and stale ranges."""
    return database.execute(
        "SELECT 'gap', instrument_id, from_id::text, to_id::text FROM market.gaps WHERE state = 'open'"
        " UNION ALL SELECT 'stale', instrument_id, from_time::text, to_time::text FROM market.stale_ranges"
    )


def stored(database: Database) -> dict[str, list[Tick]]:
    """All ticks of each symbol, by id; a tick that is there twice is listed twice."""
    found: dict[str, list[Tick]] = defaultdict(list)
    rows = database.execute(
        "SELECT symbol, trade_id, (extract(epoch FROM time) * 1000000)::bigint, price, size, buyer_is_maker"
        " FROM market.ticks JOIN market.instruments AS i ON i.id = instrument_id ORDER BY symbol, trade_id, time"
    )
    for symbol, *rest in rows:
        found[symbol].append(Tick(InstrumentId(0), *rest))
    return found


def check_ticks(truth: Truth, found: dict[str, list[Tick]]) -> dict[str, list[Tick]]:
    """Each trade from a symbol's first stored one to its last is there once, as it was sent. Answers what was sent."""
    assert sorted(found) == sorted(truth.symbols)
    sent = {symbol: truth.ticks(symbol, ticks[0].trade_id, ticks[-1].trade_id) for symbol, ticks in found.items()}
    for symbol, ticks in found.items():
        missing = sorted({t.trade_id for t in sent[symbol]} - {t.trade_id for t in ticks})
        assert not missing, f"{symbol}: {len(missing)} missing: {ranges(missing)}"
        twice = [one.trade_id for one, other in pairwise(ticks) if one.trade_id == other.trade_id]
        assert not twice, f"{symbol}: {len(twice)} stored twice: {ranges(twice)}"
        assert not differences(ticks, sent[symbol]), f"{symbol}: other than sent"
    return sent


def check_candles(database: Database, sent: dict[str, list[Tick]]) -> None:
    """Each stored level equals what the definition makes of the ticks."""
    for level in STORED:
        rows: dict[str, list[Row]] = defaultdict(list)
        for symbol, *row in database.execute(_LEVEL.format(level=level)):
            rows[symbol].append(tuple(row))
        for symbol, ticks in sent.items():
            assert not differences(rows[symbol], reckon(ticks, level)), f"{symbol} {level}"


async def check_rest(rest: Rest, sent: dict[str, list[Tick]]) -> None:
    """REST's newest candles equal what the definition makes of the ticks, and the closed ones call themselves whole."""
    for interval in INTERVALS:
        for symbol, ticks in sent.items():
            page = await rest.get(f"/candles/{symbol}", interval=interval, limit=5_000)
            rows = [row_of(candle) for candle in page["candles"]]
            assert not differences(rows, reckon(ticks, interval)[-5_000:]), f"{symbol} {interval} by REST"
            assert all(candle["complete"] for candle in page["candles"] if candle["closed"]), f"{symbol} {interval}"


def ranges(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ids as the first of their ranges, both ends inclusive."""
    found: list[list[int]] = []
    for each in ids:
        if found and each == found[-1][1] + 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    return [(first, last) for first, last in found[:SHOWN]]


def row_of(candle: dict[str, Any]) -> tuple[Any, ...]:
    """A candle of REST in the form of the reckoning."""
    names = Candle.__struct_fields__[1:12]
    return (datetime.fromisoformat(candle["time"]), *(candle[name] for name in names))


def differences(found: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """The first few pairs that differ: pytest's own comparison of long lists takes minutes."""
    if len(found) != len(wanted):
        return [(len(found), len(wanted)), *found[:1], *found[-1:], *wanted[:1], *wanted[-1:]]
    return [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]][:SHOWN]


class Follower:
    """A client that follows trades all along: when it is cut off, it comes back with the last id that it has.

    `wrong` lists each jump that no `gap` event told of, each repeat, each step back, and each trade that is not the
    exchange's.
    """

    def __init__(self, truth: Truth) -> None:
        self.last: dict[str, int] = {}
        """The last trade id delivered, or told to be missing, of each symbol."""
        self.connects = 0
        """How often it was let in: who comes while a server starts is told to try later."""
        self.trades = 0
        self.gaps: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self._truth = truth

    async def run(self, address: str) -> None:
        """Follow until cancelled."""
        while True:
            with suppress(OSError, TimeoutError, websockets.WebSocketException):
                async with websockets.connect(address, max_size=None, open_timeout=5) as socket:
                    await self._follow(socket)
            await asyncio.sleep(0.05)

    async def _follow(self, socket: websockets.ClientConnection) -> None:
        since = {symbol: last for symbol, last in self.last.items() if last >= 0}
        request = {"op": "subscribe", "id": 1, "channel": "trades", "symbols": self._truth.symbols, "since": since}
        await socket.send(json.dumps(request))
        answered = False
        async for frame in socket:
            self.connects += not answered
            answered = True
            for event in json.loads(frame):
                self.take(event)

    def take(self, event: dict[str, Any]) -> None:
        """Look at one event."""
        match event["type"]:
            case "trade":
                self._trade(event)
            case "gap":
                self.gaps.append(event)
                if event["reason"] != "late":
                    self._step(event["symbol"], event["from_id"], event["to_id"])
            case "snapshot" if event["trades"]:
                if event["symbol"] in self.last:
                    self.wrong.append(f"{event['symbol']}: begun anew after {self.last[event['symbol']]}")
                self.last[event["symbol"]] = event["trades"][-1]["trade_id"]
            case "reset" | "error":
                self.wrong.append(str(event))

    def _trade(self, event: dict[str, Any]) -> None:
        symbol, trade_id = event["symbol"], event["trade_id"]
        self.trades += 1
        self._step(symbol, trade_id, trade_id)
        sent = self._truth.tick(symbol, trade_id)
        if (Decimal(event["price"]), Decimal(event["size"])) != (sent.price, sent.size):
            self.wrong.append(f"{symbol}: {event} instead of {sent}")

    def _step(self, symbol: str, from_id: int, to_id: int) -> None:
        last = self.last.get(symbol)
        if last is not None and from_id != last + 1:
            self.wrong.append(f"{symbol}: {from_id} after {last}")
        self.last[symbol] = to_id
