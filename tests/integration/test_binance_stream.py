"""Binance's streams end to end: a server, a database and clients; what the streams tell, and what can be asked."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from app.stream import subscription
from tests.databases import Database
from tests.integration.binance_stream import listening, unwrapped
from tests.integration.stream_harness import Market, Running, eventually, serving


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


async def joined(running: Running, instrument_id: int, clients: int = 1) -> None:
    """Return once so many clients listen to an instrument."""

    def listeners() -> int:
        topics = [topic for topic in running.stream.hub.topics if topic.instrument.id == instrument_id]
        return min((sum(map(len, topic.audiences.values())) for topic in topics), default=0)

    await eventually(lambda: listeners() >= clients)


async def test_raw_and_combined_streams_tell_of_trades_at_once(any_database: Database, market: Market) -> None:
    one = market.add("ONE-USD")
    market.trade(one, range(1, 11))
    async with (
        serving(any_database) as running,
        listening(running, "/ws/oneusd@trade") as raw,
        listening(running, "/stream?streams=oneusd@aggTrade/test.oneusd@trade&timeUnit=MICROSECOND") as combined,
    ):
        await joined(running, one, 3)
        at = datetime(2026, 1, 2, 3, 4, 5, 6_007, tzinfo=UTC)
        market.trade(one, [11], at=at, price="100.10")
        event = await raw.until_event("trade", t=11)
        assert event.pop("E") > 1_700_000_000_000
        ms = int(at.timestamp()) * 1_000 + 6
        assert event == {
            "e": "trade",
            "s": "ONEUSD",
            "t": 11,
            "p": "100.10",
            "q": "0.50",
            "T": ms,
            "m": False,
            "M": True,
        }
        frames = [await combined.until(lambda frame: "stream" in frame) for _ in range(2)]
        assert sorted(frame["stream"] for frame in frames) == ["oneusd@aggTrade", "test.oneusd@trade"]
        assert {frame["data"]["s"] for frame in frames} == {"ONEUSD"}
        assert {frame["data"]["T"] for frame in frames} == {ms * 1_000 + 7}
        assert raw.trade_ids == [11], "no snapshot"


async def test_empty_connections_are_filled_by_subscribing(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running:
        for path in ("/ws", "/ws/", "/ws/0", "/stream", "/stream?streams="):
            async with listening(running, path) as client:
                assert await client.ask("LIST_SUBSCRIPTIONS") == {"result": [], "id": 1}
                assert await client.ask("SUBSCRIBE", "one@trade", id=2) == {"result": None, "id": 2}
                assert await client.ask("LIST_SUBSCRIPTIONS", id=3) == {"result": ["one@trade"], "id": 3}
                await joined(running, one)
                await asyncio.to_thread(market.trade, one, [1 + running.stream.hub.last_id(one)])  # type: ignore[arg-type]
                frame = await client.until(lambda frame: "id" not in frame)
                assert ("stream" in frame) is path.startswith("/stream")


async def test_klines_of_every_interval_equal_those_of_rest_and_the_native_candles(database: Database) -> None:
    market = Market(database)
    one = market.add("ONE")
    market.trade(one, range(1, 201), at=datetime.now(UTC) - timedelta(days=70), step=30_000_000_000, price="123.4500")
    intervals = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
    zoned = ("1d@+08:00", "1w@-03:30", "12h@+08:00", "1h@+05:30", "1m@+08:00")
    names = [f"one@kline_{interval}" for interval in intervals + zoned]
    async with serving(database) as running, listening(running, "/stream?streams=" + "/".join(names)) as client:
        await joined(running, one)
        await eventually(lambda: len(running.stream.hub.topics) == len(names) - 1)  # 1m is the same everywhere
        await eventually(lambda: all(topic.audiences for topic in running.stream.hub.topics))
        market.trade(one, [201], price="124.000")
        for name in names:

            def is_newest(frame: Any, name: str = name) -> bool:
                return frame.get("stream") == name and frame["data"]["k"]["L"] == 201

            found = next((frame for frame in client.frames if is_newest(frame)), None) or await client.until(is_newest)
            k = found["data"]["k"]
            interval, zone = (*name.removeprefix("one@kline_").split("@"), "0")[:2]
            rows = await running.get(f"/api/v3/klines?symbol=ONE&interval={interval}&timeZone={quote(zone)}&limit=2")
            row = next(row for row in rows if row[0] == k["t"])
            assert [k[field] for field in "tohlcvTqnVQB"] == row
            assert (k["i"], k["s"], k["f"] <= k["L"]) == (interval, "ONE", True)
            if zone == "0":
                candles = (await running.get(f"/api/v1/candles/TEST:ONE?interval={interval}&limit=2"))["candles"]
                candle = next(candle for candle in candles if candle["last_id"] == 201)
                columns = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "first_id", "last_id")
                assert [k[field] for field in "ohlcvqnfL"] == [candle[column] for column in columns]
    market.close()


async def test_open_kline_follows_at_its_pace_and_a_closed_one_at_once(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, listening(running, "/ws/one@kline_1s/one@kline_1d") as client:
        await joined(running, one)
        for number in range(1, 61):
            await asyncio.to_thread(market.trade, one, [number])
            await asyncio.sleep(0.05)  # the market's pace: three seconds of trades
        await client.until(lambda frame: frame["k"]["i"] == "1d" and frame["k"]["n"] == 60)
        seconds = [frame["E"] // 1_000 for frame in client.frames if frame["k"]["i"] == "1d" and not frame["k"]["x"]]
        assert len(seconds) == len(set(seconds)) <= 4
        assert all(second % 2 == 0 for second in seconds)
        closed = [frame for frame in client.frames if frame["k"]["i"] == "1s" and frame["k"]["x"]]
        assert len(closed) >= 2
        assert all(0 <= frame["E"] - frame["k"]["T"] <= 1_000 for frame in closed)
        assert sum(frame["k"]["n"] for frame in closed) <= 60


async def test_tickers_begin_with_what_is_and_follow_each_second(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 4), at=datetime.now(UTC) - timedelta(minutes=2), price="100.5")
    async with (
        serving(any_database) as running,
        listening(running, "/ws/one@ticker/one@miniTicker/one@avgPrice") as client,
    ):
        first = await client.until_event("24hrTicker")
        assert (first["c"], first["n"], first["F"], first["L"]) == ("100.5", 3, 1, 3)
        assert (await client.until_event("24hrMiniTicker"))["c"] == "100.5"
        average = await client.until_event("avgPrice")
        assert (average["i"], float(average["w"])) == ("5m", 100.5)
        market.trade(one, [4], price="101.25")
        assert (await client.until_event("24hrTicker", L=4))["c"] == "101.25"
        native = await running.get("/api/v1/ticker/TEST:ONE")
        ticker = next(event for event in reversed(client.events) if event["e"] == "24hrTicker")
        assert (ticker["p"], ticker["v"], ticker["q"]) == (native["change"], native["volume"], native["quote_volume"])


async def test_arrays_tell_of_what_changed_in_one_frame_and_follow_new_instruments(
    any_database: Database, market: Market
) -> None:
    ids = [market.add(f"T{number}") for number in range(1, 6)]
    async with (
        serving(any_database) as running,
        listening(running, "/ws/!miniTicker@arr") as raw,
        listening(running, "/stream?streams=!ticker@arr") as combined,
    ):
        for instrument_id in ids:
            await joined(running, instrument_id, 2)
        new = market.add("NEW")
        await joined(running, new, 2)
        for instrument_id in (ids[0], ids[3], new):
            market.trade(instrument_id, [1])
        for client in (raw, combined):
            told: set[str] = set()
            while told != {"T1", "T4", "NEW"}:
                frame = unwrapped(await client.until(lambda frame: True))
                assert isinstance(frame, list)
                assert len({ticker["s"] for ticker in frame}) == len(frame)
                told |= {ticker["s"] for ticker in frame}
            assert len(client.frames) <= 3, "three transactions can fall in no more seconds than that"
        assert all(frame["stream"] == "!ticker@arr" for frame in combined.frames)


async def test_stream_of_an_instrument_that_comes_later_begins_with_its_first_trade(
    any_database: Database, market: Market
) -> None:
    async with serving(any_database) as running, listening(running, "/ws/later@trade/LATER@trade") as client:
        assert await client.ask("SUBSCRIBE", "later@aggTrade") == {"result": None, "id": 1}
        later = market.add("LATER")
        await joined(running, later, 2)
        market.trade(later, range(1, 4))
        await client.until_event("aggTrade", a=3)
        await eventually(lambda: client.trade_ids == [1, 2, 3])
        assert len([event for event in client.events if event["e"] == "trade"]) == 3


async def test_resumption_replays_what_was_missed_while_trades_go_on(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "REPLAY_PAGE", 300)
    one = market.add("ONE")
    market.trade(one, range(1, 3_001), at=datetime.now(UTC) - timedelta(days=3), step=50_000_000)
    async with serving(any_database) as running, listening(running, "/ws/one@trade?resume=17") as client:
        for first in range(3_001, 3_401, 20):
            await asyncio.to_thread(market.trade, one, range(first, first + 20))
        await client.until_event("trade", t=3_400)
        assert client.trade_ids == [*range(18, 3_401)]


async def test_gaps_and_corrections_are_told_to_who_asked_and_to_nobody_else(
    any_database: Database, market: Market
) -> None:
    one = market.add("ONE")
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    market.trade(one, [1, 2], at=minute)
    market.trade(one, [3], at=minute + timedelta(minutes=2))
    path = "/ws/one@trade/one@kline_1m"
    async with (
        serving(any_database) as running,
        listening(running, path + "?events=gap,correction") as asked,
        listening(running, path) as plain,
    ):
        await joined(running, one, 2)
        market.trade(one, [6], at=minute + timedelta(minutes=3))
        gap = await asked.until_event("gap")
        assert {**gap, "E": 0} == {"e": "gap", "E": 0, "s": "ONE", "f": 4, "l": 5, "r": "missing"}
        market.trade(one, [4, 5], at=minute + timedelta(minutes=2, seconds=5))
        assert (await asked.until_event("gap", r="late"))["l"] == 5
        correction = await asked.until_event("klineCorrection")
        assert (correction["s"], correction["k"]["x"], correction["k"]["n"]) == ("ONE", True, 3)
        market.trade(one, [7])
        await plain.until_event("trade", t=7)
        assert {event["e"] for event in plain.events} <= {"trade", "kline"}
        assert plain.trade_ids == [6, 7]


async def test_gone_client_leaves_nothing_behind(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 20_001))
    async with serving(any_database) as running:
        path = "/ws/one@trade/one@aggTrade?resume=0"
        async with listening(running, path) as client:
            await client.ask("SUBSCRIBE", "!ticker@arr", "one@kline_1m", "two@trade")
            await client.until_event("trade", t=1)
            client.socket.transport.abort()
        hub = running.stream.hub
        await eventually(lambda: not hub.subscribers)
        assert (hub._topics, hub._changed, hub._corrections) == ({}, {}, {})


async def test_replay_is_paced(any_database: Database, market: Market) -> None:
    """No client is sent a hundred frames without a pause to take them."""
    one = market.add("ONE")
    market.trade(one, range(1, 1_001))
    async with serving(any_database) as running, listening(running, "/ws/one@trade?resume=0") as client:
        began = asyncio.get_running_loop().time()
        await client.until_event("trade", t=1_000)
        assert asyncio.get_running_loop().time() - began > 1_000 / 50 * 0.01 * 0.9
        assert client.trade_ids == [*range(1, 1_001)]
