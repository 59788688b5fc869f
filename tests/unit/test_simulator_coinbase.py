import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from app.market.model import to_micros
from ingest.simulator.coinbase.frames import GARBAGE, sequence
from ingest.simulator.exchange import Exchange
from ingest.simulator.market import Market
from ingest.simulator.misbehaviour import Misbehaviour
from ingest.simulator.tape import Trade

WAIT = 10.0
MATCH = [
    "type",
    "trade_id",
    "maker_order_id",
    "taker_order_id",
    "side",
    "size",
    "price",
    "product_id",
    "sequence",
    "time",
]


class Feed:
    """A client of the exchange's Coinbase feed, and what it has seen that was not asked for."""

    def __init__(self, client: ClientConnection) -> None:
        self.client = client

    async def receive(self) -> Any:
        return json.loads(await asyncio.wait_for(self.client.recv(), WAIT))

    async def receive_of(self, kind: str) -> Any:
        """The next message of a type, passing over others."""
        while True:
            message = await self.receive()
            if message["type"] == kind:
                return message

    async def matches(self, count: int) -> list[Any]:
        return [await self.receive_of("match") for _ in range(count)]

    async def send(self, request: object) -> None:
        await self.client.send(request if isinstance(request, str) else json.dumps(request))

    async def ask(self, request: object) -> Any:
        """Send a request and return its answer, passing over market data."""
        await self.send(request)
        while True:
            message = await self.receive()
            if message["type"] in {"subscriptions", "error"}:
                return message

    async def subscribe(self, *channels: object, products: tuple[str, ...] = ("BTC-USDT",)) -> Any:
        await self.send({"type": "subscribe", "product_ids": products, "channels": channels})


@contextlib.asynccontextmanager
async def feeding(exchange: Exchange) -> AsyncIterator[Feed]:
    async with exchange.serve() as address, connect(address.ws, max_queue=None) as client:
        yield Feed(client)


def told(message: dict[str, Any]) -> Trade:
    """A match as a trade, its digits padded as those of the market are."""
    return Trade(
        message["trade_id"],
        to_micros(datetime.fromisoformat(message["time"])),
        f"{Decimal(message['price']):.8f}",
        f"{Decimal(message['size']):.8f}",
        message["side"] == "buy",
    )


