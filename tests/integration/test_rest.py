"""REST over a real server: every endpoint, page by page, and what it refuses."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from app.market.intervals import Interval
from app.market.model import Candle, Instrument, Tick, from_micros
from tests.databases import Database
from tests.integration.reckoning import reckon
from tests.integration.rest import Rest, serving
from tests.integration.ticks import NOON, add_instrument, series, settle, store, tick

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAMES = Candle.__struct_fields__[:12]


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def wire(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[iso(time), *rest] for time, *rest in rows]


def plain(candles: list[dict[str, Any]]) -> list[list[Any]]:
    return [[candle[name] for name in NAMES] for candle in candles]


def trade(one: Tick) -> dict[str, Any]:
    side = {True: "sell", False: "buy", None: None}[one.buyer_is_maker]
    time = iso(from_micros(one.time_us))
    return {"trade_id": one.trade_id, "time": time, "price": str(one.price), "size": str(one.size), "side": side}


# Candles


async def test_candles_of_each_interval_equal_the_reckoning(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    ticks = series(instrument, 300, step=977.5)
    await store(any_database, ticks, quiet=True)
    for interval in Interval:
        page = await rest.get("/candles/SIM:BTCUSDT", interval=interval, limit=5000)
        assert plain(page.pop("candles")) == wire(reckon(ticks, interval))
        assert page == {"symbol": "SIM:BTCUSDT", "interval": interval, "timezone": "UTC", "next": None}


async def test_candles_are_alike_on_every_engine(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = [
        *series(instrument, 200, NOON, step=700),
        *series(instrument, 20, datetime.now(UTC) - 50 * MINUTE, 150, 201),
    ]
    await store(database, ticks)
    await settle(database)
    async with serving(database) as rest:
        for interval in ("1s", "1m", "5m", "4h", "1d", "1M"):
            newest = await rest.walk("/candles/btcusdt", "candles", interval=interval, limit=37)
            oldest = await rest.walk("/candles/btcusdt", "candles", interval=interval, limit=37, start="1970-01-01")
            assert plain([c for page in reversed(newest) for c in page]) == wire(reckon(ticks, interval))
            assert plain([c for page in oldest for c in page]) == wire(reckon(ticks, interval))


async def test_candles_pages_walk_all_of_them_once_in_both_directions(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    ticks = series(instrument, 60, step=9_999) + series(instrument, 20, NOON + 90 * DAY, first_id=61)
    await store(any_database, ticks, quiet=True)
    for interval in ("1s", "1m", "15m", "1h", "1d", "1w"):
        wanted = wire(reckon(ticks, interval))
        for limit in (1, 7, 100):
            query = {"interval": interval, "limit": limit}
            newest = await rest.walk("/candles/BTCUSDT", "candles", **query)
            assert plain([c for page in reversed(newest) for c in page]) == wanted, query
            oldest = await rest.walk("/candles/BTCUSDT", "candles", **query, start=iso(NOON - DAY * 40))
            assert plain([c for page in oldest for c in page]) == wanted, query


async def test_candles_start_and_end_bound_the_times_of_candles(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 100, step=60), quiet=True)
    page = await rest.get("/candles/BTCUSDT", start=iso(NOON + 90 * timedelta(seconds=1)), end=iso(NOON + 5 * MINUTE))
    assert [c["time"] for c in page["candles"]] == [iso(NOON + i * MINUTE) for i in (2, 3, 4)]
    page = await rest.get("/candles/BTCUSDT", end=iso(NOON + 5 * MINUTE), limit=2)
    assert [c["time"] for c in page["candles"]] == [iso(NOON + i * MINUTE) for i in (3, 4)]
    page = await rest.get("/candles/BTCUSDT", interval="5m", start=iso(NOON + MINUTE), end=iso(NOON + 11 * MINUTE))
    assert [c["time"] for c in page["candles"]] == [iso(NOON + i * MINUTE) for i in (5, 10)]
    assert (await rest.get("/candles/BTCUSDT", start=iso(NOON), end=iso(NOON)))["candles"] == []


async def test_candles_say_whether_they_are_closed_and_complete(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    now = datetime.now(UTC)
    past = [tick(instrument, i, now - 30 * DAY) for i in (1, 2)] + [tick(instrument, i, now - 20 * DAY) for i in (5, 7)]
    await store(any_database, [*past, tick(instrument, 8, now)])
    candles = (await rest.get("/candles/BTCUSDT", interval="1d"))["candles"]
    assert [(c["closed"], c["complete"]) for c in candles] == [(True, True), (True, False), (False, False)]


async def test_candles_of_ids_that_prove_nothing_do_not_say_whether_they_are_complete(any_database: Database) -> None:
    quotes = await add_instrument(any_database, "EURUSD", feed="quote", contiguous_ids=False)
    await store(any_database, series(quotes, 3), quiet=True)
    async with serving(any_database) as rest:
        assert [c["complete"] for c in (await rest.get("/candles/EURUSD"))["candles"]] == [None]


async def test_candles_fill_walks_every_bucket_once_in_both_directions(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 30 * HOUR
    await store(
        any_database, [tick(instrument, 1, start, "5"), tick(instrument, 2, start + 10 * HOUR, "7")], quiet=True
    )
    end = iso(start + 20 * HOUR)
    expected = [(iso(start + i * HOUR), "5" if i < 10 else "7", int(i in (0, 10))) for i in range(20)]
    for direction in ({}, {"start": iso(start)}):
        pages = await rest.walk(
            "/candles/BTCUSDT", "candles", interval="1h", fill="previous", limit=6, end=end, **direction
        )
        pages = pages if direction else pages[::-1]
        assert [(c["time"], c["close"], c["trades"]) for page in pages for c in page] == expected
    page = await rest.get("/candles/BTCUSDT", interval="1h", fill="previous")
    assert len(page["candles"]) == 31
    assert [c["closed"] for c in page["candles"]] == [True] * 30 + [False]


async def test_candles_fill_takes_the_price_from_before_the_start(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, [tick(instrument, 1, NOON, "5")], quiet=True)
    page = await rest.get("/candles/BTCUSDT", fill="previous", start=iso(NOON + 400 * DAY), limit=3)
    assert [(c["open"], c["close"], c["trades"], c["first_id"]) for c in page["candles"]] == [("5", "5", 0, None)] * 3
    before = await rest.get("/candles/BTCUSDT", fill="previous", start=iso(NOON - HOUR), end=iso(NOON))
    assert before["candles"] == []


async def test_candles_fill_over_years_of_silence_takes_no_time(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    """Regression: every second since the last trade was filled in, and all but the last few thrown away."""
    await store(any_database, [tick(instrument, 1, NOON - 4000 * DAY, "5")], quiet=True)
    async with asyncio.timeout(5):
        page = await rest.get("/candles/BTCUSDT", interval="1s", fill="previous", limit=10)
    assert [c["close"] for c in page["candles"]] == ["5"] * 10


async def test_candles_of_days_follow_the_zone(any_database: Database, instrument: Instrument, rest: Rest) -> None:
    await store(any_database, [tick(instrument, 1, datetime(2024, 3, 30, 23, 30, tzinfo=UTC))], quiet=True)
    for zone, time in (("Europe/Berlin", "2024-03-30T23:00:00Z"), ("+05:30", "2024-03-30T18:30:00Z")):
        page = await rest.get("/candles/BTCUSDT", interval="1d", timezone=zone)
        assert [c["time"] for c in page["candles"]] == [time]
        assert page["timezone"] == zone


# Ticks


async def test_ticks_pages_walk_all_of_them_once_though_many_share_a_time(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    ticks = [tick(instrument, i, NOON + (i // 10) * MINUTE * 200) for i in range(1, 101)]
    await store(any_database, ticks, quiet=True)
    wanted = [trade(one) for one in ticks]
    for limit in (1, 7, 10, 1000):
        newest = await rest.walk("/ticks/BTCUSDT", "ticks", limit=limit)
        assert [t for page in newest for t in page] == wanted[::-1]
        oldest = await rest.walk("/ticks/BTCUSDT", "ticks", limit=limit, start="2024-01-01")
        assert [t for page in oldest for t in page] == wanted
        after = await rest.walk("/ticks/BTCUSDT", "ticks", limit=limit, after_id=42)
        assert [t for page in after for t in page] == wanted[42:]


async def test_ticks_are_alike_on_every_engine(database: Database) -> None:
    instrument = await add_instrument(database)
    ticks = series(instrument, 100, step=40_000)
    await store(database, ticks, quiet=True)
    await settle(database)
    async with serving(database) as rest:
        assert await rest.walk("/ticks/BTCUSDT", "ticks", limit=60) == [
            [trade(one) for one in ticks[:39:-1]],
            [trade(one) for one in ticks[39::-1]],
        ]
        assert (await rest.get("/ticks/BTCUSDT", after_id=97))["ticks"] == [trade(one) for one in ticks[97:]]
        assert (await rest.get("/price/BTCUSDT", at=iso(NOON - DAY + 90 * DAY)))["trade_id"] == 100


async def test_ticks_start_is_inclusive_and_end_exclusive(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 10, step=1), quiet=True)
    second = timedelta(seconds=1)
    bounds = {"start": iso(NOON + 2 * second), "end": iso(NOON + 5 * second)}
    assert [t["trade_id"] for t in (await rest.get("/ticks/BTCUSDT", **bounds))["ticks"]] == [3, 4, 5]
    assert [t["trade_id"] for t in (await rest.get("/ticks/BTCUSDT", end=bounds["end"], limit=2))["ticks"]] == [5, 4]
    page = await rest.get("/ticks/BTCUSDT", after_id=4, **bounds)
    assert [t["trade_id"] for t in page["ticks"]] == [5]


async def test_ticks_after_an_id_that_is_the_last_are_none(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    assert (await rest.get("/ticks/BTCUSDT", after_id=0)) == {"symbol": "SIM:BTCUSDT", "ticks": [], "next": None}
    await store(any_database, series(instrument, 10), quiet=True)
    assert (await rest.get("/ticks/BTCUSDT", after_id=10))["ticks"] == []
    assert (await rest.get("/ticks/BTCUSDT", after_id=10**25))["ticks"] == []


# CSV


async def test_csv_holds_the_same_as_json_and_names_the_next_page_in_a_header(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    await store(any_database, series(instrument, 20, step=60), quiet=True)
    for path, key in (("/api/v1/candles/BTCUSDT", "candles"), ("/api/v1/ticks/BTCUSDT", "ticks")):
        page = (await rest.ask(path, limit=7)).json
        answer = await rest.ask(path, {"Accept": "text/csv"}, limit=7)
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["link"] == f'<{page["next"].lower()}>; rel="next"'
        rows = [*csv.DictReader(io.StringIO(answer.body.decode()))]
        texts = {True: "true", False: "false", None: ""}
        as_text = [
            {n: texts[v] if v is None or isinstance(v, bool) else str(v) for n, v in r.items()} for r in page[key]
        ]
        assert rows == as_text
        last = await rest.ask(path, {"Accept": "text/csv"}, limit=20 + (key == "ticks"))
        assert ("link" in last.headers) == (key == "candles")


# Ticker, price, instruments, gaps


async def test_ticker_tells_the_last_day(any_database: Database, instrument: Instrument, rest: Rest) -> None:
    now = datetime.now(UTC)
    await store(
        any_database,
        [
            tick(instrument, 1, now - 2 * DAY, "1", "9"),
            tick(instrument, 2, now - 20 * HOUR, "80", "1"),
            tick(instrument, 3, now - 10 * HOUR, "120", "0.5"),
            tick(instrument, 4, now - HOUR, "100.00", "2"),
        ],
    )
    ticker = await rest.get("/ticker/BTCUSDT")
    assert {name: ticker[name] for name in ("symbol", "last", "open", "high", "low", "change", "change_percent")} == {
        "symbol": "SIM:BTCUSDT",
        "last": "100.00",
        "open": "80",
        "high": "120",
        "low": "80",
        "change": "20.00",
        "change_percent": "25.000",
    }
    assert (ticker["volume"], Decimal(ticker["quote_volume"]), ticker["trades"]) == ("3.5", Decimal(340), 3)


async def test_ticker_of_a_quiet_day_tells_the_last_price_alone(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    assert (await rest.problem("/ticker/BTCUSDT"))["detail"] == "SIM:BTCUSDT has not traded yet"
    await store(any_database, [tick(instrument, 1, NOON, "5")], quiet=True)
    ticker = await rest.get("/ticker/BTCUSDT")
    assert (ticker["last"], ticker["time"], ticker["open"], ticker["trades"]) == ("5", iso(NOON), None, 0)


async def test_price_is_that_of_the_last_trade_at_or_before_a_moment(
    any_database: Database, instrument: Instrument, rest: Rest
) -> None:
    microsecond = timedelta(microseconds=1)
    ticks = [tick(instrument, 1, NOON, "5"), tick(instrument, 2, NOON, "6"), tick(instrument, 3, NOON + 50 * DAY, "7")]
    await store(any_database, ticks, quiet=True)
    for at, price in ((NOON, "6"), (NOON + 50 * DAY - microsecond, "6"), (NOON + 50 * DAY, "7")):
        found = await rest.get("/price/BTCUSDT", at=iso(at))
        assert (found["price"], found["at"]) == (price, iso(at))
    assert (await rest.get("/price/BTCUSDT"))["price"] == "7"
    problem = await rest.problem("/price/BTCUSDT", at=iso(NOON - microsecond))
    assert (problem["status"], problem["title"]) == (404, "Not Found")


async def test_instruments_are_listed_and_found_by_symbol_and_ticker_in_any_case(
    instrument: Instrument, rest: Rest
) -> None:
    listed = (await rest.get("/instruments"))["instruments"]
    assert [one["symbol"] for one in listed] == ["SIM:BTCUSDT"]
    for symbol in ("SIM:BTCUSDT", "sim:btcusdt", "btcusdt", quote("SIM:BTCUSDT", safe="")):
        assert await rest.get(f"/instruments/{symbol}") == listed[0]
    assert listed[0]["id"] == instrument.id


async def test_instrument_added_while_the_server_runs_is_found(any_database: Database, rest: Rest) -> None:
    await add_instrument(any_database, "ETHUSDT")
    async with asyncio.timeout(10):
        while (await rest.ask("/api/v1/instruments/ETHUSDT")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_gaps_pages_walk_all_of_them_once(any_database: Database, instrument: Instrument, rest: Rest) -> None:
    any_database.execute(
        "INSERT INTO market.gaps (instrument_id, from_id, to_id, from_time, to_time, state, closed_at)"
        " SELECT %s, i * 10, i * 10 + 5, now(), now(), CASE WHEN i %% 2 = 0 THEN 'open' ELSE 'filled' END,"
        " CASE WHEN i %% 2 = 1 THEN now() END FROM generate_series(0, 19) AS i",
        (instrument.id,),
    )
    pages = await rest.walk("/gaps/BTCUSDT", "gaps", limit=3)
    assert [gap["from_id"] for page in pages for gap in page] == [*range(0, 200, 10)]
    pages = await rest.walk("/gaps/BTCUSDT", "gaps", limit=3, state="open")
    assert [gap["from_id"] for page in pages for gap in page] == [*range(0, 200, 20)]
