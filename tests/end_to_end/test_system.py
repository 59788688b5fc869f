"""Exchange → ingest → database → REST and stream, in one piece, with an exchange that behaves and one that does not."""

import asyncio
import itertools
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from app.embedded import Server
from ingest.simulator.exchange import Exchange
from ingest.simulator.misbehaviour import Misbehaviour
from tests.databases import Database
from tests.end_to_end.system import Follower, System, candles_of, following, running, until

BTC = "SIM:BTCUSDT"
ETH = "SIM:ETHUSDT"
TRADES = {"channel": "trades", "symbols": [BTC]}


def figures(candle: dict[str, Any]) -> tuple[Any, ...]:
    decimals = (Decimal(candle[name]) for name in ("open", "high", "low", "close", "volume", "quote_volume"))
    return (*decimals, candle["trades"], candle["first_id"], candle["last_id"])


def second_of(candle: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(candle["time"]).timestamp())


async def trades_seen(follower: Follower, count: int) -> None:
    await until(lambda: len(follower.trade_ids(BTC)) >= count, seconds=30)


async def quiet(system: System, *symbols: str) -> None:
    """Wait until what the exchange has sent is stored: the count stands still over two looks."""
    system.exchange.go_silent(60)
    counts: list[int] = []

    def still() -> bool:
        counts.append(sum(len(system.stored(symbol)) for symbol in symbols))
        return len(counts) > 5 and len(set(counts[-5:])) == 1

    await until(still)


async def test_good_exchange_every_trade_is_stored_pushed_and_in_candles(database: Database) -> None:
    async with running(database, Exchange(["BTCUSDT", "ETHUSDT"], rate=150, seed=7)) as system:
        candles = {"channel": "candles", "symbols": [BTC, ETH], "interval": "1s"}
        async with following(system, TRADES, candles) as follower:
            await trades_seen(follower, 400)
            await quiet(system, BTC, ETH)
            await until(lambda: follower.trade_ids(BTC)[-1] == max(system.stored(BTC)))

        for symbol, ticker in ((BTC, "BTCUSDT"), (ETH, "ETHUSDT")):
            stored = system.stored(symbol)
            assert stored == system.traded(ticker, min(stored), max(stored))
        assert follower.unexplained_jumps(BTC) == []

        truth = candles_of(system.stored(BTC), 1)
        page = await system.get(f"/api/v1/candles/{BTC}?interval=1s&limit=1000")
        assert {second_of(candle): figures(candle) for candle in page["candles"]} == truth
        minutes = await system.get(f"/api/v1/candles/{BTC}?interval=1m")
        assert {second_of(c): figures(c) for c in minutes["candles"]} == candles_of(system.stored(BTC), 60)

        rest = {candle["time"]: candle for candle in page["candles"]}
        closed = [e for e in follower.events["candle"] if e["symbol"] == BTC and e["closed"]]
        assert closed
        for event in closed:
            same = {name: event[name] for name in rest[event["time"]]}
            assert same == rest[event["time"]], "REST and stream agree to the digit"


async def test_misbehaving_exchange_what_is_missing_is_told_and_then_fetched(database: Database) -> None:
    bad = Misbehaviour(skip=0.03, duplicate=0.05, reorder=0.03, garbage=0.05, reorder_distance=3)
    exchange = Exchange(["BTCUSDT"], rate=200, seed=11, misbehaviour=bad)
    seconds = {"channel": "candles", "symbols": [BTC], "interval": "1s"}
    async with running(database, exchange) as system, following(system, TRADES, seconds) as follower:
        await trades_seen(follower, 300)
        exchange.drop_connections()
        await trades_seen(follower, 600)
        exchange.misbehave(Misbehaviour())
        await quiet(system, BTC)
        assert exchange.record.ids("skip", "BTCUSDT")
        assert follower.unexplained_jumps(BTC) == []
        assert any(event["reason"] == "missing" for event in follower.events["gap"])

        await until(lambda: database.execute("SELECT count(*) FROM market.gaps WHERE state = 'open'") == [(0,)], 30)
        await until(lambda: database.execute("SELECT count(*) FROM market.stale_ranges") == [(0,)])
        stored = system.stored(BTC)
        assert stored == system.traded("BTCUSDT", min(stored), max(stored))
        page = await system.get(f"/api/v1/candles/{BTC}?interval=1s&limit=1000")
        assert {second_of(c): figures(c) for c in page["candles"]} == candles_of(stored, 1)

        # What the client was told was missing, it is told is there by now; and the candles that changed.
        missing = told(follower, "missing")
        await until(lambda: missing <= told(follower, "late"))
        assert follower.events["correction"]


