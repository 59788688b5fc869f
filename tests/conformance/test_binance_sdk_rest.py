"""binance-sdk-spot over REST: each call for market data, in its typed models."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from binance_common.configuration import ConfigurationRestAPI
from binance_sdk_spot import BadRequestError, Spot, TooManyRequestsError
from binance_sdk_spot.rest_api.models import (
    KlinesIntervalEnum,
    Ticker24hrTypeEnum,
    TickerTypeEnum,
    TickerWindowSizeEnum,
)

from app.market.model import MICROSECOND, Tick, plain, to_micros
from tests.conformance.market import (
    BTC,
    COFFEE,
    INSTRUMENTS,
    KRAKEN,
    LAMP,
    NATIVE,
    PAST,
    SILENT,
    Listed,
    Market,
    opened,
    settled,
)
from tests.conformance.sdk import whole, without_complaint
from tests.databases import Databases
from tests.integration.binance_rest import begin_minute
from tests.integration.reckoning import bucket_starts, reckon

OF_EVERY_SOURCE = pytest.mark.parametrize("listed", PAST, ids=lambda listed: listed.native)


def configured(market: Market, **options: Any) -> Any:
    """A client whose calls are made only once: an error is to be seen."""
    given = ConfigurationRestAPI(api_key="any", base_path=market.url, retries=0, timeout=20_000, **options)
    return Spot(config_rest_api=given).rest_api


@pytest.fixture
def client(market: Market) -> Iterator[Any]:
    with without_complaint():
        yield configured(market)


def rows(market: Market, listed: Listed, interval: str, offset: timedelta = timedelta()) -> list[list[Any]]:
    """Klines out of the trades, by other means than the product's; at an offset, as those of UTC in another world."""
    moved = [msgspec.structs.replace(one, time_us=one.time_us + offset // MICROSECOND) for one in market.trades[listed]]
    start = bucket_starts(interval, UTC)

    def ms(moment: datetime) -> int:
        return to_micros(moment - offset) // 1000

    return [
        [ms(row[0]), *row[1:6], ms(start(row[0] + BEYOND[interval])) - 1, row[6], *row[7:10], "0"]
        for row in reckon(moved, interval)
    ]


BEYOND = {
    "1s": timedelta(seconds=1),
    "1m": timedelta(minutes=1),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
    "3d": timedelta(days=3),
    "1w": timedelta(days=7),
    "1M": timedelta(days=31),
}
"""From the start of a candle into the next one."""


def told(trade: Any) -> tuple[Any, ...]:
    return trade.id, trade.price, trade.qty, trade.quote_qty, trade.time, trade.is_buyer_maker, trade.is_best_match


def traded(tick: Tick) -> tuple[Any, ...]:
    """A trade as it was inserted; where nobody knows who took, the buyer counts as the maker."""
    numbers = plain(tick.price), plain(tick.size), plain(tick.price * tick.size)
    return tick.trade_id, *numbers, tick.time_us // 1000, tick.buyer_is_maker is not False, True


def average(trades: list[Tick], since: int) -> str | None:
    """The price of the trades from a millisecond on, weighted by their sizes."""
    inside = [tick for tick in trades if tick.time_us >= since * 1000]
    if not inside:
        return None
    return f"{sum(tick.size * tick.price for tick in inside) / sum(tick.size for tick in inside):.8f}"


def test_ping_and_time_are_answered(client: Any) -> None:
    assert client.ping().data() is not None
    before = time.time_ns() // 1_000_000
    assert before <= whole(client.time().data()).server_time <= time.time_ns() // 1_000_000


def test_exchange_info_lists_every_instrument_whole(client: Any) -> None:
    info = whole(client.exchange_info().data())
    assert [found.symbol for found in info.symbols] == sorted(one.name for one in INSTRUMENTS)
    by_name = {found.symbol: found for found in info.symbols}
    for one in INSTRUMENTS:
        found = by_name[one.name]
        assert f"{found.base_asset}/{found.quote_asset}" == one.unified
        assert (found.status, found.is_spot_trading_allowed, found.permission_sets) == ("TRADING", True, [["SPOT"]])
        price, size, notional = (part.actual_instance for part in found.filters)
        assert (price.filter_type, size.filter_type, notional.filter_type) == ("PRICE_FILTER", "LOT_SIZE", "NOTIONAL")
        assert float(price.tick_size) == 10.0**-one.scale


def test_exchange_info_of_some_lists_them_alone(client: Any) -> None:
    assert [found.symbol for found in client.exchange_info(symbol=LAMP.name).data().symbols] == [LAMP.name]
    names = [KRAKEN.name, BTC.name]
    assert {found.symbol for found in client.exchange_info(symbols=names).data().symbols} == set(names)
    sparse = client.exchange_info(show_permission_sets=False).data().symbols
    assert all(found.permission_sets == [] for found in sparse)


@pytest.mark.parametrize("interval", BEYOND)
def test_klines_are_those_of_the_trades(client: Any, market: Market, interval: str) -> None:
    wanted = rows(market, BTC, interval)[-1000:]
    for call in (client.klines, client.ui_klines):
        assert call(symbol=BTC.name, interval=KlinesIntervalEnum(interval), limit=1000).data() == wanted


@pytest.mark.parametrize("listed", NATIVE, ids=lambda listed: listed.native)
def test_klines_are_the_native_candles_to_the_digit(client: Any, market: Market, listed: Listed) -> None:
    names = (
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "trades",
        "taker_buy_volume",
        "taker_buy_quote_volume",
    )
    for interval in KlinesIntervalEnum:
        natives = market.native("candles", listed, interval=interval.value)["candles"]
        got = client.klines(symbol=listed.name, interval=interval).data()
        assert [[*row[1:6], *row[7:11]] for row in got] == [[native[name] for name in names] for native in natives]


@pytest.mark.parametrize(
    ("zone", "minutes"), [("8", 480), ("-3:00", -180), ("+14:00", 840), ("-12:00", -720), ("05:45", 345), ("0", 0)]
)
def test_klines_of_another_time_zone_are_cut_by_its_clock(client: Any, market: Market, zone: str, minutes: int) -> None:
    for interval in ("1h", "12h", "1d", "3d", "1w", "1M"):
        got = client.klines(symbol=BTC.name, interval=KlinesIntervalEnum(interval), time_zone=zone).data()
        assert got == rows(market, BTC, interval, timedelta(minutes=minutes))[-500:], interval


def test_klines_of_a_range_in_microseconds_are_told_in_microseconds(market: Market) -> None:
    first, *_, last = wanted = rows(market, BTC, "15m")[10:20]
    with without_complaint():
        got = configured(market, time_unit="MICROSECOND").klines(
            symbol=BTC.name, interval=KlinesIntervalEnum("15m"), start_time=first[0] * 1000, end_time=last[0] * 1000
        )
        assert [[row[0] // 1000, *row[1:6]] for row in got.data()] == [row[:6] for row in wanted]
        assert all(row[0] % 900_000_000 == 0 and row[6] == row[0] + 899_999_999 for row in got.data())


def test_klines_where_nothing_traded_are_none(client: Any) -> None:
    assert client.klines(symbol=SILENT.name, interval=KlinesIntervalEnum("1m")).data() == []


@OF_EVERY_SOURCE
def test_trades_are_those_inserted(client: Any, market: Market, listed: Listed) -> None:
    every = market.trades[listed]
    recent = client.get_trades(symbol=listed.name).data()
    assert [told(trade) for trade in whole(recent)] == [traded(tick) for tick in every[-500:]]
    past = client.historical_trades(symbol=listed.name, limit=9, from_id=every[3].trade_id).data()
    assert [told(trade) for trade in whole(past)] == [traded(tick) for tick in every[3:12]]


@OF_EVERY_SOURCE
def test_agg_trades_are_single_trades(client: Any, market: Market, listed: Listed) -> None:
    def ids(**options: Any) -> list[int]:
        got = whole(client.agg_trades(symbol=listed.name, **options).data())
        for trade in got:
            tick = by_id[trade.a]
            assert (trade.f, trade.l, trade.T, trade.M) == (trade.a, trade.a, tick.time_us // 1000, True)
            assert (trade.p, trade.q, trade.m) == (
                plain(tick.price),
                plain(tick.size),
                tick.buyer_is_maker is not False,
            )
        return [trade.a for trade in got]

    every = market.trades[listed]
    by_id = {tick.trade_id: tick for tick in every}
    wanted = list(by_id)
    assert ids(limit=1000) == wanted[-1000:]
    assert ids(from_id=wanted[5], limit=4) == wanted[5:9]
    assert ids(start_time=every[40].time_us // 1000, end_time=every[45].time_us // 1000) == wanted[40:46]
    assert ids(end_time=every[2].time_us // 1000 + 1) == wanted[:3]


def test_avg_price_is_that_of_five_minutes_and_the_current_one_by_volume(client: Any, market: Market) -> None:
    minute, got = settled(
        lambda: client.time().data().server_time // 60_000, lambda: whole(client.avg_price(symbol=BTC.name).data())
    )
    last = market.trades[BTC][-1]
    assert (got.mins, got.close_time) == (5, last.time_us // 1000)
    assert got.price == (average(market.trades[BTC], (minute - 5) * 60_000) or plain(last.price))


@pytest.mark.parametrize("listed", NATIVE, ids=lambda listed: listed.native)
def test_ticker24hr_is_the_native_ticker(client: Any, market: Market, listed: Listed) -> None:
    full, mini, native = settled(
        lambda: whole(client.ticker24hr(symbol=listed.name).data().actual_instance),
        lambda: client.ticker24hr(symbol=listed.name, type=Ticker24hrTypeEnum("MINI")).data().actual_instance,
        lambda: market.native("ticker", listed),
        same=lambda ticker: ticker.open_time,
    )
    assert full.symbol == mini.symbol == listed.name
    for ticker in (full, mini):
        assert [ticker.open_price, ticker.high_price, ticker.low_price, ticker.last_price] == [
            native[name] for name in ("open", "high", "low", "last")
        ]
        assert [ticker.volume, ticker.quote_volume, ticker.count] == [
            native[name] for name in ("volume", "quote_volume", "trades")
        ]
    assert (full.price_change, full.price_change_percent) == (native["change"], native["change_percent"])
    assert mini.bid_price is None
    inside = [tick for tick in market.trades[listed] if tick.time_us >= full.open_time * 1000]
    before = [tick for tick in market.trades[listed] if tick.time_us < full.open_time * 1000]
    assert (full.first_id, full.last_id) == (inside[0].trade_id, inside[-1].trade_id)
    assert (full.prev_close_price, full.last_qty) == (plain(before[-1].price), plain(inside[-1].size))
    assert full.weighted_avg_price == average(inside, 0)


def test_tickers_of_several_come_as_a_list(client: Any, market: Market) -> None:
    names = [BTC.name, COFFEE.name]
    for call in (client.ticker24hr, client.ticker_price, client.ticker_book_ticker, client.ticker):
        got = whole(call(symbols=names).data().actual_instance)
        assert [ticker.symbol for ticker in got] == names
    for call in (client.ticker24hr, client.ticker_price, client.ticker_book_ticker):
        got = whole(call().data().actual_instance)
        assert {ticker.symbol for ticker in got} >= {one.name for one in PAST}


@pytest.mark.parametrize("window", ["1m", "59m", "1h", "23h", "7d"])
def test_ticker_of_a_window_is_that_of_its_trades(client: Any, market: Market, window: str) -> None:
    asked = {"symbol": BTC.name, "window_size": TickerWindowSizeEnum(window)}
    full = whole(client.ticker(**asked).data().actual_instance)
    mini = client.ticker(**asked, type=TickerTypeEnum("MINI")).data().actual_instance
    inside = [tick for tick in market.trades[BTC] if tick.time_us >= full.open_time * 1000]
    prices = [tick.price for tick in inside]
    assert (full.count, full.last_price) == (len(inside), plain(market.trades[BTC][-1].price))
    assert mini.price_change is None
    if prices:
        assert [full.open_price, full.high_price, full.low_price] == [
            plain(price) for price in (prices[0], max(prices), min(prices))
        ]
        assert (full.volume, full.quote_volume) == (
            plain(sum(tick.size for tick in inside)),
            plain(sum(tick.size * tick.price for tick in inside)),
        )


@OF_EVERY_SOURCE
def test_ticker_price_and_book_ticker_are_the_last_price(client: Any, market: Market, listed: Listed) -> None:
    last = plain(market.trades[listed][-1].price)
    assert whole(client.ticker_price(symbol=listed.name).data().actual_instance).price == last
    book = whole(client.ticker_book_ticker(symbol=listed.name).data().actual_instance)
    assert (book.bid_price, book.ask_price, float(book.bid_qty), float(book.ask_qty)) == (last, last, 0, 0)


def test_errors_have_the_published_codes(client: Any) -> None:
    with pytest.raises(BadRequestError, match="Invalid symbol") as caught:
        client.get_trades(symbol="NOSUCH")
    assert caught.value.status_code == -1121
    with pytest.raises(BadRequestError) as caught:
        client.ticker24hr(symbol=BTC.name, symbols=[BTC.name])
    assert caught.value.status_code == -1128


def test_weight_is_told_and_above_the_limit_refused(databases: Databases) -> None:
    with opened(databases, TICKWICK_REQUEST_WEIGHT="60") as market, without_complaint():
        begin_minute(market.database)
        client = configured(market)
        first, second = (client.get_trades(symbol=BTC.name).rate_limits[0].count for _ in range(2))
        assert (first, second) == (25, 50)
        with pytest.raises(TooManyRequestsError) as caught:
            client.get_trades(symbol=BTC.name)
        assert caught.value.status_code == -1003
        assert 0 < caught.value.retry_after <= 120
