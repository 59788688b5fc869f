from tests.databases import Database
from tests.integration.stream_harness import Market, serving


async def test_smoke(any_database: Database) -> None:
    market = Market(any_database)
    one = market.add("ONE")
    market.trade(one, range(1, 101))
    async with serving(any_database) as running, running.client() as client:
        await client.subscribe("trades", "TEST:ONE", id=1)
        await client.subscribe("candles", "ONE", id=2, interval="1m")
        await client.subscribe("ticker", "*", id=3)
        await client.until(lambda e: e["type"] == "snapshot" and e["channel"] == "ticker")
        market.trade(one, range(101, 151))
        await client.until_trade(150)
        assert client.trade_ids == list(range(51, 151))
        for e in client.events[:4]:
            print(str(e)[:300])
        await client.until_type("ticker")
    market.close()
