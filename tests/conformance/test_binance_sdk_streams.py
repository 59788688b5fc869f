"""binance-sdk-spot over `/stream`: each stream of market data, in its typed models."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import binance_common.websocket
import pytest
from binance_common.configuration import ConfigurationWebSocketStreams
from binance_common.constants import TimeUnit
from binance_sdk_spot import Spot
from binance_sdk_spot.websocket_streams.models import KlineIntervalEnum, KlineOffsetIntervalEnum

from app.market.model import Tick, plain
from tests.conformance.market import BTC, ETH, KRAKEN_ETH, PATIENCE, TEA, Listed, Market, kline_of, settled
from tests.conformance.sdk import whole, without_complaint

NAMED_OTHERWISE = pytest.mark.parametrize("listed", [KRAKEN_ETH, TEA], ids=lambda listed: listed.native)


class Followed:
    """A stream that the client follows; everything it brings is whole."""

    def __init__(self, stream: Any) -> None:
        self._news: asyncio.Queue[Any] = asyncio.Queue()
        stream.on("message", self._news.put_nowait)
        self.unsubscribe = stream.unsubscribe

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return whole(await self._news.get())

    async def until(self, seen: Callable[[Any], object]) -> Any:
        while not seen(event := await self.next()):
            pass
        return event


@asynccontextmanager
async def connected(market: Market, **options: Any) -> AsyncIterator[Any]:
    client = Spot(config_ws_streams=ConfigurationWebSocketStreams(stream_url=market.ws, **options)).websocket_streams
    connection = await client.create_connection()
    assert connection is not None
    try:
        yield connection
    finally:
        await connection.close_connection(close_session=True)


@pytest.fixture
async def client(market: Market, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    # As quick as five messages a second allow.
    monkeypatch.setattr(binance_common.websocket, "SUBSCRIBE_MESSAGE_DELAY_SECONDS", 0.21)
    with without_complaint():
        async with connected(market) as made:
            yield made


async def first(market: Market, listed: Listed, stream: Followed) -> Any:
    return await market.trade_until(listed, asyncio.ensure_future(stream.next()))


def trade(event: Any) -> tuple[Any, ...]:
    return event.t, event.s, event.p, event.q, event.T, event.m, event.M


def aggregate(event: Any) -> tuple[Any, ...]:
    assert event.a == event.f == event.l
    return event.a, event.s, event.p, event.q, event.T, event.m, event.M


def traded(listed: Listed, tick: Tick) -> tuple[Any, ...]:
    maker = tick.buyer_is_maker is not False
    return tick.trade_id, listed.name, plain(tick.price), plain(tick.size), tick.time_us // 1000, maker, True


@NAMED_OTHERWISE
async def test_trade_and_agg_trade_tell_each_trade_once_in_order(client: Any, market: Market, listed: Listed) -> None:
    singles = Followed(await client.trade(symbol=listed.name))
    aggregates = Followed(await client.agg_trade(symbol=listed.name.lower()))
    for stream, kind, told in ((singles, "trade", trade), (aggregates, "aggTrade", aggregate)):
        events = [await first(market, listed, stream)]
        inserted = await market.trade(listed, 40)
        while told(events[-1])[0] < inserted[-1].trade_id:
            events.append(await stream.next())
        wanted = [traded(listed, tick) for tick in market.trades[listed]]
        assert [told(event) for event in events] == wanted[-len(events) :]
        assert {event.e for event in events} == {kind}
        assert all(event.E >= event.T for event in events)


def numbers(event: Any) -> list[Any]:
    k = event.k
    return [k.o, k.h, k.l, k.c, k.v, k.q, k.n, k.V, k.Q, k.f, k.L]


async def native(market: Market, listed: Listed, event: Any) -> list[Any]:
    """The native candle of a kline, to the digit."""
    found = await asyncio.to_thread(market.native, "candles", listed, interval=event.k.i, limit=2)
    (candle,) = (one for one in found["candles"] if kline_of(one)[0] == event.k.t)
    more = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume", "first_id", "last_id")
    return [*kline_of(candle)[1:], *(candle[name] for name in more)]


@NAMED_OTHERWISE
async def test_kline_is_the_native_candle(client: Any, market: Market, listed: Listed) -> None:
    stream = Followed(await client.kline(symbol=listed.name, interval=KlineIntervalEnum("1h").value))
    await first(market, listed, stream)
    price = await market.news(listed)
    event = await stream.until(lambda event: event.k.c == price)
    assert numbers(event) == await native(market, listed, event)
    assert (event.e, event.s, event.k.s, event.k.B) == ("kline", listed.name, listed.name, "0")


async def test_kline_of_a_second_is_closed_by_the_clock(client: Any, market: Market) -> None:
    stream = Followed(await client.kline(symbol=ETH.name, interval=KlineIntervalEnum("1s").value))
    await first(market, ETH, stream)
    last = (await market.trade(ETH))[-1]
    closed = await stream.until(lambda event: event.k.x and last.trade_id == event.k.L)
    assert closed.k.T == closed.k.t + 999 < closed.E
    assert numbers(closed) == await native(market, ETH, closed)


async def test_kline_with_an_offset_is_cut_by_its_clock(client: Any, market: Market) -> None:
    streams = {}
    for interval in ("12h", "1d", "1w", "1M"):
        asked = await client.kline_offset(symbol=ETH.name, interval=KlineOffsetIntervalEnum(interval).value)
        streams[interval] = Followed(asked)
    for stream in streams.values():
        await first(market, ETH, stream)
    price = await market.news(ETH)
    for interval, stream in streams.items():
        event = await stream.until(lambda event: event.k.c == price)
        query = {"symbol": ETH.name, "interval": interval, "timeZone": "8", "limit": 2}
        found = {row[0]: row for row in await asyncio.to_thread(market.get, "/api/v3/klines", **query)}
        row = found[event.k.t]
        assert [event.k.i, event.k.T] == [interval, row[6]]
        assert numbers(event)[:9] == [*row[1:6], *row[7:11]]


@NAMED_OTHERWISE
async def test_ticker_is_the_native_ticker(client: Any, market: Market, listed: Listed) -> None:
    tickers = Followed(await client.ticker(symbol=listed.name))
    minis = Followed(await client.mini_ticker(symbol=listed.name))
    for stream in (tickers, minis):
        await first(market, listed, stream)
    price = await market.news(listed)
    event = await tickers.until(lambda event: event.c == price)
    mini = await minis.until(lambda event: event.c == price)
    (native,) = await asyncio.to_thread(settled, lambda: market.native("ticker", listed))
    names = ["open", "high", "low", "last", "volume", "quote_volume"]
    for told in (event, mini):
        assert [told.o, told.h, told.l, told.c, told.v, told.q] == [native[name] for name in names]
        assert told.s == listed.name
    assert (event.e, mini.e) == ("24hrTicker", "24hrMiniTicker")
    assert [event.p, event.P, event.n] == [native[name] for name in ("change", "change_percent", "trades")]
    ticks = market.trades[listed]
    assert [ticks[0].trade_id, ticks[-1].trade_id, plain(ticks[-1].size)] == [event.F, event.L, event.Q]
    assert (event.b, event.a, float(event.B), float(event.A)) == (price, price, 0, 0)
    assert event.C - event.O >= 86_400_000
    volume, turnover = sum(tick.size for tick in ticks), sum(tick.size * tick.price for tick in ticks)
    assert event.w == f"{turnover / volume:.8f}"


async def test_all_mini_ticker_tells_of_those_that_traded(client: Any, market: Market) -> None:
    stream = Followed(await client.all_mini_ticker())
    while BTC.name in {ticker.s for ticker in await first(market, ETH, stream)}:
        pass  # with each minute the windows of all move on
    prices = {listed.name: await market.news(listed) for listed in (ETH, KRAKEN_ETH, TEA)}
    told: dict[str, str] = {}
    while prices.items() - told.items():
        told |= {ticker.s: ticker.c for ticker in await stream.next()}


@NAMED_OTHERWISE
async def test_avg_price_is_that_of_rest(client: Any, market: Market, listed: Listed) -> None:
    stream = Followed(await client.avg_price(symbol=listed.name))
    await first(market, listed, stream)
    await market.news(listed)
    last = market.trades[listed][-1]
    event = await stream.until(lambda event: last.time_us // 1000 == event.T)
    (rest,) = await asyncio.to_thread(settled, lambda: market.get("/api/v3/avgPrice", symbol=listed.name))
    assert (event.e, event.s, event.i, event.w) == ("avgPrice", listed.name, "5m", rest["price"])


async def test_streams_in_microseconds_tell_times_whole(market: Market) -> None:
    with without_complaint():
        async with connected(market, time_unit=TimeUnit.MICROSECOND) as client:
            event = await first(market, ETH, Followed(await client.trade(symbol=ETH.name)))
    assert event.T in [tick.time_us for tick in market.trades[ETH]]
    assert event.E >= event.T


async def test_subscriptions_are_listed_and_ended(client: Any, market: Market) -> None:
    trades = Followed(await client.trade(symbol=ETH.name))
    Followed(await client.kline(symbol=TEA.name, interval=KlineIntervalEnum("1M").value))
    assert set((await client.list_subscribe())["result"]) == {"ethusdt@trade", "teaeur@kline_1M"}
    await first(market, ETH, trades)
    await trades.unsubscribe()
    assert (await client.list_subscribe())["result"] == ["teaeur@kline_1M"]
