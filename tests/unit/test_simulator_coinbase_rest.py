from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from app.market.model import to_micros
from ingest.simulator.exchange import Exchange
from ingest.simulator.market import EPOCH_US, Market
from ingest.simulator.tape import Trade

NOW = EPOCH_US + 500 * 86_400_000_000 + 12_345_678


class Client:
    """REST calls to an exchange whose clock stands still at `now`, but for a fifth of a second a page."""

    def __init__(self) -> None:
        self.now = NOW
        self.exchange = Exchange(["BTCUSDT", "XRPUSDC"], rate=5, seed=3, clock=lambda: self.now)
        self.market = Market("BTCUSDT", 5, 3)
        self.session: aiohttp.ClientSession

    async def answer(self, path: str, **query: object) -> tuple[int, Any, dict[str, str]]:
        params = {name: str(value) for name, value in query.items()}
        async with self.session.get(path, params=params) as response:
            return response.status, await response.json(), dict(response.headers)

    async def trades(self, **query: object) -> tuple[list[Trade], dict[str, str]]:
        self.now += 200_000
        status, body, headers = await self.answer("/products/BTC-USDT/trades", **query)
        assert status == 200, body
        return [told(row) for row in body], headers


def told(row: dict[str, Any]) -> Trade:
    assert list(row) == ["trade_id", "side", "size", "price", "time"]
    time_us = to_micros(datetime.fromisoformat(row["time"]))
    return Trade(row["trade_id"], time_us, row["price"], row["size"], row["side"] == "buy")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    async with client.exchange.serve() as address, aiohttp.ClientSession(address.http) as client.session:
        yield client


async def test_products_lists_what_is_traded(client: Client) -> None:
    status, products, _ = await client.answer("/products")
    assert status == 200
    assert [product["id"] for product in products] == ["BTC-USDT", "XRP-USDC"]
    status, product, _ = await client.answer("/products/XRP-USDC")
    assert (status, product) == (200, products[1])
    assert (product["base_currency"], product["quote_currency"], product["status"]) == ("XRP", "USDC", "online")
    assert (Decimal(product["quote_increment"]), product["base_increment"]) == (Decimal("0.0001"), "0.1")


async def test_product_trades_are_the_newest_first_with_their_cursors(client: Client) -> None:
    rows, headers = await client.trades(limit=3)
    assert rows == client.market.latest(3, client.now)[::-1]
    assert rows[0].time_us <= client.now < client.market.trade(rows[0].id + 1).time_us
    assert (headers["CB-BEFORE"], headers["CB-AFTER"]) == (str(rows[0].id), str(rows[2].id))
    assert len((await client.trades())[0]) == 1000
    assert len((await client.trades(limit=5000))[0]) == 1000


async def test_product_trades_paged_by_after_are_the_market_back_to_its_first(client: Client) -> None:
    rows, after = [], 2501
    while page := (await client.trades(after=after, limit=1000))[0]:
        rows += page
        after = page[-1].id
    assert rows[::-1] == client.market.trades(1, 2500)


async def test_product_trades_paged_by_before_are_the_market_up_to_now(client: Client) -> None:
    last = client.market.latest(1, client.now)[0].id
    before, rows = last - 2500, []
    while True:
        page, headers = await client.trades(before=before, limit=1000)
        if not page:
            break
        rows += page[::-1]
        before = int(headers["CB-BEFORE"])
    assert rows == client.market.trades(last - 2499, len(rows))
    assert rows[-1] == client.market.latest(1, client.now)[0]
    assert "CB-BEFORE" not in headers


async def test_product_trades_between_two_cursors_are_those_between(client: Client) -> None:
    rows, _ = await client.trades(before=100, after=105)
    assert [row.id for row in rows] == [104, 103, 102, 101]
    assert (await client.trades(before=104, after=105))[0] == []
    beyond, _ = await client.trades(after=10**15, limit=1)
    assert beyond == client.market.latest(1, client.now)


@pytest.mark.parametrize("path", ["/products/BTCUSDT", "/products/NO-SUCH/trades", "/products/btc-usdt"])
async def test_product_that_is_unknown_is_not_found(client: Client, path: str) -> None:
    assert (await client.answer(path))[:2] == (404, {"message": "NotFound"})


@pytest.mark.parametrize("query", [{"limit": "ten"}, {"before": -1}, {"after": "1.5"}, {"after": "9" * 30}])
async def test_product_trades_of_a_wrong_parameter_are_refused(client: Client, query: dict[str, object]) -> None:
    status, body, _ = await client.answer("/products/BTC-USDT/trades", **query)
    assert status == 400
    assert "not valid" in body["message"]


async def test_sixteenth_request_at_once_is_429_and_ten_a_second_are_not(client: Client) -> None:
    answers = [(await client.answer("/products"))[0] for _ in range(16)]
    assert answers == [200] * 15 + [429]
    assert (await client.answer("/products"))[1] == {"message": "Public rate limit exceeded"}
    client.now += 1_000_000
    assert [(await client.answer("/products"))[0] for _ in range(11)] == [200] * 10 + [429]
    client.now += 60_000_000
    assert [(await client.answer("/products"))[0] for _ in range(16)] == [200] * 15 + [429]