async def test_coinbase_matches_are_the_markets_trades_in_coinbases_form() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200, seed=7)
    async with feeding(exchange) as feed:
        await feed.subscribe("matches")
        first = await feed.receive()
        assert (first["type"], list(first)) == ("last_match", MATCH)
        answer = await feed.receive()
        assert answer == {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USDT"]}]}
        got = await feed.matches(100)
    assert [told(message) for message in [first, *got]] == Market("BTCUSDT", 200, 7).trades(first["trade_id"], 101)
    assert all(list(message) == MATCH for message in got)
    assert {message["product_id"] for message in got} == {"BTC-USDT"}
    orders = [message[side] for message in got for side in ("maker_order_id", "taker_order_id")]
    assert len(set(orders)) == 200
    assert all(len(order) == 36 for order in orders)
    assert all(len(message["time"]) == len("2021-04-17T16:43:37.089723Z") for message in got)
    places = [message["sequence"] for message in got]
    assert all(one < other for one, other in itertools.pairwise(places))
    assert not any(message["size"].endswith("0") for message in got if "." in message["size"])


async def test_coinbase_second_subscriber_s_first_match_follows_its_last_match() -> None:
    exchange = Exchange(["BTCUSDT"], rate=500)
    async with exchange.serve() as address, connect(address.ws, max_queue=None) as one:
        await Feed(one).subscribe("matches")
        await Feed(one).matches(10)
        async with connect(address.ws, max_queue=None) as other:
            await Feed(other).subscribe("matches")
            last = await Feed(other).receive_of("last_match")
            (match,) = await Feed(other).matches(1)
    assert match["trade_id"] == last["trade_id"] + 1


async def test_coinbase_and_binance_tell_of_the_same_trades() -> None:
    async with (
        Exchange(["BTCUSDT"], rate=200).serve() as address,
        connect(address.ws, max_queue=None) as coinbase,
        connect(f"{address.ws}/ws/btcusdt@trade?timeUnit=MICROSECOND", max_queue=None) as binance,
    ):
        await Feed(coinbase).subscribe("matches")
        matches = {match["trade_id"]: told(match) for match in await Feed(coinbase).matches(100)}
        events = [await Feed(binance).receive() for _ in range(100)]
    both = [event for event in events if event["t"] in matches]
    assert both
    for event in both:
        assert matches[event["t"]] == Trade(event["t"], event["T"], event["p"], event["q"], event["m"])


async def test_coinbase_heartbeat_tells_how_far_each_product_is_every_second() -> None:
    exchange = Exchange(["BTCUSDT", "ETHUSDT"], rate=50)
    async with feeding(exchange) as feed:
        await feed.subscribe("heartbeat", products=("BTC-USDT", "ETH-USDT"))
        beats = [await feed.receive_of("heartbeat") for _ in range(4)]
    assert sorted(beat["product_id"] for beat in beats) == ["BTC-USDT"] * 2 + ["ETH-USDT"] * 2
    for beat in beats:
        assert list(beat) == ["type", "last_trade_id", "product_id", "sequence", "time"]
        now = to_micros(datetime.fromisoformat(beat["time"]))
        (last,) = exchange.tape(beat["product_id"].replace("-", "")).latest(1, now)
        assert (beat["last_trade_id"], beat["sequence"]) == (last.id, sequence(last.id))


async def test_coinbase_heartbeat_has_the_last_match_that_was_sent() -> None:
    async with feeding(Exchange(["BTCUSDT"], rate=100)) as feed:
        await feed.subscribe("matches", "heartbeat")
        last = 0
        while (message := await feed.receive())["type"] != "heartbeat":
            last = message.get("trade_id", last)
    assert message["last_trade_id"] == last


async def test_coinbase_subscriptions_add_up_and_are_taken_back() -> None:
    async with feeding(Exchange(["BTCUSDT", "ETHUSDT"], rate=50)) as feed:
        request = {
            "type": "subscribe",
            "product_ids": ["BTC-USDT"],
            "channels": ["heartbeat", {"name": "matches", "product_ids": ["ETH-USDT"]}],
        }
        both = ["BTC-USDT", "ETH-USDT"]
        assert (await feed.ask(request))["channels"] == [
            {"name": "heartbeat", "product_ids": ["BTC-USDT"]},
            {"name": "matches", "product_ids": both},
        ]
        request = {"type": "unsubscribe", "product_ids": ["BTC-USDT"], "channels": ["matches"]}
        assert (await feed.ask(request))["channels"] == [
            {"name": "heartbeat", "product_ids": ["BTC-USDT"]},
            {"name": "matches", "product_ids": ["ETH-USDT"]},
        ]
        assert {match["product_id"] for match in await feed.matches(20)} == {"ETH-USDT"}
        request = {"type": "unsubscribe", "channels": ["matches"]}
        assert (await feed.ask(request))["channels"] == [{"name": "heartbeat", "product_ids": ["BTC-USDT"]}]
        assert (await feed.receive())["type"] == "heartbeat"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ("{", "JSON"),
        ("[]", "array"),
        ({"type": "subscribe", "channels": 5}, "array"),
        ({"type": "dance", "channels": ["matches"]}, "dance is not a valid type"),
        ({"type": "subscribe", "product_ids": ["BTC-USDT"]}, "No channels provided"),
        ({"type": "subscribe", "channels": ["matches"]}, "at least one product ID for channel matches"),
        ({"type": "subscribe", "product_ids": ["BTCUSDT"], "channels": ["matches"]}, "BTCUSDT is not a valid product"),
        (
            {"type": "subscribe", "product_ids": ["BTC-USDT", "NO-SUCH"], "channels": ["matches"]},
            "NO-SUCH is not a valid product",
        ),
        ({"type": "subscribe", "product_ids": ["BTC-USDT"], "channels": ["full"]}, "full is not a valid channel"),
    ],
)
async def test_coinbase_bad_request_is_answered_with_an_error_and_changes_nothing(
    request_: object, reason: str
) -> None:
    exchange = Exchange(["BTCUSDT"], rate=100)
    async with feeding(exchange) as feed:
        answer = await feed.ask(request_)
        assert answer["type"] == "error"
        assert answer["message"]
        assert reason in answer["reason"] or reason in answer["message"]
        heartbeat = {"type": "subscribe", "product_ids": ["BTC-USDT"], "channels": ["heartbeat"]}
        assert [channel["name"] for channel in (await feed.ask(heartbeat))["channels"]] == ["heartbeat"]


