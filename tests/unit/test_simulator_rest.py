import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from ingest.simulator.exchange import Exchange
from ingest.simulator.market import EPOCH_US
from ingest.simulator.misbehaviour import Misbehaviour

NOW = EPOCH_US + 500 * 86_400_000_000 + 12_345_678


class Client:
    """REST calls to an exchange whose clock stands still at `now` until it is moved."""

    def __init__(self) -> None:
        self.now = NOW
        self.exchange = Exchange(["BTCUSDT", "XRPUSDC"], rate=5, clock=lambda: self.now)
        self.tape = self.exchange.tape("BTCUSDT")
        self.session: aiohttp.ClientSession

    async def answer(self, path: str, **query: object) -> tuple[int, Any, dict[str, str]]:
        params = {name: str(value) for name, value in query.items()}
        async with self.session.get(path, params=params) as response:
            return response.status, await response.json(), dict(response.headers)

    async def get(self, path: str, **query: object) -> Any:
        status, body, _ = await self.answer(f"/api/v3/{path}", **query)
        assert status == 200, body
        return body

    async def post(self, body: object) -> tuple[int, Any]:
        async with self.session.post("/control", data=body if isinstance(body, str) else json.dumps(body)) as response:
            return response.status, await response.json()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    async with client.exchange.serve() as address, aiohttp.ClientSession(address.http) as client.session:
        yield client


async def test_rest_ping_and_time(client: Client) -> None:
    assert await client.get("ping") == {}
    assert await client.get("time") == {"serverTime": NOW // 1000}


async def test_rest_trades_are_the_newest_until_now(client: Client) -> None:
    rows = await client.get("trades", symbol="BTCUSDT", limit=3)
    newest = client.tape.latest(3, NOW)
    assert [row["id"] for row in rows] == [trade.id for trade in newest]
    assert newest[-1].time_us <= NOW < client.tape.trade(newest[-1].id + 1).time_us
    trade = newest[0]
    quote = Decimal(trade.price) * Decimal(trade.size)
    assert rows[0] == {
        "id": trade.id,
        "price": trade.price,
        "qty": trade.size,
        "quoteQty": f"{quote:f}",
        "time": trade.time_us // 1000,
        "isBuyerMaker": trade.buyer_is_maker,
        "isBestMatch": True,
    }
    assert len(await client.get("trades", symbol="BTCUSDT")) == 500
    assert len(await client.get("trades", symbol="BTCUSDT", limit=5000)) == 1000


async def test_rest_historical_trades_page_without_hole_up_to_now(client: Client) -> None:
    last = client.tape.latest(1, NOW)[0].id
    from_id, ids = last - 2500, []
    while rows := await client.get("historicalTrades", symbol="BTCUSDT", fromId=from_id, limit=1000):
        ids += [row["id"] for row in rows]
        from_id = ids[-1] + 1
    assert ids == list(range(last - 2500, last + 1))
    assert (await client.get("historicalTrades", symbol="BTCUSDT", fromId=1, limit=1))[0]["id"] == 1
    assert (await client.get("historicalTrades", symbol="BTCUSDT", limit=1))[0]["id"] == last


async def test_rest_aggregates_have_binances_fields(client: Client) -> None:
    trade = client.tape.trade(1000)
    assert await client.get("aggTrades", symbol="BTCUSDT", fromId=1000, limit=1) == [
        {
            "a": 1000,
            "p": trade.price,
            "q": trade.size,
            "f": 1000,
            "l": 1000,
            "T": trade.time_us // 1000,
            "m": trade.buyer_is_maker,
            "M": True,
        }
    ]


async def test_rest_aggregates_of_a_range_are_those_within_it(client: Client) -> None:
    start = NOW // 1000 - 10_000
    end = start + 5_000
    between = [row["T"] for row in await client.get("aggTrades", symbol="BTCUSDT", startTime=start, endTime=end)]
    trades = client.tape.trades(client.tape.id_at(start * 1000), 100)
    assert between == [trade.time_us // 1000 for trade in trades if trade.time_us // 1000 <= end]
    assert between
    newest = await client.get("aggTrades", symbol="BTCUSDT", endTime=end, limit=2)
    assert [row["T"] for row in newest] == between[-2:]
    oldest = await client.get("aggTrades", symbol="BTCUSDT", startTime=start, limit=2)
    assert [row["T"] for row in oldest] == between[:2]


async def test_rest_exchange_info_has_what_clients_read(client: Client) -> None:
    info = await client.get("exchangeInfo")
    assert [symbol["symbol"] for symbol in info["symbols"]] == ["BTCUSDT", "XRPUSDC"]
    (symbol,) = (await client.get("exchangeInfo", symbol="XRPUSDC"))["symbols"]
    filters = {entry["filterType"]: entry for entry in symbol["filters"]}
    assert (symbol["status"], symbol["baseAsset"], symbol["quoteAsset"]) == ("TRADING", "XRP", "USDC")
    assert Decimal(filters["PRICE_FILTER"]["tickSize"]) == Decimal("0.0001")
    assert Decimal(filters["LOT_SIZE"]["stepSize"]) == Decimal("0.1")
    assert symbol.keys() >= {"permissions", "permissionSets", "orderTypes", "isSpotTradingAllowed", "quotePrecision"}
    both = await client.get("exchangeInfo", symbols='["XRPUSDC","BTCUSDT"]')
    assert [symbol["symbol"] for symbol in both["symbols"]] == ["XRPUSDC", "BTCUSDT"]


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("trades", {}, -1102),
        ("trades", {"symbol": "NOSUCH"}, -1121),
        ("trades", {"symbol": "btcusdt"}, -1100),
        ("trades", {"symbol": "BTCUSDT", "nonsense": 1}, -1101),
        ("ping", {"symbol": "BTCUSDT"}, -1101),
        ("trades", {"symbol": "BTCUSDT", "limit": "ten"}, -1100),
        ("trades", {"symbol": "BTCUSDT", "limit": 0}, -1130),
        ("historicalTrades", {"symbol": "BTCUSDT", "fromId": -1}, -1100),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("exchangeInfo", {"symbol": "NOSUCH"}, -1121),
        ("exchangeInfo", {"symbols": '["BTCUSDT","NOSUCH"]'}, -1121),
        ("exchangeInfo", {"symbols": "BTCUSDT"}, -1100),
        ("exchangeInfo", {"symbols": '["BTCUSDT","BTCUSDT"]'}, -1151),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbols": "[]"}, -1128),
    ],
)
async def test_rest_wrong_parameters_are_binance_errors(
    client: Client, path: str, query: dict[str, object], code: int
) -> None:
    status, body, headers = await client.answer(f"/api/v3/{path}", **query)
    assert status == 400
    assert body["code"] == code
    assert body["msg"]
    assert "X-MBX-USED-WEIGHT-1M" in headers


