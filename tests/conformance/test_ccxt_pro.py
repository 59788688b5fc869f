"""ccxt over websockets: each call of `/ws` that it has for market data."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ccxt
import ccxt.pro
import pytest

from tests.conformance.market import BTC, ETH, KRAKEN_ETH, PATIENCE, TEA, Listed, Market, kline_of, settled
from tests.conformance.unified import configured, told, traded
from tests.integration.stream_harness import eventually

NAMED_OTHERWISE = pytest.mark.parametrize("listed", [KRAKEN_ETH, TEA], ids=lambda listed: listed.native)


@pytest.fixture
async def client(market: Market) -> AsyncIterator[Any]:
    async with configured(ccxt.pro.binance, market) as made:
        made.urls["api"]["ws"]["spot"] = market.ws + "/ws"
        await made.load_markets()
        yield made


async def first(market: Market, listed: Listed, call: Any) -> Any:
    """What a call answers that waits for news, while there are some."""
    return await market.trade_until(listed, asyncio.ensure_future(call))


async def until(seen: Any, ask: Any) -> Any:
    """The first answer that is as wanted."""
    async with asyncio.timeout(PATIENCE):
        while not seen(answer := await ask()):
            pass
    return answer


@NAMED_OTHERWISE
@pytest.mark.parametrize("name", ["trade", "aggTrade"])
async def test_watch_trades_tells_each_trade_once_in_order(
    client: Any, market: Market, listed: Listed, name: str
) -> None:
    async def ask() -> list[Any]:
        return [told(trade) for trade in await client.watch_trades(listed.unified, params={"name": name})]

    got = await first(market, listed, ask())
    await market.trade(listed, 70)
    wanted = [traded(tick) for tick in market.trades[listed]]
    async with asyncio.timeout(PATIENCE):
        while got[-1] != wanted[-1]:
            got += await ask()
    assert got == wanted[-len(got) :]
    assert len(got) > 70


async def test_watch_trades_for_symbols_tells_of_both_sources(client: Any, market: Market) -> None:
    symbols, seen = [ETH.unified, KRAKEN_ETH.unified], set()
    asked = asyncio.ensure_future(client.watch_trades_for_symbols(symbols))
    async with asyncio.timeout(PATIENCE):
        while seen != {ETH.unified, KRAKEN_ETH.unified}:
            await market.trade(KRAKEN_ETH)
            for trade in await market.trade_until(ETH, asked):
                listed = ETH if trade["symbol"] == ETH.unified else KRAKEN_ETH
                assert told(trade) in [traded(tick) for tick in market.trades[listed]]
                seen.add(trade["symbol"])
            asked = asyncio.ensure_future(client.watch_trades_for_symbols(symbols))
    asked.cancel()


@pytest.mark.parametrize("zone", ["0", "8"])
async def test_watch_ohlcv_of_every_timeframe_is_that_of_rest(client: Any, market: Market, zone: str) -> None:
    wishes = [[ETH.unified, timeframe] for timeframe in client.timeframes]
    params = {"timezone": "+08:00"} if zone == "8" else {}
    candles: dict[str, Any] = {}
    while set(candles) != set(client.timeframes):
        await first(market, ETH, client.watch_ohlcv_for_symbols(wishes, params=params))
        candles = client.ohlcvs[ETH.unified]
    price = float(await market.news(ETH))
    await eventually(lambda: all(rows[-1][4] == price for rows in candles.values()))
    for timeframe, rows in candles.items():
        query = {"symbol": ETH.name, "interval": timeframe, "timeZone": zone, "limit": 2}
        found = await asyncio.to_thread(market.get, "/api/v3/klines", **query)
        assert rows[-1] in [[row[0], *map(float, row[1:6])] for row in found], timeframe


async def test_watch_ohlcv_of_a_good_is_the_native_candle(client: Any, market: Market) -> None:
    await first(market, TEA, client.watch_ohlcv(TEA.unified, "1m"))
    price = float(await market.news(TEA))
    rows = await until(lambda rows: rows[-1][4] == price, lambda: client.watch_ohlcv(TEA.unified, "1m"))
    natives = market.native("candles", TEA, interval="1m", limit=2)["candles"]
    assert rows[-1] in [[float(value) for value in kline_of(native)] for native in natives]


TICKER = {
    "last": "last",
    "open": "open",
    "high": "high",
    "low": "low",
    "baseVolume": "volume",
    "quoteVolume": "quote_volume",
}
FULL = {**TICKER, "change": "change", "percentage": "change_percent", "bid": "last", "ask": "last"}


@pytest.mark.parametrize(("name", "names"), [("miniTicker", TICKER), ("ticker", FULL)])
@NAMED_OTHERWISE
async def test_watch_ticker_is_the_native_one(
    client: Any, market: Market, listed: Listed, name: str, names: dict[str, str]
) -> None:
    async def ask() -> Any:
        return await client.watch_ticker(listed.unified, {"name": name})

    await first(market, listed, ask())
    price = await market.news(listed)
    got = await until(lambda ticker: ticker["last"] == price, ask)
    (native,) = settled(lambda: market.native("ticker", listed))
    assert {ours: got[ours] for ours in names} == {ours: native[theirs] for ours, theirs in names.items()}


@pytest.mark.parametrize("name", ["miniTicker", "ticker"])
async def test_watch_tickers_of_all_tells_of_those_that_traded(client: Any, market: Market, name: str) -> None:
    async def ask() -> Any:
        return await client.watch_tickers(params={"name": name})

    while BTC.unified in await first(market, ETH, ask()):
        pass  # with each minute the windows of all move on
    prices = {listed.unified: await market.news(listed) for listed in (ETH, TEA)}
    seen: dict[str, str] = {}

    async def gather() -> dict[str, str]:
        seen.update({symbol: ticker["last"] for symbol, ticker in (await ask()).items()})
        return seen

    await until(lambda seen: all(seen.get(symbol) == price for symbol, price in prices.items()), gather)


async def test_watch_tickers_of_some_tells_of_them_alone(client: Any, market: Market) -> None:
    tickers = await first(market, ETH, client.watch_tickers([ETH.unified, TEA.unified]))
    assert set(tickers) <= {ETH.unified, TEA.unified}


async def test_unwatch_is_answered_and_the_connection_goes_on(client: Any, market: Market) -> None:
    await first(market, ETH, client.watch_trades(ETH.unified))
    async with asyncio.timeout(PATIENCE):
        await client.un_watch_trades(ETH.unified)
    trades = await first(market, ETH, client.watch_trades(ETH.unified))
    assert told(trades[-1]) in [traded(tick) for tick in market.trades[ETH]]


async def test_watch_of_what_there_is_not_is_refused_and_the_connection_goes_on(client: Any, market: Market) -> None:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ccxt.ExchangeError, match="there is no stream 'ethusdt@bookTicker'"):
            await client.watch_bids_asks([ETH.unified])
    assert await first(market, ETH, client.watch_trades(ETH.unified))
