"""`/api/v3` over a real server: what each call answers, beside what the native API says of the same."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from app.binance.handlers import CALLS
from app.market.intervals import Interval
from app.market.model import EXACT, MICROSECOND, Candle, Instrument, Tick, to_micros
from tests.databases import Database
from tests.integration.binance_rest import get
from tests.integration.reckoning import reckon
from tests.integration.rest import Rest, serving
from tests.integration.ticks import NOON, add_instrument, series, settle, store, tick

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MILLISECOND = 1000
CANDLE = Candle.__struct_fields__[1:10]
"""Of a native candle, what a kline tells beside its times."""


def ms(moment: datetime) -> int:
    return to_micros(moment) // MILLISECOND


def now() -> datetime:
    return datetime.now(UTC)


def trade_of(one: Tick, unit: int = MILLISECOND) -> dict[str, Any]:
    return {
        "id": one.trade_id,
        "price": f"{one.price:f}",
        "qty": f"{one.size:f}",
        "quoteQty": f"{EXACT.multiply(one.price, one.size):f}",
        "time": one.time_us // unit,
        "isBuyerMaker": one.buyer_is_maker is not False,
        "isBestMatch": True,
    }


def aggregate_of(one: Tick, unit: int = MILLISECOND) -> dict[str, Any]:
    return {
        "a": one.trade_id,
        "p": str(one.price),
        "q": str(one.size),
        "f": one.trade_id,
        "l": one.trade_id,
        "T": one.time_us // unit,
        "m": one.buyer_is_maker is not False,
        "M": True,
    }


def figures_of(kline: list[Any]) -> list[Any]:
    """A kline's figures, in the order of the native candle's."""
    return [*kline[1:6], *kline[7:11]]


# General


async def test_ping_answers_an_empty_object_and_time_the_clock(rest: Rest) -> None:
    assert await get(rest, "ping") == {}
    before, told, after = ms(now()), (await get(rest, "time"))["serverTime"], ms(now())
    assert before <= told <= after
    before, told, after = to_micros(now()), (await get(rest, "time", micros=True))["serverTime"], to_micros(now())
    assert before <= told <= after


async def test_exchange_info_lists_all_instruments_by_names_that_are_unique(any_database: Database) -> None:
    for source, ticker in [("SIM", "BTC-USDT"), ("COINBASE", "BTCUSDT"), ("COINBASE", "BTC/USDT"), ("SHOP", "BEER")]:
        await add_instrument(any_database, ticker, source)
    any_database.execute("UPDATE market.instruments SET base = NULL, quote = 'EUR' WHERE source = 'SHOP'")
    any_database.execute("UPDATE market.instruments SET active = false WHERE ticker = 'BTC/USDT'")
    async with serving(any_database) as rest:
        info = await get(rest, "exchangeInfo")
        assert (info["timezone"], info["exchangeFilters"]) == ("UTC", [])
        assert info["rateLimits"] == [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}
        ]
        told = [(one["symbol"], one["baseAsset"], one["quoteAsset"], one["status"]) for one in info["symbols"]]
        assert told == [
            ("BEER", "BEER", "EUR", "TRADING"),
            ("BTCUSDT", "BTC", "USDT", "TRADING"),
            ("COINBASE.BTCUSDT", "COINBASE.BTC", "USDT", "TRADING"),
            ("COINBASE.BTCUSDT.3", "COINBASE.BTC.3", "USDT", "BREAK"),
        ]
        assert all(one["permissionSets"] == [["SPOT"]] and one["isSpotTradingAllowed"] for one in info["symbols"])
        for query, found in {
            (("symbol", "COINBASE.BTCUSDT"),): ["COINBASE.BTCUSDT"],
            (("symbol", "SIM.BTCUSDT"),): ["BTCUSDT"],
            (("symbols", '["BTCUSDT","BEER"]'),): ["BTCUSDT", "BEER"],
            (("symbolStatus", "BREAK"),): ["COINBASE.BTCUSDT.3"],
            (("symbolStatus", "HALT"),): [],
            (("permissions", "SPOT"), ("symbolStatus", "BREAK")): ["COINBASE.BTCUSDT.3"],
            (("permissions", '["MARGIN","LEVERAGED"]'),): [],
        }.items():
            symbols = (await get(rest, "exchangeInfo", **dict(query)))["symbols"]
            assert [one["symbol"] for one in symbols] == found, query
        [one] = (await get(rest, "exchangeInfo", symbol="BEER", showPermissionSets="false"))["symbols"]
        assert one["permissionSets"] == []


async def test_answers_have_the_form_that_the_openapi_document_tells(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, [tick(instrument, 1), tick(instrument, 2, now())], quiet=True)
    for call in CALLS:
        fit = {"symbol": "BTCUSDT", "interval": "1m"}
        query = {name: value for name, value in fit.items() if name in call.allowed}
        answer = await get(rest, call.name, **query)
        assert answer or call.name == "ping"
        msgspec.convert(answer, call.answer)
        if "symbols" in call.allowed:
            msgspec.convert(await get(rest, call.name, symbols='["BTCUSDT"]'), call.answer)
    paths = (await rest.ask("/schema/openapi.json")).json["paths"]
    assert {path for path in paths if path.startswith("/api/v3")} == {f"/api/v3/{call.name}" for call in CALLS}
    for call in CALLS:
        [(method, told)] = paths[f"/api/v3/{call.name}"].items()
        assert method == "get"
        assert {one["name"] for one in told.get("parameters", ()) if one["in"] == "query"} == call.allowed
        assert {*told["responses"]} == {"200", "400", "429", "503"}


# Klines


async def test_klines_equal_the_native_candles_to_the_digit_in_every_interval(database: Database) -> None:
    instrument = await add_instrument(database)
    recent = now().replace(minute=0, second=0, microsecond=0) - 50 * MINUTE
    await store(database, [*series(instrument, 150, NOON, step=977.5), *series(instrument, 40, recent, 77, 151)])
    await settle(database)
    async with serving(database) as rest:
        for interval in Interval:
            native = (await rest.get("/candles/BTCUSDT", interval=interval, limit=1000))["candles"]
            klines = await get(rest, "klines", symbol="BTCUSDT", interval=interval, limit=1000)
            assert [figures_of(one) for one in klines] == [[one[name] for name in CANDLE] for one in native], interval
            opened = [ms(datetime.fromisoformat(one["time"])) for one in native]
            assert [one[0] for one in klines] == opened, interval
            assert {one[11] for one in klines} == {"0"}
            assert all(one[6] < following[0] for one, following in pairwise(klines))
            assert await get(rest, "uiKlines", symbol="BTCUSDT", interval=interval, limit=1000) == klines


@pytest.mark.parametrize(
    ("interval", "end"),
    [
        ("1s", NOON + timedelta(seconds=1)),
        ("4h", NOON + 4 * HOUR),
        ("1d", datetime(2024, 3, 16, tzinfo=UTC)),
        ("3d", datetime(2024, 3, 18, tzinfo=UTC)),
        ("1w", datetime(2024, 3, 18, tzinfo=UTC)),
        ("1M", datetime(2024, 4, 1, tzinfo=UTC)),
    ],
)
async def test_kline_closes_a_unit_before_the_next_one_opens(
    any_database: Database, instrument: Instrument, rest: Rest, interval: str, end: datetime
) -> None:
    await store(any_database, [tick(instrument, 1)], quiet=True)
    [kline] = await get(rest, "klines", symbol="BTCUSDT", interval=interval)
    [finer] = await get(rest, "klines", symbol="BTCUSDT", interval=interval, micros=True)
    assert kline[6] == ms(end) - 1
    assert (finer[0], finer[6]) == (kline[0] * 1000, to_micros(end) - 1)
    assert figures_of(kline) == figures_of(finer) == ["100.25"] * 4 + ["0.5", "50.125", 1, "0.5", "50.125"]


@pytest.fixture
async def minutes(any_database: Database, instrument: Instrument, rest: Rest) -> list[int]:
    """The open times of twenty minutes that each traded, with one between them that did not."""
    moments = [NOON + i * MINUTE for i in range(21) if i != 10]
    await store(any_database, [tick(instrument, i, moment) for i, moment in enumerate(moments, 1)], quiet=True)
    return [ms(moment) for moment in moments]


async def opened(rest: Rest, **query: Any) -> list[int]:
    return [one[0] for one in await get(rest, "klines", symbol="BTCUSDT", interval="1m", **query)]


async def test_klines_of_no_range_are_the_newest_ascending(rest: Rest, minutes: list[int]) -> None:
    assert await opened(rest, limit=3) == minutes[-3:]
    assert await opened(rest) == minutes


async def test_klines_from_a_start_are_the_oldest(rest: Rest, minutes: list[int]) -> None:
    assert await opened(rest, startTime=0, limit=1) == minutes[:1]
    assert await opened(rest, startTime=minutes[4], limit=3) == minutes[4:7]
    assert await opened(rest, startTime=minutes[4] + 1, limit=3) == minutes[5:8]
    assert await opened(rest, startTime=minutes[4] * 1000, limit=1) == minutes[4:5]
    assert await opened(rest, startTime=minutes[4] * 1000 + 1, limit=1) == minutes[5:6]
    assert await opened(rest, startTime=minutes[-1] + 1) == []


async def test_klines_up_to_an_end_are_the_newest(rest: Rest, minutes: list[int]) -> None:
    assert await opened(rest, endTime=minutes[7], limit=2) == minutes[6:8]
    assert await opened(rest, endTime=minutes[7] - 1, limit=2) == minutes[5:7]
    assert await opened(rest, endTime=minutes[7] * 1000 - 1, limit=2) == minutes[5:7]
    assert await opened(rest, endTime=minutes[0] - 1) == []
    assert await opened(rest, endTime=0) == []


async def test_klines_of_both_are_the_oldest_from_the_start_not_beyond_the_end(rest: Rest, minutes: list[int]) -> None:
    assert await opened(rest, startTime=minutes[3], endTime=minutes[12]) == minutes[3:13]
    assert await opened(rest, startTime=minutes[3], endTime=minutes[12], limit=4) == minutes[3:7]
    assert await opened(rest, startTime=minutes[3], endTime=minutes[3]) == minutes[3:4]
    assert await opened(rest, startTime=minutes[3], endTime=minutes[2]) == []


async def test_klines_of_any_moment_up_to_the_end_of_time_are_answered(rest: Rest, minutes: list[int]) -> None:
    for beyond in (10**13, 9_214_646_400_000, 10**14 - 1, 10**16, 10**20 - 1):
        assert await opened(rest, startTime=beyond) == []
        assert await opened(rest, endTime=beyond, limit=1) == minutes[-1:]


async def test_klines_are_at_most_a_thousand_and_five_hundred_unless_asked(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 1010, step=60), quiet=True)
    assert [len(await opened(rest, limit=limit)) for limit in (999, 1000, 1001, 10**19)] == [999, 1000, 1000, 1000]
    assert len(await opened(rest)) == 500


@pytest.mark.parametrize(
    ("zone", "hours"), [("0", 0), ("8", 8), ("-1:00", -1), ("05:45", 5.75), ("-12", -12), ("14:00", 14), ("+8", 8)]
)
async def test_klines_are_cut_in_the_time_zone_while_start_and_end_stay_utc(
    any_database: Database, instrument: Instrument, rest: Rest, zone: str, hours: float
) -> None:
    ticks = series(instrument, 900, step=601)  # several to the hour, which most of the zones cut
    await store(any_database, ticks, quiet=True)
    offset = timedelta(hours=hours)
    for interval in Interval:
        klines = await get(rest, "klines", symbol="BTCUSDT", interval=interval, timeZone=zone, limit=1000)
        # In a zone of a fixed offset the calendar is that of UTC, moved.
        moved = [msgspec.structs.replace(one, time_us=one.time_us + offset // MICROSECOND) for one in ticks]
        wanted = reckon(moved, interval)
        assert [one[0] for one in klines] == [ms(row[0] - offset) for row in wanted], (interval, zone)
        assert [figures_of(one) for one in klines] == [list(row[1:10]) for row in wanted], (interval, zone)
        middle = klines[len(klines) // 2]
        later = await get(
            rest, "klines", symbol="BTCUSDT", interval=interval, timeZone=zone, startTime=middle[0], limit=1
        )
        assert later == [middle]


# Trades


async def test_trades_are_the_newest_ascending_and_exact(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 1010)
    odd = tick(instrument, 2000, NOON + HOUR, "0.000000000000001234", "12345678901234567890.1", buyer_is_maker=None)
    await store(database, [*ticks, odd])
    async with serving(database) as rest:
        for call in ("trades", "historicalTrades"):
            assert await get(rest, call, symbol="BTCUSDT", limit=3) == [*map(trade_of, ticks[-2:]), trade_of(odd)]
            assert len(await get(rest, call, symbol="BTCUSDT")) == 500
            assert len(await get(rest, call, symbol="BTCUSDT", limit=5000)) == 1000
        finer = await get(rest, "trades", symbol="BTCUSDT", limit=2, micros=True)
        assert finer[0] == trade_of(ticks[-1], 1)


async def test_trades_from_an_id_on_include_it_and_ascend(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 30, step=4_000, first_id=100)
    await store(database, ticks, quiet=True)
    await settle(database)
    async with serving(database) as rest:
        for first_id, found in ((0, ticks[:5]), (100, ticks[:5]), (117, ticks[17:22]), (127, ticks[27:]), (130, [])):
            old = await get(rest, "historicalTrades", symbol="BTCUSDT", fromId=first_id, limit=5)
            assert old == [trade_of(one) for one in found], first_id
            page = await get(rest, "aggTrades", symbol="BTCUSDT", fromId=first_id, limit=5)
            assert page == [aggregate_of(one) for one in found], first_id
        assert await get(rest, "aggTrades", symbol="BTCUSDT", fromId=2**63 - 1) == []


async def test_pages_by_id_miss_none_where_times_are_in_another_order(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = []
    for one in series(instrument, 120, step=20.5):
        away = {7: HOUR, 8: -MINUTE, 30: 2 * DAY, 31: -DAY, 59: timedelta(seconds=70), 60: DAY}.get(one.trade_id)
        late = one.time_us + (away or 0 * DAY) // MICROSECOND
        if one.trade_id not in (40, 41, 90):  # such ids are missing for good
            ticks.append(msgspec.structs.replace(one, time_us=late))
    await store(database, ticks, quiet=True)
    await settle(database)
    async with serving(database) as rest:
        for limit in (1, 2, 7, 25, 117, 200):
            walked: list[dict[str, Any]] = []
            first_id = 0
            while page := await get(rest, "historicalTrades", symbol="BTCUSDT", fromId=first_id, limit=limit):
                walked += page
                first_id = page[-1]["id"] + 1
            assert walked == [trade_of(one) for one in ticks], limit


async def test_aggregate_trades_of_a_span_include_both_its_ends(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    ticks = [tick(instrument, i, NOON + i * timedelta(microseconds=500)) for i in range(10)]
    await store(any_database, ticks, quiet=True)
    noon, exact = ms(NOON), to_micros(NOON)

    async def ids(**query: Any) -> list[int]:
        return [one["a"] for one in await get(rest, "aggTrades", symbol="BTCUSDT", **query)]

    assert await ids() == [*range(10)]
    assert await ids(limit=2) == [8, 9]
    assert await ids(startTime=noon + 1, limit=3) == [2, 3, 4]
    assert await ids(startTime=exact + 501, limit=3) == [2, 3, 4]
    assert await ids(endTime=noon + 1, limit=3) == [1, 2, 3]
    assert await ids(endTime=exact + 1000) == [0, 1, 2]
    assert await ids(startTime=noon + 1, endTime=noon + 2) == [2, 3, 4, 5]
    assert await ids(startTime=noon + 1, endTime=exact + 1500, limit=1) == [2]
    assert await ids(startTime=noon + 1, endTime=noon) == []
    assert await ids(startTime=noon + 5) == []
    finer = await get(rest, "aggTrades", symbol="BTCUSDT", limit=1, micros=True)
    assert finer == [aggregate_of(ticks[-1], 1)]


# Prices


async def market(database: Database) -> list[Tick]:
    """Trades of BTCUSDT in the last two days; one of ETHUSDT a month ago; NEWUSDT has never traded."""
    instrument = await add_instrument(database)
    other = await add_instrument(database, "ETHUSDT")
    await add_instrument(database, "NEWUSDT")
    ticks = series(instrument, 1500, now().replace(second=0, microsecond=0) - 2 * DAY, step=115.2)
    await store(database, [*ticks, tick(other, 5, now() - 30 * DAY, "7.5", "2")])
    await settle(database)
    return ticks


async def test_day_ticker_equals_the_native_one_and_the_ticks(database: Database) -> None:
    ticks = await market(database)
    async with serving(database) as rest:
        native = await rest.get("/ticker/BTCUSDT")
        full = await get(rest, "ticker/24hr", symbol="BTCUSDT")
        start = full["openTime"] * 1000
        assert full["closeTime"] - full["openTime"] == pytest.approx(DAY // timedelta(milliseconds=1), abs=60_001)
        assert full["openTime"] % 60_000 == 0
        inside = [one for one in ticks if one.time_us >= start]
        volume = sum(one.size for one in inside)
        turnover = sum(one.price * one.size for one in inside)
        before = next(one for one in reversed(ticks) if one.time_us < start)
        assert full == {
            "symbol": "BTCUSDT",
            "priceChange": native["change"],
            "priceChangePercent": native["change_percent"],
            "weightedAvgPrice": str((turnover / volume).quantize(Decimal("1e-8"))),
            "prevClosePrice": str(before.price),
            "lastPrice": str(ticks[-1].price),
            "lastQty": str(ticks[-1].size),
            "bidPrice": str(ticks[-1].price),
            "bidQty": "0",
            "askPrice": str(ticks[-1].price),
            "askQty": "0",
            "openPrice": str(inside[0].price),
            "highPrice": str(max(one.price for one in inside)),
            "lowPrice": str(min(one.price for one in inside)),
            "volume": str(volume),
            "quoteVolume": str(turnover),
            "openTime": full["openTime"],
            "closeTime": full["closeTime"],
            "firstId": inside[0].trade_id,
            "lastId": inside[-1].trade_id,
            "count": len(inside),
        }
        mini = await get(rest, "ticker/24hr", symbol="BTCUSDT", type="MINI")
        left_out = {*list(full)[1:5], "lastQty", "bidPrice", "bidQty", "askPrice", "askQty"}
        assert {**mini, "closeTime": 0} == {
            **{name: value for name, value in full.items() if name not in left_out},
            "closeTime": 0,
        }
        finer = await get(rest, "ticker/24hr", symbol="BTCUSDT", micros=True)
        assert finer["openTime"] == start


@pytest.mark.parametrize(
    ("window", "length"), [("1m", MINUTE), ("59m", 59 * MINUTE), ("23h", 23 * HOUR), ("2d", 2 * DAY), (None, DAY)]
)
async def test_window_ticker_begins_with_a_minute_and_ends_now(
    any_database: Database, window: str | None, length: timedelta
) -> None:
    ticks = await market(any_database)
    async with serving(any_database) as rest:
        query = {"windowSize": window} if window else {}
        told = await get(rest, "ticker", symbol="BTCUSDT", **query)
        inside = [one for one in ticks if one.time_us >= told["openTime"] * 1000]
        assert (told["openTime"] % 60_000, (told["closeTime"] - told["openTime"]) // 60_000) == (0, length // MINUTE)
        assert told["count"] == len(inside)
        assert told["volume"] == str(sum((one.size for one in inside), Decimal(0)))
        assert told["lastPrice"] == str(ticks[-1].price)
        assert "lastQty" not in told
        assert (told["firstId"], told["lastId"]) == ((inside[0].trade_id, 1500) if inside else (-1, -1))
        assert "weightedAvgPrice" in told
        mini = await get(rest, "ticker", symbols='["BTCUSDT","NEWUSDT"]', type="MINI", **query)
        assert [one["symbol"] for one in mini] == ["BTCUSDT"]
        assert "weightedAvgPrice" not in mini[0]


async def test_tickers_of_many_leave_out_what_never_traded_and_alone_it_is_zero(database: Database) -> None:
    ticks = await market(database)
    database.execute("UPDATE market.instruments SET active = false WHERE ticker = 'ETHUSDT'")
    async with serving(database) as rest:
        day = await get(rest, "ticker/24hr")
        assert [(one["symbol"], one["lastPrice"], one["count"] > 0) for one in day] == [
            ("BTCUSDT", str(ticks[-1].price), True),
            ("ETHUSDT", "7.5", False),
        ]
        eth = day[1]
        assert (eth["prevClosePrice"], eth["volume"], eth["firstId"], eth["lastQty"]) == ("7.5", "0", -1, "2")
        prices = [{"symbol": "BTCUSDT", "price": str(ticks[-1].price)}, {"symbol": "ETHUSDT", "price": "7.5"}]
        assert await get(rest, "ticker/price") == prices
        assert await get(rest, "ticker/price", symbols='["ETHUSDT","NEWUSDT"]') == prices[1:]
        assert await get(rest, "ticker/price", symbol="ETHUSDT") == prices[1]
        assert await get(rest, "ticker/price", symbol="NEWUSDT") == {"symbol": "NEWUSDT", "price": "0"}
        assert await get(rest, "ticker/price", symbolStatus="BREAK") == prices[1:]
        assert await get(rest, "ticker/price", symbol="ETHUSDT", symbolStatus="BREAK") == prices[1]
        assert await get(rest, "ticker/price", symbolStatus="HALT") == []
        book = {"symbol": "ETHUSDT", "bidPrice": "7.5", "bidQty": "0", "askPrice": "7.5", "askQty": "0"}
        assert await get(rest, "ticker/bookTicker", symbol="ETHUSDT") == book
        assert (await get(rest, "ticker/bookTicker"))[1] == book
        assert {**await get(rest, "ticker/bookTicker", symbol="NEWUSDT")}["bidPrice"] == "0"
        for call in ("ticker/24hr", "ticker"):
            new = await get(rest, call, symbol="NEWUSDT")
            figures = {value for name, value in new.items() if name not in ("symbol", "openTime", "closeTime")}
            assert figures == {"0", -1, 0}


async def test_average_price_is_that_of_five_minutes_or_the_last(database: Database) -> None:
    await market(database)
    instrument = await add_instrument(database, "SOLUSDT")
    moment = now()
    ticks = [
        tick(instrument, 1, moment - 20 * MINUTE, "1", "1000"),
        tick(instrument, 2, moment - 2 * MINUTE, "100", "1"),
        tick(instrument, 3, moment - MINUTE, "103", "2"),
    ]
    await store(database, ticks)
    await settle(database)
    async with serving(database) as rest:
        told = await get(rest, "avgPrice", symbol="SOLUSDT")
        assert told == {"mins": 5, "price": "102.00000000", "closeTime": ticks[-1].time_us // 1000}
        assert (await get(rest, "avgPrice", symbol="SOLUSDT", micros=True))["closeTime"] == ticks[-1].time_us
        assert (await get(rest, "avgPrice", symbol="ETHUSDT"))["price"] == "7.5"
        assert await get(rest, "avgPrice", symbol="NEWUSDT") == {"mins": 5, "price": "0", "closeTime": 0}