async def test_rest_weight_beyond_the_limit_is_429_until_the_next_minute(client: Client) -> None:
    client.exchange.misbehave(Misbehaviour(weight_limit=30))
    used = []
    for path, status in (("trades", 200), ("aggTrades", 200), ("ping", 200), ("aggTrades", 429)):
        query = {} if path == "ping" else {"symbol": "BTCUSDT", "limit": 1}
        got, body, headers = await client.answer(f"/api/v3/{path}", **query)
        assert got == status
        used.append(int(headers["X-MBX-USED-WEIGHT-1M"]))
    assert used == [25, 29, 30, 34]
    assert body["code"] == -1003
    wait = int(headers["Retry-After"])
    assert 1 <= wait <= 60
    client.now += wait * 1_000_000
    assert await client.get("ping") == {}


async def test_control_changes_only_the_fields_it_names(client: Client) -> None:
    assert (await client.post({"skip": 0.25, "seed": 3}))[0] == 200
    status, state = await client.post({"duplicate": 0.5})
    assert status == 200
    assert client.exchange.misbehaviour == Misbehaviour(skip=0.25, duplicate=0.5, seed=3)
    assert state["misbehaviour"]["skip"] == 0.25
    assert (await client.answer("/control"))[1] == state
    assert state["next_ids"]["BTCUSDT"] == client.tape.latest(1, NOW)[0].id + 1


@pytest.mark.parametrize(
    "body", ["{", "[]", {"skip": 2}, {"skip": "often"}, {"nonsense": 1}, {"drop": "yes"}, {"close": "long"}]
)
async def test_control_refuses_what_it_does_not_understand(client: Client, body: object) -> None:
    status, answer = await client.post(body)
    assert status == 400
    assert answer["msg"]
    assert client.exchange.misbehaviour == Misbehaviour()
    assert not client.exchange.record.counters


async def test_control_orders_are_carried_out(client: Client) -> None:
    async with client.session.ws_connect("/ws/btcusdt@trade") as socket:
        status, state = await client.post({"drop": True, "silence": 0.01})
        assert status == 200
        assert (await socket.receive(10)).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
    assert (state["counters"]["drop"], state["counters"]["silence"]) == (1, 1)
    await client.post({"close": 60})
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        await client.session.ws_connect("/ws")
