import json
from typing import Any

import msgspec
import pytest

from app.binance.wire import events, rows
from app.market.intervals import Interval
from app.market.model import Candle, InstrumentId, Ticker, from_micros, quiet_ticker
from ingest.sources import ClosingSoon
from ingest.sources.binance import PARSERS

NOW = 1_700_000_000_123_456
START = NOW - 86_400_000_000
TRADE = (17, "39439.44", "0.004376", NOW - 5_000, True)
CANDLE = Candle(
    time=from_micros(1_700_000_040_000_000),
    open="0.0010",
    high="0.0025",
    low="0.00100",
    close="0.0020",
    volume="1000",
    quote_volume="1.0000",
    trades=100,
    taker_buy_volume="500",
    taker_buy_quote_volume="0.500",
    first_id=100,
    last_id=200,
    closed=True,
)
NEXT = 1_700_000_100_000_000
TICKER = Ticker(
    time=from_micros(NOW - 5_000),
    last="3",
    open="2",
    high="4.0",
    low="1.50",
    change="1",
    change_percent="50.000",
    volume="3",
    quote_volume="10",
    trades=4,
    last_size="0.5",
    previous="1.9",
    first_id=7,
    last_id=10,
)
QUIET = quiet_ticker(from_micros(START - 1), "3", "0.5")
UNITS = pytest.mark.parametrize(("unit", "now"), [(1000, NOW // 1000), (1, NOW)])


def told(text: str) -> Any:
    """An event, whose text is as an encoder would write it: nothing but the fields."""
    event = json.loads(text)
    assert msgspec.json.encode(event).decode() == text
    return event


@UNITS
def test_trade_event_has_binances_fields_in_its_order(unit: int, now: int) -> None:
    expected = {"e": "trade", "E": now, "s": "BTCUSDT", "t": 17, "p": "39439.44", "q": "0.004376"}
    expected |= {"T": (NOW - 5_000) // unit, "m": True, "M": True}
    event = told(events.trade("BTCUSDT", *TRADE, NOW, unit))
    assert list(event.items()) == list(expected.items())


@UNITS
def test_aggregate_trade_event_is_its_own_aggregate(unit: int, now: int) -> None:
    expected = {"e": "aggTrade", "E": now, "s": "BTCUSDT", "a": 17, "p": "39439.44", "q": "0.004376"}
    expected |= {"f": 17, "l": 17, "T": (NOW - 5_000) // unit, "m": False, "M": True}
    event = told(events.aggregate_trade("BTCUSDT", *TRADE[:4], False, NOW, unit))
    assert list(event.items()) == list(expected.items())


@UNITS
def test_kline_event_tells_the_candle_to_the_digit(unit: int, now: int) -> None:
    candle = {"t": 1_700_000_040_000_000 // unit, "T": NEXT // unit - 1, "s": "BNBBTC", "i": "1m", "f": 100, "L": 200}
    candle |= {"o": "0.0010", "c": "0.0020", "h": "0.0025", "l": "0.00100", "v": "1000", "n": 100, "x": True}
    candle |= {"q": "1.0000", "V": "500", "Q": "0.500", "B": "0"}
    event = told(events.kline("BNBBTC", Interval.M1, CANDLE, NEXT, NOW, unit))
    assert list(event.items())[:3] == [("e", "kline"), ("E", now), ("s", "BNBBTC")]
    assert list(event["k"].items()) == list(candle.items())


def test_kline_event_without_trades_has_no_ids() -> None:
    flat = msgspec.structs.replace(CANDLE, trades=0, first_id=None, last_id=None, closed=False)
    candle = told(events.kline("BNBBTC", Interval.M1, flat, NEXT, NOW, 1000))["k"]
    assert (candle["f"], candle["L"], candle["n"], candle["x"]) == (-1, -1, 0, False)


@UNITS
def test_ticker_events_have_binances_fields_in_its_order(unit: int, now: int) -> None:
    full = {"e": "24hrTicker", "E": now, "s": "A", "p": "1", "P": "50.000", "w": "3.33333333", "x": "1.9", "c": "3"}
    full |= {"Q": "0.5", "b": "3", "B": "0", "a": "3", "A": "0", "o": "2", "h": "4.0", "l": "1.50", "v": "3"}
    full |= {"q": "10", "O": START // unit, "C": now, "F": 7, "L": 10, "n": 4}
    mini = {"e": "24hrMiniTicker", "E": now, "s": "A", "c": "3", "o": "2", "h": "4.0", "l": "1.50", "v": "3", "q": "10"}
    assert list(told(events.ticker("A", TICKER, START, NOW, unit)).items()) == list(full.items())
    assert list(told(events.mini_ticker("A", TICKER, NOW, unit)).items()) == list(mini.items())


@pytest.mark.parametrize(("ticker", "last", "size"), [(None, "0", "0"), (QUIET, "3", "0.5")])
def test_ticker_without_trades_has_zeros_and_no_ids(ticker: Ticker | None, last: str, size: str) -> None:
    event = told(events.ticker("A", ticker, START, NOW, 1000))
    assert (event["c"], event["b"], event["a"], event["x"], event["Q"]) == (last, last, last, last, size)
    assert {event[field] for field in "pPwohlvq"} == {"0"}
    assert (event["F"], event["L"], event["n"]) == (-1, -1, 0)
    row = rows.full_row("A", ticker, START, NOW, 1000)
    assert (row["lastPrice"], row["openPrice"], row["weightedAvgPrice"], row["firstId"]) == (last, "0", "0", -1)
    assert None not in row.values()


def test_average_of_quotes_without_volume_is_the_last_price() -> None:
    quotes = msgspec.structs.replace(TICKER, volume="0", quote_volume="0")
    assert told(events.ticker("A", quotes, START, NOW, 1000))["w"] == "3"


def test_average_price_event_has_binances_fields() -> None:
    event = told(events.average_price("A", "25776.86", NOW - 5_000, NOW, 1))
    assert list(event.items()) == [
        *(("e", "avgPrice"), ("E", NOW), ("s", "A"), ("i", "5m"), ("w", "25776.86"), ("T", NOW - 5_000))
    ]


def test_event_combined_is_wrapped_with_its_stream() -> None:
    shutdown = events.shutdown(NOW, 1000)
    assert told(shutdown) == {"e": "serverShutdown", "E": NOW // 1000}
    assert told(events.combined("!serverShutdown", shutdown)) == {"stream": "!serverShutdown", "data": told(shutdown)}
    assert told(events.array([shutdown, shutdown])) == [told(shutdown)] * 2
    assert told(events.array([])) == []


@pytest.mark.parametrize("unit", [1000, 1])
@pytest.mark.parametrize("wrapped", [False, True])
def test_events_are_understood_by_the_source(unit: int, wrapped: bool) -> None:
    def frame(text: str) -> str:
        return events.combined("btcusdt@any", text) if wrapped else text

    ids = {"BTCUSDT": InstrumentId(3)}
    (tick,) = PARSERS["trade"](frame(events.trade("BTCUSDT", *TRADE, NOW, unit)), ids)
    assert (tick.trade_id, str(tick.price), str(tick.size), tick.buyer_is_maker) == (17, "39439.44", "0.004376", True)
    assert tick.time_us == (NOW - 5_000) // unit * unit
    assert PARSERS["aggTrade"](frame(events.aggregate_trade("BTCUSDT", *TRADE, NOW, unit)), ids) == (tick,)
    second = events.kline("BTCUSDT", Interval.S1, CANDLE, NEXT, NOW, unit)
    assert str(PARSERS["kline_1s"](frame(second), ids)[0].price) == CANDLE.close
    assert str(PARSERS["miniTicker"](frame(events.mini_ticker("BTCUSDT", TICKER, NOW, unit)), ids)[0].price) == "3"
    with pytest.raises(ClosingSoon):
        PARSERS["trade"](frame(events.shutdown(NOW, unit)), ids)


@UNITS
def test_trade_rows_have_binances_fields_in_its_order(unit: int, now: int) -> None:
    time = (NOW - 5_000) // unit
    row = {"id": 17, "price": "39439.44", "qty": "0.004376", "quoteQty": "172.58698944", "time": time}
    row |= {"isBuyerMaker": True, "isBestMatch": True}
    aggregate = {"a": 17, "p": "39439.44", "q": "0.004376", "f": 17, "l": 17, "T": time, "m": True, "M": True}
    assert list(rows.trade_row(*TRADE, unit).items()) == list(row.items())
    assert list(rows.aggregate_row(*TRADE, unit).items()) == list(aggregate.items())
    assert rows.server_time(NOW, unit) == {"serverTime": now}


@pytest.mark.parametrize(("unit", "end"), [(1000, 1_700_000_099_999), (1, 1_700_000_099_999_999)])
def test_kline_row_ends_before_the_next_candle(unit: int, end: int) -> None:
    start = 1_700_000_040_000_000 // unit
    assert rows.kline_row(CANDLE, 1_700_000_040_000_000, NEXT, unit) == [
        *(start, "0.0010", "0.0025", "0.00100", "0.0020", "1000", end, "1.0000", 100, "500", "0.500", "0")
    ]


def test_ticker_rows_have_binances_fields_in_its_order() -> None:
    change = {"priceChange": "1", "priceChangePercent": "50.000", "weightedAvgPrice": "3.33333333"}
    last = {"prevClosePrice": "1.9", "lastPrice": "3", "lastQty": "0.5"}
    book = {"bidPrice": "3", "bidQty": "0", "askPrice": "3", "askQty": "0"}
    span = {"openPrice": "2", "highPrice": "4.0", "lowPrice": "1.50"}
    totals = {"volume": "3", "quoteVolume": "10", "openTime": START // 1000, "closeTime": NOW // 1000}
    totals |= {"firstId": 7, "lastId": 10, "count": 4}
    full = {"symbol": "A", **change, **last, **book, **span, **totals}
    window = {"symbol": "A", **change, **span, "lastPrice": "3", **totals}
    mini = {"symbol": "A", **span, "lastPrice": "3", **totals}
    assert list(rows.full_row("A", TICKER, START, NOW, 1000).items()) == list(full.items())
    assert list(rows.window_row("A", TICKER, START, NOW, 1000).items()) == list(window.items())
    assert list(rows.mini_row("A", TICKER, START, NOW, 1000).items()) == list(mini.items())
    assert rows.book_row("A", "3") == {"symbol": "A", **book}
    assert rows.book_row("A", None) == {"symbol": "A", **dict.fromkeys(book, "0")}
    assert rows.price_row("A", "3") == {"symbol": "A", "price": "3"}
    assert rows.average_row("3.1", NOW, 1000) == {"mins": 5, "price": "3.1", "closeTime": NOW // 1000}


@pytest.mark.parametrize(
    ("places", "tick", "precision"),
    [(2, "0.01000000", 8), (0, "1.00000000", 8), (8, "0.00000001", 8), (12, "0.000000000001", 12)],
)
def test_symbol_row_tells_the_smallest_step_of_a_price(places: int, tick: str, precision: int) -> None:
    row: dict[str, Any] = rows.symbol_row("X.AB", "X.A", "B", places, 3, trading=False)
    filters = {one["filterType"]: one for one in row["filters"]}
    assert (filters["PRICE_FILTER"]["tickSize"], row["quotePrecision"]) == (tick, precision)
    assert filters["LOT_SIZE"]["stepSize"] == "0.00100000"
    assert filters.keys() == {"PRICE_FILTER", "LOT_SIZE", "NOTIONAL"}
    assert (row["status"], row["baseAsset"], row["quoteAsset"]) == ("BREAK", "X.A", "B")
    assert row["permissionSets"] == [["SPOT"]]
    assert rows.symbol_row("A", "A", "B", 2, permission_sets=False)["permissionSets"] == []


def test_exchange_info_tells_the_limit_that_is_enforced() -> None:
    info = rows.exchange_info([], NOW, 1200, 1000)
    assert info["rateLimits"] == [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}
    ]
    assert (info["timezone"], info["serverTime"], info["symbols"]) == ("UTC", NOW // 1000, [])
