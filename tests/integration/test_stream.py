"""The stream end to end: a server, a database and clients; its protocol, its limits and its close codes."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from app import main
from app.stream import protocol, subscriber, subscription
from tests.databases import Database
from tests.integration.stream_harness import Client, Deaf, Event, Market, Running, eventually, serving


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


async def snapshot(client: Client, channel: str) -> Event:
    return await client.until(lambda event: event["type"] == "snapshot" and event["channel"] == channel)


def candle_of(event: Event) -> Event:
    extra = ("type", "symbol", "interval", "timezone")
    return {name: value for name, value in event.items() if name not in extra}


async def rest_candles(running: Running, interval: str, **query: Any) -> dict[str, Event]:
    more = "".join(f"&{name}={value}" for name, value in query.items())
    answer = await running.get(f"/api/v1/candles/TEST:ONE?interval={interval}{more}")
    return {candle["time"]: candle for candle in answer["candles"]}


async def test_trades_begin_with_a_snapshot_and_go_on_live(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 101))
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "one", id=7)
        answer = await client.until_type("subscribed")
        assert answer == {"type": "subscribed", "id": 7, "channel": "trades", "symbols": ["TEST:ONE"]}
        await snapshot(client, "trades")
        market.trade(one, range(101, 103), at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), price="100.10")
        await client.until_trade(102)
        assert client.trade_ids == [*range(51, 103)]
        assert client.events[-1] == {
            "type": "trade",
            "trade_id": 102,
            "time": "2026-01-02T03:04:05.000006Z",
            "price": "100.10",
            "size": "0.50",
            "side": "sell",
            "symbol": "TEST:ONE",
        }


async def test_since_replays_what_was_missed_while_trades_go_on(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "REPLAY_PAGE", 300)
    one = market.add("ONE")
    start = datetime.now(UTC) - timedelta(days=3)
    market.trade(one, range(1, 5_001), at=start, step=50_000_000)
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE", since={"ONE": 17})
        for first in range(5_001, 5_401, 20):
            await asyncio.to_thread(market.trade, one, range(first, first + 20))
        await client.until_trade(5_400)
        assert client.trade_ids == [*range(18, 5_401)]
        assert not client.of_type("gap")
        assert not client.of_type("snapshot")


async def test_since_tells_of_ids_that_the_table_skips(any_database: Database, market: Market) -> None:
    one, other = market.add("ONE"), market.add("OTHER", contiguous=False)
    for instrument in (one, other):
        market.trade(instrument, [*range(1, 11), *range(15, 21)])
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE", "OTHER", since={"ONE": 5, "OTHER": 5})
        market.trade(one, [23])
        market.trade(other, [23])
        await client.until(lambda event: event.get("trade_id") == 23 and event["symbol"] == "TEST:OTHER")
        gaps = [(gap["symbol"], gap["from_id"], gap["to_id"], gap["reason"]) for gap in client.of_type("gap")]
        assert gaps == [("TEST:ONE", 11, 14, "missing"), ("TEST:ONE", 21, 22, "missing")]


async def test_since_above_everything_resets_and_begins_with_a_snapshot(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 4))
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE", since={"ONE": 1_000})
        assert (await client.until_type("reset"))["channel"] == "trades"
        await snapshot(client, "trades")
        market.trade(one, [4])
        await client.until_trade(4)
        assert client.trade_ids == [1, 2, 3, 4]


async def test_since_above_what_the_listener_knows_is_no_reset(any_database: Database, market: Market) -> None:
    """REST reads the table, and an import tells nobody: the client may be ahead of the hub."""
    one = market.add("ONE")
    market.trade(one, [1])
    async with serving(any_database) as running, running.client() as client:
        any_database.execute("ALTER TABLE market.ticks DISABLE TRIGGER announce")
        market.trade(one, [2, 3, 4])
        any_database.execute("ALTER TABLE market.ticks ENABLE TRIGGER announce")
        assert running.stream.hub.last_id(one) == 1  # type: ignore[arg-type]
        await client.subscribe("trades", "ONE", since={"ONE": 3})
        await client.until_trade(4)
        market.trade(one, [5])
        await client.until_trade(5)
        assert not client.of_type("reset")
        assert client.trade_ids == [4, 5]


async def test_instrument_without_ticks_is_followed_from_its_first(any_database: Database, market: Market) -> None:
    async with serving(any_database) as running, running.client() as client:
        one = market.add("ONE")
        await eventually(lambda: running.stream.listener._registry.all)
        for channel, more in (("trades", {}), ("candles", {"interval": "1m"}), ("ticker", {})):
            await client.subscribe(channel, "ONE", **more)
            empty = await snapshot(client, channel)
            assert not any(empty.get(name) for name in ("trades", "candles", "ticker"))
        market.trade(one, [100, 101])
        await client.until_trade(101)
        assert client.trade_ids == [100, 101]
        assert (await client.until_type("candle"))["trades"] == 2
        assert (await client.until_type("ticker"))["trades"] == 2


async def test_new_instrument_is_known_at_once_and_holds_up_nothing(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await snapshot(client, "trades")
        other = market.add("OTHER")
        market.trade(other, [1, 2])
        market.trade(one, [1])
        await client.until_trade(1)
        await eventually(lambda: len(running.stream.listener._registry.all) == 2)
        await client.subscribe("trades", "OTHER", since={"OTHER": 0})
        market.trade(other, [3])
        await client.until(lambda event: event.get("trade_id") == 3)
        ids = [event["trade_id"] for event in client.of_type("trade") if event["symbol"] == "TEST:OTHER"]
        assert ids == [1, 2, 3]


async def test_notification_that_is_no_tick_is_passed_over(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await snapshot(client, "trades")
        with any_database.connect(any_database.reader) as reader:
            reader.execute("NOTIFY ticks, 'nonsense'")
            reader.execute("NOTIFY ticks, '[[1,2]]'")
            reader.execute("NOTIFY corrections, '{}'")
            reader.execute("NOTIFY caught_up")
        market.trade(one, [1])
        await client.until_trade(1)


async def test_late_tick_is_told_of_as_gap_and_as_correction(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    before = datetime.now(UTC) - timedelta(minutes=2)
    market.trade(one, [1, 3], at=before)
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await client.subscribe("candles", "ONE", interval="1m")
        await snapshot(client, "candles")
        market.trade(one, [2], at=before, price="99.00")
        correction = await client.until_type("correction")
        gap = (await client.until_type("gap")) if not client.of_type("gap") else client.of_type("gap")[0]
        assert (gap["from_id"], gap["to_id"], gap["reason"]) == (2, 2, "late")
        assert candle_of(correction) == (await rest_candles(running, "1m"))[correction["time"]]
        assert correction["low"] == "99.00"


@pytest.mark.parametrize("interval", ["1s"])
async def test_closed_candle_comes_by_the_clock_and_equals_that_of_rest(database: Database, interval: str) -> None:
    market = Market(database)
    one = market.add("ONE")
    async with serving(database) as running, running.client() as client:
        await client.subscribe("candles", "ONE", interval=interval)
        await snapshot(client, "candles")
        market.trade(one, range(1, 4), step=1_000, price="0.000000000000000001")
        opened = await client.until_type("candle")
        assert not opened["closed"]
        closed = await client.until(lambda event: event.get("closed"))
        late = datetime.now(UTC) - datetime.fromisoformat(closed["time"]) - timedelta(seconds=1)
        assert late < timedelta(seconds=0.25)
        assert candle_of(closed) == (await rest_candles(running, interval))[closed["time"]]
    market.close()


async def test_snapshot_and_open_candles_of_every_interval_equal_those_of_rest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(database)
    one = market.add("ONE")
    start = datetime.now(UTC) - timedelta(days=70)
    market.trade(one, range(1, 201), at=start, step=30_000_000_000, price="123.4500")
    async with serving(database) as running, running.client() as client:
        topics = [(interval, "UTC") for interval in ("1m", "5m", "1h", "4h", "1d", "3d", "1w", "1M")]
        topics += [("1d", "Asia/Kathmandu"), ("1w", "America/St_Johns")]
        for interval, zone in topics[:8]:
            await client.subscribe("candles", "ONE", interval=interval, timezone=zone)
        market.trade(one, [201], price="124.000")
        for interval, zone in topics[8:]:
            await client.subscribe("candles", "ONE", interval=interval, timezone=zone)
        for interval, zone in topics:

            def is_open(event: Event, interval: str = interval, zone: str = zone) -> bool:
                candles = [event] if event["type"] == "candle" else event.get("candles", [])
                mine = event.get("interval") == interval and event.get("timezone") == zone
                return mine and any(candle["last_id"] == 201 for candle in candles)

            event = next((e for e in client.events if is_open(e)), None) or await client.until(is_open)
            last = event["candles"][-1] if event["type"] == "snapshot" else candle_of(event)
            assert last == (await rest_candles(running, interval, timezone=zone))[last["time"]]
    market.close()


async def test_ticker_equals_that_of_rest(database: Database) -> None:
    market = Market(database)
    one = market.add("ONE")
    market.trade(one, range(1, 31), at=datetime.now(UTC) - timedelta(hours=30), step=3_600_000_000, price="100.5")
    async with serving(database) as running, running.client() as client:
        await client.subscribe("ticker", "*")
        await snapshot(client, "ticker")
        market.trade(one, [31], price="101.25")
        ticker = await client.until(lambda event: event["type"] == "ticker" and event["last"] == "101.25")
        answer = await running.get("/api/v1/ticker/TEST:ONE")
        shared = set(ticker) & set(answer)
        assert shared >= {"last", "open", "high", "low", "change", "change_percent", "volume", "quote_volume", "trades"}
        assert {name: ticker[name] for name in shared} == {name: answer[name] for name in shared}
    market.close()


async def test_unsubscribed_topic_is_silent_and_can_be_taken_up_again(any_database: Database, market: Market) -> None:
    one, other = market.add("ONE"), market.add("OTHER")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE", "OTHER")
        await client.ask(op="unsubscribe", channel="trades", symbols=["ONE"])
        await client.subscribe("trades", "ONE")
        await client.ask(op="unsubscribe", channel="trades", symbols=["ONE"], id="bye")
        await client.until(lambda event: event["type"] == "unsubscribed" and event.get("id") == "bye")
        await client.ask(op="list", id=1)
        held = await client.until_type("subscriptions")
        assert held["subscriptions"] == [{"channel": "trades", "symbol": "TEST:OTHER"}]
        await eventually(lambda: not running.stream.hub.watches(one))  # type: ignore[arg-type]
        await eventually(lambda: all(topic.subscribers for topic in running.stream.hub.topics))
        seen = len(client.events)
        market.trade(one, [1])
        market.trade(other, [1])
        await client.until_trade(1)
        assert [event["symbol"] for event in client.events[seen:] if event["type"] == "trade"] == ["TEST:OTHER"]
        await client.subscribe("trades", "ONE", since={"ONE": 0})
        await client.until(lambda event: event.get("trade_id") == 1 and event["symbol"] == "TEST:ONE")


async def test_silence_is_broken_by_heartbeats_and_ping_is_answered(any_database: Database) -> None:
    async with serving(any_database, heartbeat_s=0.05) as running, running.client() as client:
        first = await client.until_type("heartbeat")
        second = await client.until_type("heartbeat")
        assert datetime.fromisoformat(first["time"]) < datetime.fromisoformat(second["time"])
        await client.ask(op="ping", id="now")
        await client.until(lambda event: event["type"] == "heartbeat" and event.get("id") == "now")


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ({"op": "subscribe", "channel": "trades", "symbols": ["ONF"]}, "unknown_symbol", "TEST:ONE"),
        ({"op": "subscribe", "channel": "trades", "symbols": []}, "bad_request", "symbols"),
        ({"op": "subscribe", "channel": "depth", "symbols": ["ONE"]}, "bad_request", "channel"),
        ({"op": "subscribe", "channel": "candles", "symbols": ["ONE"]}, "bad_request", "interval"),
        ({"op": "subscribe", "channel": "candles", "symbols": ["ONE"], "interval": "7m"}, "bad_request", "interval"),
        ({"op": "subscribe", "channel": "ticker", "symbols": ["ONE"], "interval": "1m"}, "bad_request", "interval"),
        (
            {"op": "subscribe", "channel": "candles", "symbols": ["ONE"], "interval": "1h", "timezone": "Asia/Tokyo"},
            "bad_request",
            "1d",
        ),
        (
            {"op": "subscribe", "channel": "candles", "symbols": ["ONE"], "interval": "1d", "timezone": "../Tokyo"},
            "bad_request",
            "IANA",
        ),
        ({"op": "subscribe", "channel": "ticker", "symbols": ["ONE"], "since": {"ONE": 1}}, "bad_request", "since"),
        ({"op": "subscribe", "channel": "trades", "symbols": ["ONE"], "since": {"ONE": -2}}, "bad_request", "since"),
        ({"op": "subscribe", "channel": "trades", "symbols": ["ONE"], "since": {"TWO": 2}}, "bad_request", "TWO"),
        ({"op": "buy"}, "bad_request", "op"),
        ({"op": "auth", "token": "x"}, "not_available", "private"),
    ],
)
async def test_request_that_cannot_be_carried_out_is_answered_by_an_error(
    any_database: Database, market: Market, request_: dict[str, Any], code: str, text: str
) -> None:
    market.add("ONE")
    market.add("TWO")
    async with serving(any_database) as running, running.client() as client:
        await client.ask(id=3, **request_)
        error = await client.until_type("error")
        assert (error["code"], error["id"]) == (code, 3)
        assert text in error["message"]
        await client.ask(op="ping")
        await client.until_type("heartbeat")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param("not json", id="no JSON"),
        pytest.param('["subscribe"]', id="no object"),
        pytest.param(b'{"op":"ping"}', id="binary"),
        pytest.param("[" * 9_000, id="deep"),
        pytest.param(json.dumps({"op": "ping", "id": "x" * protocol.MAX_MESSAGE_BYTES}), id="too long"),
        pytest.param('{"op":"ping","x":"' + "Ä" * 8_200 + '"}', id="too long in bytes alone"),
    ],
)
async def test_frame_that_is_no_request_closes_with_4400(any_database: Database, frame: str | bytes) -> None:
    async with serving(any_database) as running, running.client() as client:
        await client.socket.send(frame)
        assert await client.closed() == protocol.Close.BAD_FRAME


async def test_eleventh_message_of_a_second_closes_with_4429(any_database: Database) -> None:
    async with serving(any_database) as running, running.client() as client:
        for number in range(protocol.MAX_MESSAGES_PER_SECOND):
            await client.ask(op="ping", id=number)
        await client.until(lambda event: event.get("id") == protocol.MAX_MESSAGES_PER_SECOND - 1)
        with suppress(ConnectionClosed):
            for _ in range(protocol.MAX_MESSAGES_PER_SECOND):
                await client.ask(op="ping")
        assert await client.closed() == protocol.Close.TOO_MANY


async def test_page_of_another_origin_is_closed_with_4403(any_database: Database) -> None:
    async with serving(any_database) as running:
        async with running.client(origin="https://elsewhere.example") as client:
            assert await client.closed() == protocol.Close.FORBIDDEN
        async with running.client(origin=running.url) as client:
            await client.ask(op="ping")
            await client.until_type("heartbeat")


async def test_client_beyond_the_limit_is_closed_with_1013(any_database: Database) -> None:
    async with serving(any_database, max_clients=1) as running:
        async with running.client() as first:
            async with running.client() as second:
                assert await second.closed() == protocol.Close.TRY_LATER
            await first.ask(op="ping")
            await first.until_type("heartbeat")
        await eventually(lambda: not running.stream.hub.subscribers)
        async with running.client() as third:
            await third.ask(op="ping")
            await third.until_type("heartbeat")


async def test_shutdown_sends_what_waits_then_a_notice_and_closes_with_1012(
    any_database: Database, market: Market
) -> None:
    one = market.add("ONE")
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await snapshot(client, "trades")
        market.trade(one, range(1, 2_001))
        await client.until_trade(1)
        stopped = running.stop()
        assert await client.closed() == protocol.Close.GOING_AWAY
        while True:
            try:
                client.events.extend(json.loads(await client.socket.recv()))
            except ConnectionClosed:
                break
        assert client.events[-1]["type"] == "notice"
        assert client.trade_ids == [*range(1, len(client.trade_ids) + 1)]
        await stopped


async def test_shutdown_is_not_held_up_by_a_client_that_does_not_read(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 40_001))
    async with serving(any_database) as running:
        with Deaf(running.url) as deaf:
            await deaf.ask(op="subscribe", channel="trades", symbols=["ONE"], since={"ONE": 0})
            await eventually(lambda: any(s._sending_since for s in running.stream.hub.subscribers))
            async with asyncio.timeout(6):
                await running.stop()


async def test_client_that_does_not_read_is_dropped_and_others_miss_nothing(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "STALL_SECONDS", 0.5)
    one = market.add("ONE")
    async with serving(any_database, outbox_bytes=1 << 20) as running, running.client() as client:
        await client.subscribe("trades", "ONE")
        await snapshot(client, "trades")
        with Deaf(running.url) as deaf:
            await deaf.ask(op="subscribe", channel="trades", symbols=["ONE"])
            await eventually(lambda: [len(topic.subscribers) for topic in running.stream.hub.topics] == [2])
            for first in range(1, 60_001, 500):
                await asyncio.to_thread(market.trade, one, range(first, first + 500))
                await client.until_trade(first + 499)
            assert client.trade_ids == [*range(1, 60_001)]
            await eventually(lambda: len(running.stream.hub.subscribers) == 1)
            assert running.stream.slow == 1
            await eventually(lambda: len(running.connections) == 1)


async def test_client_that_reads_again_in_time_is_told_4408(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "STALL_SECONDS", 0.2)
    one = market.add("ONE")
    market.trade(one, range(1, 100_001))
    async with serving(any_database) as running, running.client(max_queue=1) as client:
        await client.subscribe("trades", "ONE", since={"ONE": 0})
        await eventually(lambda: running.stream.slow)
        assert await _drained(client) == protocol.Close.SLOW_CONSUMER


async def _drained(client: Client) -> int | None:
    try:
        while True:
            await client.socket.recv()
    except ConnectionClosed:
        return client.socket.close_code


async def test_client_that_lags_gets_a_gap_and_resumes_from_it(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database, outbox_bytes=65_536) as running, running.client(max_queue=1) as client:
        await client.subscribe("trades", "ONE")
        await snapshot(client, "trades")
        first = 1
        while not running.stream.dropped:
            await asyncio.to_thread(market.trade, one, range(first, first + 2_000))
            first += 2_000
        gap = await client.until_type("gap")
        assert gap["reason"] == "slow"
        assert client.trade_ids == [*range(1, gap["from_id"])]
        await client.ask(op="unsubscribe", channel="trades", symbols=["ONE"])
        await client.until_type("unsubscribed")
        resumed = len(client.events)
        await client.subscribe("trades", "ONE", since={"ONE": gap["from_id"] - 1})
        await client.until_trade(first - 1)
        ids = [event["trade_id"] for event in client.events[resumed:] if event["type"] == "trade"]
        assert ids == [*range(gap["from_id"], first)]


async def test_client_that_leaves_in_the_middle_of_a_replay_leaves_nothing_behind(
    any_database: Database, market: Market
) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 50_001))
    async with serving(any_database) as running:
        async with running.client() as client:
            await client.subscribe("trades", "ONE", since={"ONE": 0})
            await client.subscribe("candles", "ONE", interval="1m")
            await client.subscribe("ticker", "ONE")
            await client.until_trade(1)
            client.socket.transport.abort()
        hub = running.stream.hub
        await eventually(lambda: not hub.subscribers)
        assert (hub._topics, hub._changed, hub._corrections) == ({}, {}, {})
        async with running.client() as client:
            await client.subscribe("trades", "ONE")
            await snapshot(client, "trades")


async def test_stream_that_fails_ends_the_process(any_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(main.signal, "raise_signal", raised.append)
    async with serving(any_database) as running:
        monkeypatch.setattr(running.stream.hub, "flush", None)
        await eventually(lambda: raised)
    assert raised == [signal.SIGTERM]
