"""TradingView's UDF over a real server: bars, quotes and marks out of the database, beside the native answers."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.market.model import Instrument
from app.udf.resolutions import RESOLUTIONS
from tests.databases import Database
from tests.integration.reckoning import reckon
from tests.integration.rest import Rest, serving
from tests.integration.ticks import NOON, add_instrument, series, settle, store, tick

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
Row = list[str]


def unix(moment: datetime) -> int:
    return int(moment.timestamp())


async def ask(rest: Rest, path: str, **query: Any) -> Any:
    """The JSON of an answer; numbers as the digits on the wire."""
    answer = await rest.ask(f"/udf/{path}", **{name.rstrip("_"): value for name, value in query.items()})
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body, parse_float=str, parse_int=str)


async def bars(rest: Rest, **query: Any) -> list[Row]:
    """The rows of a history that has some."""
    found = await ask(rest, "history", **query)
    assert found.pop("s") == "ok", found
    assert list(found) == [*"tohlcv"]
    rows = [list(row) for row in zip(*found.values(), strict=True)]
    assert [int(row[0]) for row in rows] == sorted({int(row[0]) for row in rows})
    return rows


async def native(rest: Rest, interval: str, **query: Any) -> list[Row]:
    """The same columns of the native candles."""
    page = await rest.get("/candles/SIM:BTCUSDT", interval=interval, limit=5000, **query)
    names = ("open", "high", "low", "close", "volume")
    return [
        [str(unix(datetime.fromisoformat(candle["time"]))), *(candle[name] for name in names)]
        for candle in page["candles"]
    ]


# History


async def test_history_of_each_resolution_equals_the_native_candles_to_the_digit(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = [
        *series(instrument, 150, NOON, step=977.5),
        *series(instrument, 20, datetime.now(UTC) - 50 * MINUTE, 150, 151),
        tick(instrument, 171, datetime.now(UTC), "0.000001", "12345678901234567890.123456789012345678"),
    ]
    await store(database, ticks)
    await settle(database)
    async with serving(database) as rest:
        for resolution, interval in [*RESOLUTIONS.items(), ("D", "1d"), ("W", "1w"), ("M", "1M")]:
            query = {"symbol": "SIM:BTCUSDT", "resolution": resolution, "to": unix(datetime.now(UTC)) + 1}
            wanted = await native(rest, interval)
            assert [row[1:] for row in wanted] == [[*row[1:6]] for row in reckon(ticks, interval)]
            assert await bars(rest, **query, from_=0) == wanted
            assert await bars(rest, **query, countback=7) == wanted[-7:]
            assert await bars(rest, **query, from_=wanted[-2][0]) == wanted[-2:]


async def test_history_holds_bars_from_its_start_to_before_its_end(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 10, step=60), quiet=True)
    query = {"symbol": "btcusdt", "resolution": "1"}
    start, end = unix(NOON + 2 * MINUTE), unix(NOON + 5 * MINUTE)
    assert [int(row[0]) - start for row in await bars(rest, **query, from_=start, to=end)] == [0, 60, 120]
    assert [int(row[0]) - start for row in await bars(rest, **query, from_=start - 59, to=end + 1)] == [0, 60, 120, 180]
    assert [int(row[0]) - start for row in await bars(rest, **query, from_=start + 0.5, to=end)] == [60, 120]


async def test_history_countback_wins_over_from(any_database: Database, instrument: Instrument, rest: Rest) -> None:
    await store(any_database, series(instrument, 10, step=60), quiet=True)
    query = {"symbol": "SIM:BTCUSDT", "resolution": "1", "to": unix(NOON + 8 * MINUTE)}
    every = await native(rest, "1m")
    for start in (0, unix(NOON + 7 * MINUTE), unix(NOON + 2 * DAY)):
        assert await bars(rest, **query, from_=start, countback=3) == every[5:8]
        assert await bars(rest, **query, from_=start, countback=1) == every[7:8]
        assert await bars(rest, **query, from_=start, countback=10**12) == every[:8]
    assert await bars(rest, **query, countback=3) == every[5:8]
    assert await bars(rest, **query, from_=unix(NOON + 6 * MINUTE), countback=0) == every[6:8]


async def test_history_of_one_bar_gives_the_one_before_it_too(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, [tick(instrument, 1, NOON), tick(instrument, 2, NOON + 300 * DAY)], quiet=True)
    query = {"symbol": "SIM:BTCUSDT", "resolution": "1"}
    every = await native(rest, "1m")
    last = unix(NOON + 300 * DAY)
    assert await bars(rest, **query, from_=last, to=last + 60) == every
    assert await bars(rest, **query, from_=0, to=last) == every[:1], "there is none before it"


async def test_history_without_bars_tells_where_the_newest_before_it_is(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 5, step=60), quiet=True)
    for resolution, interval in (("1", "1m"), ("60", "1h"), ("1W", "1w")):
        query = {"symbol": "SIM:BTCUSDT", "resolution": resolution}
        nearest = (await native(rest, interval))[-1][0]
        after, before = unix(NOON + 90 * DAY), unix(NOON - 90 * DAY)
        later = {"from": after, "to": after + 600}
        assert await ask(rest, "history", **query, **later) == {"s": "no_data", "nextTime": nearest}
        assert await ask(rest, "history", **query, from_=after, to=after) == {"s": "no_data", "nextTime": nearest}
        assert await ask(rest, "history", **query, from_=0, to=before) == {"s": "no_data"}
        assert await ask(rest, "history", **query, from_=-5, to=-1) == {"s": "no_data"}
        assert await ask(rest, "history", **query, to=before, countback=2) == {"s": "no_data"}
    assert await ask(rest, "history", symbol="BTCUSDT", resolution="1", to=9999999999, from_=9999999998) == {
        "s": "no_data",
        "nextTime": str(unix(NOON + 4 * MINUTE)),
    }


async def test_history_of_what_never_traded_is_no_data(rest: Rest) -> None:
    for query in ({"from": 0}, {"countback": 300}, {"from": 0, "countback": 2}):
        for resolution in RESOLUTIONS:
            asked = {"symbol": "BTCUSDT", "resolution": resolution, "to": unix(NOON), **query}
            assert await ask(rest, "history", **asked) == {"s": "no_data"}


async def test_history_gives_the_newest_5000_bars_at_most(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 5_010, step=1), quiet=True)
    end = NOON + 5_005 * SECOND
    for query in ({"from": 0}, {"countback": 5_004}):
        found = await bars(rest, symbol="BTCUSDT", resolution="1S", to=unix(end), **query)
        assert [int(row[0]) for row in found] == [unix(NOON) + n for n in range(5, 5_005)]


async def test_days_weeks_and_months_start_at_midnight_utc(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, [tick(instrument, 1, NOON)], quiet=True)  # a Friday
    starts = {"1D": "2024-03-15", "D": "2024-03-15", "1W": "2024-03-11", "M": "2024-03-01"}
    for resolution, day in starts.items():
        (bar,) = await bars(rest, symbol="BTCUSDT", resolution=resolution, from_=0, to=unix(NOON))
        assert int(bar[0]) == unix(datetime.fromisoformat(day).replace(tzinfo=UTC))


async def test_poller_sees_the_bar_before_once_a_new_one_opens(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    # As the charting library polls: two bars back from now, its `from` ten bars ago.
    now = datetime.now(UTC)
    await store(any_database, [tick(instrument, 1, now - 30 * DAY, "1.50"), tick(instrument, 2, now - SECOND, "2.50")])
    end = unix(datetime.now(UTC))
    found = await bars(rest, symbol="SIM:BTCUSDT", resolution="1D", from_=end - 10 * 86400, to=end, countback=2)
    assert [row[4] for row in found] == ["1.50", "2.50"]


# Symbols and search


async def test_symbol_is_described_with_what_clients_read(rest: Rest) -> None:
    found = await ask(rest, "symbols", symbol="sim:btcusdt")
    assert found == {
        "name": "BTCUSDT",
        "full_name": "SIM:BTCUSDT",
        "ticker": "SIM:BTCUSDT",
        "description": "BTC / USDT",
        "type": "crypto",
        "exchange": "SIM",
        "listed_exchange": "SIM",
        "currency_code": "USDT",
        "original_currency_code": "USDT",
        "minmov": "1",
        "pricescale": "100",
        "volume_precision": "8",
        "supported_resolutions": [*RESOLUTIONS],
        "seconds_multipliers": ["1"],
        "intraday_multipliers": ["1", "3", "5", "15", "30", "60", "120", "240", "360", "480", "720"],
        "daily_multipliers": ["1", "3"],
        "data_status": "streaming",
        "session": "24x7",
        "timezone": "Etc/UTC",
        "format": "price",
        "visible_plots_set": "ohlcv",
        "has_intraday": True,
        "has_seconds": True,
        "has_daily": True,
        "has_weekly_and_monthly": True,
        "has_empty_bars": False,
    }
    assert await ask(rest, "symbols", symbol="BTCUSDT", currencyCode="USDT", unitId="x") == found


async def test_configuration_says_what_is_served(rest: Rest) -> None:
    assert await ask(rest, "config") == {
        "supports_search": True,
        "supports_group_request": False,
        "supports_marks": True,
        "supports_timescale_marks": True,
        "supports_time": True,
        "exchanges": [
            {"value": "", "name": "All exchanges", "desc": ""},
            {"value": "SIM", "name": "SIM", "desc": "SIM"},
        ],
        "symbols_types": [
            {"value": "", "name": "All types"},
            {"value": "crypto", "name": "Crypto"},
            {"value": "forex", "name": "Forex"},
            {"value": "commodity", "name": "Commodity"},
        ],
        "supported_resolutions": [*RESOLUTIONS],
    }


async def test_search_finds_what_history_takes(any_database: Database) -> None:
    for source, ticker in (("SIM", "ETHUSDT"), ("SIM", "BTCUSDT"), ("COINBASE", "BTC-USD")):
        await add_instrument(any_database, ticker, source)
    async with serving(any_database) as rest:
        found = await ask(rest, "search", query="BTCUSD", type="", exchange="", limit=30)
        assert [match["ticker"] for match in found][:2] == ["COINBASE:BTC-USD", "SIM:BTCUSDT"]
        assert found[0] == {
            "symbol": "BTC-USD",
            "full_name": "COINBASE:BTC-USD",
            "ticker": "COINBASE:BTC-USD",
            "description": "BTC / USDT",
            "exchange": "COINBASE",
            "type": "crypto",
        }
        assert len(await ask(rest, "search")) == 3
        assert len(await ask(rest, "search", limit=2)) == 2
        assert len(await ask(rest, "search", limit=1000)) == 3
        assert len(await ask(rest, "search", type="crypto", exchange="SIM")) == 2
        assert await ask(rest, "search", query="nothing") == []
        for match in found:
            assert await ask(rest, "history", symbol=match["ticker"], resolution="1", from_=0, to=1) == {"s": "no_data"}


async def test_time_is_plain_text(rest: Rest) -> None:
    before = int(time.time())
    answer = await rest.ask("/udf/time")
    assert answer.headers["content-type"].startswith("text/plain")
    assert before <= int(answer.body) <= time.time()


# Quotes


async def test_quotes_equal_the_native_tickers_in_the_order_asked_for(database: Database) -> None:
    traded = await add_instrument(database)
    quiet = await add_instrument(database, "ETHUSDT")
    await add_instrument(database, "NEWUSDT")
    now = datetime.now(UTC)
    old = [tick(traded, 1, now - 3 * DAY, "99.10"), tick(quiet, 1, now - 3 * DAY, "7.70")]
    await store(database, [*old, *series(traded, 50, now - 60 * MINUTE, 30, 2)])
    await settle(database)
    async with serving(database) as rest:
        found = await ask(rest, "quotes", symbols="ethusdt,SIM:BTCUSDT,NOWHERE:X,SIM:NEWUSDT,BTCUSDT")
        ticker = await rest.get("/ticker/SIM:BTCUSDT")
        values = {
            "short_name": "BTCUSDT",
            "exchange": "SIM",
            "description": "BTC / USDT",
            "lp": ticker["last"],
            "volume": ticker["volume"],
            "ch": ticker["change"],
            "chp": ticker["change_percent"],
            "open_price": ticker["open"],
            "high_price": ticker["high"],
            "low_price": ticker["low"],
            "prev_close_price": "99.10",
        }
        silent = {"short_name": "ETHUSDT", "exchange": "SIM", "description": "BTC / USDT", "lp": "7.70"}
        silent |= {"prev_close_price": "7.70", "volume": "0"}
        assert found == {
            "s": "ok",
            "d": [
                {"s": "ok", "n": "ethusdt", "v": silent},
                {"s": "ok", "n": "SIM:BTCUSDT", "v": values},
                {"s": "error", "n": "NOWHERE:X", "errmsg": "unknown_symbol", "v": {}},
                {"s": "error", "n": "SIM:NEWUSDT", "errmsg": "SIM:NEWUSDT has not traded yet", "v": {}},
                {"s": "ok", "n": "BTCUSDT", "v": values},
            ],
        }


async def test_quote_of_an_ambiguous_ticker_says_which_symbols_it_could_be(any_database: Database) -> None:
    await add_instrument(any_database)
    await add_instrument(any_database, source="BINANCE")
    async with serving(any_database) as rest:
        (quote,) = (await ask(rest, "quotes", symbols="BTCUSDT"))["d"]
        assert (quote["s"], quote["n"]) == ("error", "BTCUSDT")
        assert "BINANCE:BTCUSDT, SIM:BTCUSDT" in quote["errmsg"]


# Marks


GAP = (
    "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, closed_at, reason)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)


@pytest.fixture
def gaps(any_database: Database, instrument: Instrument) -> None:
    """An open, an unfillable and a filled gap, ten minutes apart."""
    states = [("open", None, None), ("unfillable", NOON, "<lost> at the venue"), ("filled", NOON, None)]
    for index, (state, closed_at, reason) in enumerate(states):
        start = NOON + 10 * index * MINUTE + 90 * SECOND
        ids = (100 * index + 1, 100 * index + 1 + 11 * index)
        any_database.execute(GAP, (instrument.id, *ids, start, start + 5 * MINUTE, state, closed_at, reason))


@pytest.mark.usefixtures("gaps")
async def test_marks_tell_what_is_missing_and_why(rest: Rest) -> None:
    query = {"symbol": "SIM:BTCUSDT", "resolution": "1", "from": unix(NOON), "to": unix(NOON + 60 * MINUTE)}
    texts = ["1 trade is missing; the repair goes on", "12 trades are missing for good: &lt;lost&gt; at the venue"]
    times = [str(unix(NOON + minute * MINUTE)) for minute in (1, 11)]
    assert await ask(rest, "marks", **query) == {
        "id": ["gap-1", "gap-101"],
        "time": times,
        "color": ["#ff9800", "#f23645"],
        "text": texts,
        "label": ["G", "G"],
        "labelFontColor": ["#ffffff", "#ffffff"],
        "minSize": ["14", "14"],
    }
    assert await ask(rest, "timescale_marks", **query) == [
        {"id": "gap-1", "time": times[0], "color": "#ff9800", "label": "G", "tooltip": [texts[0]]},
        {"id": "gap-101", "time": times[1], "color": "#f23645", "label": "G", "tooltip": [texts[1]]},
    ]


@pytest.mark.usefixtures("gaps")
async def test_marks_stand_on_the_bars_from_the_first_to_the_last(rest: Rest) -> None:
    async def ids(resolution: str, start: datetime, end: datetime) -> Any:
        query = {"symbol": "BTCUSDT", "resolution": resolution, "from": unix(start), "to": unix(end)}
        found = await ask(rest, "marks", **query)
        assert {key: len(values) for key, values in found.items()} == dict.fromkeys(found, len(found["id"]))
        return [*zip(found["id"], (int(moment) - unix(NOON) for moment in found["time"]), strict=True)]

    assert await ids("1", NOON + MINUTE, NOON + MINUTE) == [("gap-1", 60)]
    assert await ids("1", NOON + 2 * MINUTE, NOON + 10 * MINUTE) == []
    assert await ids("1", NOON + 11 * MINUTE, NOON + 20 * MINUTE) == [("gap-101", 660)]
    assert await ids("5", NOON, NOON + 10 * MINUTE) == [("gap-1", 0), ("gap-101", 600)]
    assert await ids("1D", NOON, NOON) == [("gap-1", -43200), ("gap-101", -43200)]
    assert await ids("1M", NOON - 90 * DAY, NOON - 40 * DAY) == []


async def test_marks_of_other_instruments_are_left_out(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    other = await add_instrument(any_database, "ETHUSDT")
    any_database.execute(GAP, (other.id, 1, 2, NOON, NOON, "open", None, None))
    found = await ask(rest, "marks", symbol="BTCUSDT", resolution="1D", from_=0, to=unix(NOON))
    assert found["id"] == []
