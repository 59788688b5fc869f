"""Tickwick feeds Tickwick: a second instance that takes the first for Binance ends with the same ticks and candles."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.settings import Settings
from ingest.backfill import backfill
from ingest.service import run as ingest
from ingest.simulator.exchange import Exchange
from ingest.simulator.misbehaviour import Misbehaviour
from tests.databases import Database, Databases
from tests.end_to_end.system import System, running, until

TICKS = """
SELECT trade_id, time, price::text, size::text, buyer_is_maker FROM market.ticks
JOIN market.instruments AS i ON i.id = instrument_id WHERE symbol = %s ORDER BY trade_id
"""
CANDLES = """
SELECT bucket, open::text, high::text, low::text, close::text, volume::text, quote_volume::text, trades,
       taker_buy_volume::text, taker_buy_quote_volume::text, first_id, last_id
FROM market.candles_{level} JOIN market.instruments AS i ON i.id = instrument_id WHERE symbol = %s ORDER BY bucket
"""
OPEN = "SELECT count(*) FROM market.gaps WHERE state = 'open'"


@pytest.fixture
def second(databases: Databases, database: Database) -> Any:
    with databases.clone(database.engine) as made:
        yield made


def settings(system: System, second: Database, *tickers: str) -> Settings:
    url = system.http.replace("http", "ws", 1)
    return Settings(dsn=second.writer, source="binance", url=url, instruments=",".join(tickers))


@asynccontextmanager
async def following(system: System, second: Database, *tickers: str) -> AsyncIterator[None]:
    """The second instance's ingest, as `tickwick ingest --source binance --url` of the first starts it."""
    task = asyncio.create_task(ingest(settings(system, second, *tickers), lambda _: None))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ticks(database: Database, symbol: str) -> list[tuple[Any, ...]]:
    return database.execute(TICKS, (symbol,))


async def test_second_instance_ends_with_the_same_ticks_and_candles(database: Database, second: Database) -> None:
    # The first misses trades and fetches them late, so that the second has holes to fill as well.
    bad = Misbehaviour(skip=0.02, duplicate=0.02)
    exchange = Exchange(["BTCUSDT", "ETHUSDT"], rate=80, seed=4, misbehaviour=bad)
    async with running(database, exchange) as system:
        await until(lambda: len(ticks(database, "SIM:BTCUSDT")) > 100)
        async with following(system, second, "BTCUSDT", "ETHUSDT"):
            await until(lambda: len(ticks(second, "BINANCE:BTCUSDT")) > 300, seconds=60)
            exchange.misbehave(Misbehaviour())
            exchange.go_silent(120)
            await until(lambda: database.execute(OPEN) == second.execute(OPEN) == [(0,)], seconds=60)
        for ticker in ("BTCUSDT", "ETHUSDT"):
            own, taken = ticks(database, f"SIM:{ticker}"), ticks(second, f"BINANCE:{ticker}")
            assert taken
            assert taken == own[-len(taken) :], "the same from where the second began"
            # What was traded before it began is the past, which the first serves too.
            start, end = own[0][1], own[-1][1]
            given = settings(system, second, ticker)
            report = await backfill(
                given, f"BINANCE:{ticker}", start, end, progress=lambda done, of: None, say=lambda _: None
            )
            assert report.new == len(own) - len(taken)
            assert ticks(second, f"BINANCE:{ticker}") == own
            for level in ("1m", "1h", "1d"):
                candles = CANDLES.format(level=level)
                of_first = database.execute(candles, (f"SIM:{ticker}",))
                assert of_first
                assert second.execute(candles, (f"BINANCE:{ticker}",)) == of_first


async def test_second_instance_takes_what_another_venue_trades(database: Database, second: Database) -> None:
    exchange = Exchange(["BTCUSD"], rate=60, seed=9)
    async with running(database, exchange, source="coinbase", tickers="BTC-USD") as system:
        async with following(system, second, "BTCUSD"):
            await until(lambda: len(ticks(second, "BINANCE:BTCUSD")) > 150, seconds=60)
            exchange.go_silent(120)
            last = ticks(database, "COINBASE:BTC-USD")[-1]
            await until(lambda: ticks(second, "BINANCE:BTCUSD")[-1] == ticks(database, "COINBASE:BTC-USD")[-1])
        own, taken = ticks(database, "COINBASE:BTC-USD"), ticks(second, "BINANCE:BTCUSD")
        assert last in taken
        assert taken == own[-len(taken) :]
        described = "SELECT base, quote FROM market.instruments WHERE symbol = 'BINANCE:BTCUSD'"
        assert second.execute(described) == [("BTC", "USD")]


async def test_second_instance_fills_what_it_missed_while_the_first_was_away(
    any_database: Database, databases: Databases
) -> None:
    exchange = Exchange(["BTCUSDT"], rate=60, seed=5)
    with databases.clone(any_database.engine) as second:
        async with running(any_database, exchange) as system, following(system, second, "BTCUSDT"):
            await until(lambda: len(ticks(second, "BINANCE:BTCUSDT")) > 100, seconds=60)
            # The second's writer is cut off, then the listener of the first.
            assert second.terminate("tickwick ingest")
            assert any_database.terminate("tickwick listener")
            before = len(ticks(any_database, "SIM:BTCUSDT"))
            await until(lambda: len(ticks(any_database, "SIM:BTCUSDT")) > before + 200, seconds=60)
            exchange.go_silent(120)
            await until(lambda: second.execute(OPEN) == [(0,)], seconds=60)
            await until(lambda: ticks(second, "BINANCE:BTCUSDT")[-1] == ticks(any_database, "SIM:BTCUSDT")[-1])
        taken, own = ticks(second, "BINANCE:BTCUSDT"), ticks(any_database, "SIM:BTCUSDT")
        assert taken == own[-len(taken) :]