def told(follower: Follower, reason: str) -> set[int]:
    """The ids that gaps of a reason told of."""
    spans = [range(e["from_id"], e["to_id"] + 1) for e in follower.events["gap"] if e["reason"] == reason]
    return set(itertools.chain.from_iterable(spans))


async def test_exchange_rolls_over_nothing_is_lost(any_database: Database) -> None:
    # Longer than the five seconds after which a connection counts as healthy, so that its successor is dialled at once.
    bad = Misbehaviour(max_connection_seconds=6.5, notice_seconds=1.0)
    exchange = Exchange(["BTCUSDT"], rate=100, seed=3, misbehaviour=bad)
    async with running(any_database, exchange) as system, following(system, TRADES) as follower:
        await trades_seen(follower, 900)
        await quiet(system, BTC)
        stored = system.stored(BTC)
        assert stored == system.traded("BTCUSDT", min(stored), max(stored))
        assert follower.events["gap"] == []


async def test_database_away_ticks_wait_and_clients_are_caught_up(any_database: Database, any_server: Server) -> None:
    exchange = Exchange(["BTCUSDT"], rate=100, seed=5)
    async with running(any_database, exchange) as system, following(system, TRADES) as follower:
        await trades_seen(follower, 100)
        await asyncio.to_thread(any_server.stop)
        await until(lambda: _status_is(system, "/readyz", 503))
        assert await system.status(f"/api/v1/candles/{BTC}") == 503
        assert await system.status("/livez") == 200
        before = exchange.next_id("BTCUSDT")
        await until(lambda: exchange.next_id("BTCUSDT") > before + 50)
        await asyncio.to_thread(any_server.start)
        await until(lambda: _status_is(system, "/readyz", 200))
        await until(lambda: follower.trade_ids(BTC)[-1] > before + 100)
        assert not follower.closed
        await quiet(system, BTC)
        stored = system.stored(BTC)
        assert stored == system.traded("BTCUSDT", min(stored), max(stored))
        await until(lambda: follower.trade_ids(BTC)[-1] == max(stored))
        assert follower.unexplained_jumps(BTC) == []
        assert follower.events["gap"] == []


async def _status_is(system: System, path: str, status: int) -> bool:
    return await system.status(path) == status


@pytest.mark.parametrize("feed", ["aggTrade", "miniTicker", "kline_1s"])
async def test_other_feeds_become_ticks_of_their_own_kind(any_database: Database, feed: str) -> None:
    exchange = Exchange(["BTCUSDT"], rate=50, seed=9)
    async with running(any_database, exchange, feed=feed) as system:
        await until(lambda: len(system.stored(BTC)) >= 3)
    rows = any_database.execute("SELECT feed, contiguous_ids FROM market.instruments")
    assert rows == [(feed, feed == "aggTrade")]


async def test_coinbase_what_was_missed_while_cut_off_is_fetched_over_its_rest(database: Database) -> None:
    exchange = Exchange(["BTCUSDT"], rate=100, seed=13, misbehaviour=Misbehaviour(skip=0.02))
    coinbase = running(database, exchange, source="coinbase", tickers="BTC-USDT")
    symbol = "COINBASE:BTC-USDT"
    trades = {"channel": "trades", "symbols": [symbol]}
    async with coinbase as system, following(system, trades) as follower:
        await until(lambda: len(follower.trade_ids(symbol)) > 100)
        exchange.drop_connections()
        await until(lambda: len(follower.trade_ids(symbol)) > 300)
        exchange.misbehave(Misbehaviour())
        await quiet(system, symbol)
        await until(lambda: database.execute("SELECT count(*) FROM market.gaps WHERE state = 'open'") == [(0,)], 30)
        stored = system.stored(symbol)
        assert len(stored) > 300
        assert stored == system.traded("BTCUSDT", min(stored), max(stored))
        assert follower.unexplained_jumps(symbol) == []
    rows = database.execute("SELECT base, quote, feed, contiguous_ids FROM market.instruments")
    assert rows == [("BTC", "USDT", "trade", True)]