async def test_coinbase_client_that_does_not_subscribe_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.simulator.coinbase.session.SUBSCRIBE_SECONDS", 0.2)
    async with (
        Exchange(["BTCUSDT"], rate=50).serve() as address,
        connect(address.ws) as idle,
        connect(address.ws) as it,
    ):
        feed = Feed(it)
        await feed.subscribe("matches")
        await asyncio.wait_for(idle.wait_closed(), WAIT)
        assert idle.close_code == 1006
        started = time.monotonic()
        while time.monotonic() - started < 0.3:
            await feed.matches(1)


async def test_coinbase_misbehaviour_falls_on_matches_as_it_is_recorded() -> None:
    bad = Misbehaviour(skip=0.1, duplicate=0.1, reorder=0.1, garbage=0.2, reorder_distance=2)
    exchange = Exchange(["BTCUSDT"], rate=500, misbehaviour=bad)
    garbage = {frame.replace(b"%s", b"BTC-USDT").decode() for frame in GARBAGE}
    async with feeding(exchange) as feed:
        await feed.subscribe("matches")
        frames = [await asyncio.wait_for(feed.client.recv(), WAIT) for _ in range(400)]
    matches = [json.loads(frame) for frame in frames if frame not in garbage]
    got = [match["trade_id"] for match in matches if match["type"] == "match"]
    ids = range(min(got), max(got) - 5)
    record = exchange.record
    assert len([frame for frame in frames if frame in garbage]) > 20
    assert set(ids) - set(got) == record.ids("skip", "BTCUSDT") & set(ids)
    assert {one for one in ids if got.count(one) == 2} == record.ids("duplicate", "BTCUSDT") & set(ids)
    assert got != sorted(got)
    truth = {trade.id: trade for trade in exchange.tape("BTCUSDT").trades(min(got), len(got) * 2)}
    assert all(told(match) == truth[match["trade_id"]] for match in matches if match["type"] == "match")


async def test_coinbase_silence_loses_trades_and_the_connection_stays() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200)
    async with feeding(exchange) as feed:
        await feed.subscribe("matches")
        ids = [match["trade_id"] for match in await feed.matches(2)]
        exchange.go_silent(0.3)
        while ids[-1] - ids[-2] == 1:
            ids += [match["trade_id"] for match in await feed.matches(1)]
    assert ids[-1] - ids[-2] - 1 == exchange.record.counters["silenced"]


async def test_coinbase_connection_that_is_too_old_is_closed() -> None:
    bad = Misbehaviour(max_connection_seconds=0.3, notice_seconds=0.1)
    async with feeding(Exchange(["BTCUSDT"], rate=50, misbehaviour=bad)) as feed:
        await feed.subscribe("matches")
        kinds = {json.loads(frame)["type"] async for frame in feed.client}
        assert kinds == {"last_match", "subscriptions", "match"}
        assert feed.client.close_code == 1001


async def test_coinbase_drop_and_close_fall_on_its_connections_too() -> None:
    exchange = Exchange(["BTCUSDT"], rate=50)
    async with exchange.serve() as address:
        async with connect(address.ws) as client:
            exchange.drop_connections()
            await asyncio.wait_for(client.wait_closed(), WAIT)
            assert client.close_code == 1006
        async with connect(address.ws) as client:
            await exchange.close_for(60)
            await asyncio.wait_for(client.wait_closed(), WAIT)
            assert client.close_code == 1001
        with pytest.raises(websockets.InvalidStatus, match="503"):
            await connect(address.ws)
