"""ccxt over REST: each call that it has for market data."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import ccxt
import ccxt.async_support
import pytest
import pytest_asyncio

from app.market.intervals import Interval
from app.market.model import plain, to_micros
from tests.conformance.market import (
    BTC,
    COFFEE,
    INSTRUMENTS,
    KRAKEN,
    NATIVE,
    PAST,
    Listed,
    Market,
    settled,
)
from tests.conformance.unified import candles, configured, day, told, traded

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(market: Market) -> AsyncIterator[Any]:
    async with configured(ccxt.async_support.binance, market) as made:
        yield made


async def test_markets_are_all_instruments_each_with_a_name_of_its_own(client: Any) -> None:
    markets = await client.fetch_markets()
    assert {(market["id"], market["symbol"]) for market in markets} == {(one.name, one.unified) for one in INSTRUMENTS}
    assert len(markets) == len(INSTRUMENTS)
    assert all(market["active"] and market["spot"] for market in markets)


async def test_markets_prices_are_cut_to_the_instruments_places(client: Any) -> None:
    await client.load_markets()
    assert [client.price_to_precision(one.unified, "12.345678") for one in (BTC, KRAKEN)] == ["12.35", "12.3"]
    assert client.amount_to_precision(BTC.unified, "0.123456789") == "0.12345678"


async def test_time_is_the_servers(client: Any) -> None:
    before = time.time_ns() // 1_000_000
    assert before <= await client.fetch_time() <= time.time_ns() // 1_000_000


async def test_ohlcv_of_every_timeframe_is_that_of_the_trades(client: Any, market: Market) -> None:
    assert set(client.timeframes) == set(Interval)
    for timeframe in client.timeframes:
        assert await client.fetch_ohlcv(BTC.unified, timeframe) == candles(market, BTC, timeframe)[-500:], timeframe


@pytest.mark.parametrize("listed", PAST, ids=lambda listed: listed.native)
async def test_ohlcv_of_every_source_is_that_of_the_trades(client: Any, market: Market, listed: Listed) -> None:
    for timeframe in ("15m", "1d"):
        wanted = candles(market, listed, timeframe)[-1000:]
        assert await client.fetch_ohlcv(listed.unified, timeframe, limit=1000) == wanted


async def test_ohlcv_since_and_until_cut_inclusively(client: Any, market: Market) -> None:
    wanted = candles(market, BTC, "1h")
    since, until = wanted[5][0], wanted[9][0]
    assert await client.fetch_ohlcv(BTC.unified, "1h", since, 3) == wanted[5:8]
    assert await client.fetch_ohlcv(BTC.unified, "1h", since, params={"until": until}) == wanted[5:10]
    assert await client.fetch_ohlcv(BTC.unified, "1h", params={"until": until - 1}) == wanted[:9]


async def test_ohlcv_in_pages_is_whole(client: Any, market: Market) -> None:
    wanted, got = candles(market, BTC, "5m"), []
    while page := await client.fetch_ohlcv(BTC.unified, "5m", got[-1][0] + 1 if got else 0, 50):
        got += page
    assert got == wanted


@pytest.mark.parametrize("method", ["publicGetAggTrades", "publicGetTrades", "publicGetHistoricalTrades"])
@pytest.mark.parametrize("listed", PAST, ids=lambda listed: listed.native)
async def test_trades_recent_are_those_inserted(client: Any, market: Market, listed: Listed, method: str) -> None:
    trades = await client.fetch_trades(listed.unified, limit=40, params={"fetchTradesMethod": method})
    assert [told(trade) for trade in trades] == [traded(tick) for tick in market.trades[listed][-40:]]
    assert {trade["symbol"] for trade in trades} == {listed.unified}


async def test_trades_cost_is_price_times_size_exactly(client: Any, market: Market) -> None:
    (trade,) = await client.fetch_trades(BTC.unified, limit=1, params={"fetchTradesMethod": "publicGetTrades"})
    last = market.trades[BTC][-1]
    assert trade["cost"] == plain(last.price * last.size)


async def test_trades_since_are_those_of_the_hour_from_then_on(client: Any, market: Market) -> None:
    since = to_micros(market.now - timedelta(minutes=100)) // 1000
    wanted = [tick for tick in market.trades[BTC] if since <= tick.time_us // 1000 <= since + 3_600_000]
    trades = await client.fetch_trades(BTC.unified, since, 1000)
    assert [told(trade) for trade in trades] == [traded(tick) for tick in wanted]
    assert len(trades) > 5


@pytest.mark.parametrize("method", ["publicGetAggTrades", "publicGetHistoricalTrades"])
async def test_trades_from_an_id_are_those_from_it_on(client: Any, market: Market, method: str) -> None:
    wanted = market.trades[BTC][7:19]
    params = {"fetchTradesMethod": method, "fromId": wanted[0].trade_id}
    trades = await client.fetch_trades(BTC.unified, limit=12, params=params)
    assert [told(trade) for trade in trades] == [traded(tick) for tick in wanted]


@pytest.mark.parametrize("listed", NATIVE, ids=lambda listed: listed.native)
async def test_ticker_is_the_native_one(market: Market, listed: Listed) -> None:
    def ask() -> Any:
        client = configured(ccxt.binance, market)
        ticker = client.fetch_ticker(listed.unified)
        assert ticker["symbol"] == listed.unified
        return ticker

    wanted, got = await asyncio.to_thread(settled, lambda: day(market, listed), ask)
    assert {name: got[name] for name in wanted} == wanted


async def test_tickers_of_all_and_of_some_are_those_of_each(client: Any, market: Market) -> None:
    every = await client.fetch_tickers()
    assert set(every) == {one.unified for one in INSTRUMENTS if market.trades[one]}
    some = await client.fetch_tickers([BTC.unified, COFFEE.unified])
    assert set(some) == {BTC.unified, COFFEE.unified}
    for ticker in (every[BTC.unified], some[BTC.unified]):
        assert ticker["last"] == plain(market.trades[BTC][-1].price)


@pytest.mark.parametrize(("window", "span"), [("1h", timedelta(hours=1)), ("2d", timedelta(days=2))])
async def test_ticker_of_a_window_is_that_of_its_trades(
    client: Any, market: Market, window: str, span: timedelta
) -> None:
    ticker = await client.fetch_ticker(BTC.unified, {"rolling": True, "windowSize": window})
    start, end = ticker["info"]["openTime"], ticker["info"]["closeTime"]
    assert 0 <= end - start - span // timedelta(milliseconds=1) < 60_000
    inside = [tick for tick in market.trades[BTC] if start * 1000 <= tick.time_us]
    prices = [tick.price for tick in inside]
    assert ticker["info"]["count"] == len(inside) > 0
    assert (ticker["info"]["firstId"], ticker["info"]["lastId"]) == (inside[0].trade_id, inside[-1].trade_id)
    wanted = [prices[0], max(prices), min(prices), prices[-1], prices[-1] - prices[0]]
    assert [ticker[name] for name in ("open", "high", "low", "last", "change")] == [plain(price) for price in wanted]
    several = await client.fetch_tickers([BTC.unified, KRAKEN.unified], {"rolling": True, "windowSize": window})
    assert set(several) == {BTC.unified, KRAKEN.unified}


async def test_last_prices_are_those_of_the_last_trades(client: Any, market: Market) -> None:
    prices = await client.fetch_last_prices()
    wanted = {one.unified: plain(market.trades[one][-1].price) for one in PAST}
    assert {symbol: prices[symbol]["price"] for symbol in wanted} == wanted


async def test_bids_and_asks_stand_at_the_last_price_and_offer_nothing(client: Any, market: Market) -> None:
    books = await client.fetch_bids_asks([one.unified for one in PAST])
    for one in PAST:
        last, book = plain(market.trades[one][-1].price), books[one.unified]
        assert (book["bid"], book["ask"]) == (last, last)
        assert float(book["bidVolume"]) == float(book["askVolume"]) == 0


async def test_errors_are_those_that_ccxt_knows(client: Any) -> None:
    await client.load_markets()
    with pytest.raises(ccxt.BadSymbol, match="-1121"):
        await client.publicGetKlines({"symbol": "NOSUCH", "interval": "1m"})
    with pytest.raises(ccxt.BadRequest, match="-1120"):
        await client.fetch_ohlcv(BTC.unified, "7m")
    with pytest.raises(ccxt.BadRequest, match="-1102"):
        await client.publicGetTrades({})
