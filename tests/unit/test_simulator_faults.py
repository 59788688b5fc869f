import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from app.errors import OperatorError
from ingest.simulator.exchange import Address, Exchange
from ingest.simulator.market import Market
from ingest.simulator.misbehaviour import Misbehaviour
from ingest.simulator.replay import Replay

WAIT = 10.0


class Venue:
    """An exchange, a stream of its BTCUSDT trades with times in microseconds, and a client of its REST."""

    def __init__(self, exchange: Exchange, address: Address, client: ClientConnection, session: aiohttp.ClientSession):
        self.exchange = exchange
        self.address = address
        self.client = client
        self.session = session

    async def event(self) -> Any:
        return json.loads(await asyncio.wait_for(self.client.recv(), WAIT))

    async def ids(self, count: int) -> list[int]:
        return [(await self.event())["t"] for _ in range(count)]

    async def ids_to_a_jump(self, seen: list[int]) -> list[int]:
        """The ids seen and those after them, to the first that does not follow the one before it."""
        ids = seen + await self.ids(1)
        while ids[-1] - ids[-2] == 1:
            ids += await self.ids(1)
        return ids

    async def ids_to_a_pause(self, seconds: float = 0.3) -> list[int]:
        """Ids until none has come for so long."""
        ids = []
        with contextlib.suppress(TimeoutError):
            while True:
                ids.append(json.loads(await asyncio.wait_for(self.client.recv(), seconds))["t"])
        return ids

    async def status(self, path: str) -> int:
        async with self.session.get(path) as response:
            return response.status

    async def get(self, path: str, **headers: str) -> Any:
        async with self.session.get(path, headers=headers) as response:
            assert response.status == 200
            return await response.json()

    async def historical(self, from_id: int, limit: int) -> list[int]:
        path = f"/api/v3/historicalTrades?symbol=BTCUSDT&fromId={from_id}&limit={limit}"
        return [row["id"] for row in await self.get(path)]

    async def matches(self, after: int, limit: int) -> list[int]:
        rows = await self.get(f"/products/BTC-USDT/trades?after={after}&limit={limit}")
        return [row["trade_id"] for row in rows][::-1]

    async def order(self, **body: object) -> Any:
        async with self.session.post("/control", json=body) as response:
            return response.status, await response.json()


@contextlib.asynccontextmanager
async def venue(exchange: Exchange, path: str = "/ws/btcusdt@trade?timeUnit=MICROSECOND") -> AsyncIterator[Venue]:
    async with (
        exchange.serve() as address,
        connect(f"{address.ws}{path}", max_queue=None) as client,
        aiohttp.ClientSession(address.http) as session,
    ):
        yield Venue(exchange, address, client, session)


async def test_void_ids_are_neither_sent_nor_served_and_the_rest_is_the_market() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200, seed=4)
    first = exchange.next_id("BTCUSDT") + 60
    span = (first, first + 9)
    async with venue(exchange) as it:
        assert (await it.order(void={"BTCUSDT": [span]}))[0] == 200
        ids = await it.ids_to_a_jump(await it.ids(1))
        ids += await it.ids(20)
        assert ids == [one for one in range(ids[0], ids[-1] + 1) if not span[0] <= one <= span[1]]
        assert await it.historical(ids[0], len(ids)) == ids
        assert await it.matches(ids[-1] + 1, len(ids)) == ids
        truth = Market("BTCUSDT", 200, 4).trades(ids[0], len(ids) + 10)
        assert exchange.tape("BTCUSDT").trades(ids[0], len(ids)) == [trade for trade in truth if trade.id in set(ids)]
        await it.order(void={})
        assert await it.historical(span[0], 10) == list(range(span[0], span[1] + 1))


@pytest.mark.parametrize("void", [{"NOSUCH": [[1, 2]]}, {"BTCUSDT": [[2, 1]]}, {"BTCUSDT": [1, 2]}, [[1, 2]]])
async def test_void_that_cannot_be_is_refused(void: object) -> None:
    async with venue(Exchange(["BTCUSDT"])) as it:
        status, answer = await it.order(void=void, drop=True)
        assert status == 400
        assert answer["msg"]
        assert it.exchange.misbehaviour == Misbehaviour()
        assert not it.exchange.record.counters["drop"]


def test_void_of_an_unknown_symbol_is_an_operator_error() -> None:
    with pytest.raises(OperatorError, match="NOSUCH"):
        Exchange(["BTCUSDT"], misbehaviour=Misbehaviour(void={"NOSUCH": ((1, 2),)}))


async def test_rest_failure_is_a_503_for_the_same_requests_of_both_venues() -> None:
    seen = []
    for _ in range(2):
        async with venue(Exchange(["BTCUSDT"], misbehaviour=Misbehaviour(rest_failure=0.5))) as it:
            paths = ["/api/v3/ping", "/products/BTC-USDT"] * 7
            seen.append([await it.status(path) for path in paths])
            assert it.exchange.record.counters["rest_failure"] == seen[-1].count(503)
            assert {await it.status("/control") for _ in range(10)} == {200}
    assert seen[0] == seen[1]
    assert set(seen[0][::2]) == set(seen[0][1::2]) == {200, 503}


async def test_rest_failure_spares_the_websockets() -> None:
    async with venue(Exchange(["BTCUSDT"], rate=50, misbehaviour=Misbehaviour(rest_failure=1.0))) as it:
        assert await it.status("/api/v3/ping") == 503
        assert await it.ids(1)


async def test_rest_latency_delays_rest_and_nothing_else() -> None:
    async with venue(Exchange(["BTCUSDT"], rate=100, misbehaviour=Misbehaviour(rest_latency_seconds=0.5))) as it:
        slow = asyncio.create_task(it.status("/api/v3/ping"))
        await it.ids(20)
        await it.order(rest_latency_seconds=0)
        assert not slow.done()
        assert await it.status("/products") == 200
        assert not slow.done()
        assert await asyncio.wait_for(slow, WAIT) == 200


@pytest.mark.parametrize("path", ["/ws/btcusdt@trade", "/"])
async def test_reset_ends_connections_with_rst(path: str) -> None:
    async with Exchange(["BTCUSDT"]).serve() as address, aiohttp.ClientSession(address.http) as session:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
        async with session.post("/control", json={"reset": True}) as response:
            assert (await response.json())["counters"]["reset"] == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), WAIT)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_freeze_stalls_streams_rest_and_handshakes_and_then_sends_what_was_missed() -> None:
    async with venue(Exchange(["BTCUSDT"], rate=200)) as it:
        ids = await it.ids(5)
        await it.order(freeze=60)
        ids += await it.ids_to_a_pause()
        await it.client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": "late"}))
        asked = [
            asyncio.create_task(it.status("/api/v3/ping")),
            asyncio.create_task(it.status("/products")),
        ]
        dialled = asyncio.create_task(it.session.ws_connect("/"))
        before = it.exchange.next_id("BTCUSDT")
        while it.exchange.next_id("BTCUSDT") < before + 40:
            state = await it.get("/control")
            assert not any(task.done() for task in (*asked, dialled))
        assert state["counters"]["freeze"] == 1
        assert state["connections"] == 1
        await it.order(freeze=0)
        answered = False
        while not answered or ids[-1] < before + 40:
            event = await it.event()
            answered |= event.get("id") == "late"
            ids += [event["t"]] if "t" in event else []
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert await asyncio.wait_for(asyncio.gather(*asked), WAIT) == [200, 200]
        await (await asyncio.wait_for(dialled, WAIT)).close()


async def test_freeze_does_not_keep_the_exchange_from_ending() -> None:
    async with venue(Exchange(["BTCUSDT"], rate=200)) as it:
        await it.ids(1)
        it.exchange.freeze(3600)


async def test_clock_set_ahead_makes_a_hole_that_rest_can_fill() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200, seed=4)
    async with venue(exchange) as it:
        first = await it.ids(1)
        await it.order(clock=10)
        ids = await it.ids_to_a_jump(first)
        hole = range(ids[-2] + 1, ids[-1])
        assert 1900 < len(hole) < 2200
        assert await it.historical(hole[0], 1000) == list(hole[:1000])
        assert await it.matches(hole[-1] + 1, 1000) == list(hole[-1000:])


async def test_clock_set_back_pauses_the_feed_and_repeats_nothing() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200, seed=4)
    async with venue(exchange) as it:
        ids = await it.ids(20)
        told = (await it.get("/control"))["clock_us"]
        _, state = await it.order(clock=-3600)
        assert state["clock_us"] < told - 3500 * 1_000_000
        assert (await it.get("/api/v3/time"))["serverTime"] < told // 1000 - 3500_000
        ids += await it.ids_to_a_pause()
        assert await it.historical(ids[0], len(ids)) == ids
        assert exchange.next_id("BTCUSDT") == ids[-1] + 1
        async with connect(f"{it.address.ws}/ws/btcusdt@trade") as late:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(late.recv(), 0.1)
            await it.order(clock=3600)
            assert json.loads(await asyncio.wait_for(late.recv(), WAIT))["t"] > ids[-1]
        ids += await it.ids(20)
        assert len(set(ids)) == len(ids) == len([one for one in ids if one >= ids[0]])
        assert ids == sorted(ids)
        assert exchange.tape("BTCUSDT").trades(ids[0], 5) == Market("BTCUSDT", 200, 4).trades(ids[0], 5)


@pytest.mark.parametrize("body", [{"clock": 1e12}, {"freeze": "long"}, {"reset": 1}, {"rest_failure": 2}])
async def test_orders_that_cannot_be_are_refused(body: dict[str, object]) -> None:
    async with venue(Exchange(["BTCUSDT"])) as it:
        assert (await it.order(**body))[0] == 400
        assert not {"clock", "freeze", "reset"} & it.exchange.record.counters.keys()
        assert it.exchange.misbehaviour == Misbehaviour()


async def test_microseconds_over_websocket_and_rest_are_the_tapes(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2025-01-08.csv"
    start = 1_736_294_400_000_123
    path.write_text("".join(f"{n},39000.50,0.01000,390,{start + n * 1777},True,True\n" for n in range(1, 61)))
    exchange = Exchange(replays=[Replay(path, keep_times=True)])
    streams = "/stream?streams=btcusdt@trade/btcusdt@aggTrade&timeUnit=MICROSECOND"
    async with venue(exchange, streams) as it:
        events = [await it.event() for _ in range(120)]
        truth = {trade.id: trade.time_us for trade in exchange.tape("BTCUSDT").trades(0, 60)}
        assert len({time_us % 1000 for time_us in truth.values()}) > 10
        for kind, name in (("trade", "t"), ("aggTrade", "a")):
            data = [event["data"] for event in events if event["stream"] == f"btcusdt@{kind}"]
            assert {one[name]: one["T"] for one in data} == truth
            assert all(one["E"] >= one["T"] for one in data)
        unit = {"X-MBX-TIME-UNIT": "MICROSECOND"}
        for call, name, time in (("trades", "id", "time"), ("historicalTrades", "id", "time"), ("aggTrades", "a", "T")):
            rows = await it.get(f"/api/v3/{call}?symbol=BTCUSDT&limit=100", **unit)
            assert {row[name]: row[time] for row in rows} == truth
            rows = await it.get(f"/api/v3/{call}?symbol=BTCUSDT&limit=100")
            assert {row[name]: row[time] for row in rows} == {key: value // 1000 for key, value in truth.items()}
        rows = await it.get("/products/BTC-USDT/trades")
        assert {row["time"] for row in rows} == {f"2025-01-08T00:00:00.{us % 1_000_000:06d}Z" for us in truth.values()}


async def test_aggregates_of_a_range_take_times_in_either_unit() -> None:
    exchange = Exchange(["BTCUSDT"], rate=50)
    async with venue(exchange) as it:
        end_us = (await it.event())["T"] - 5_000_000
        start_us = end_us - 4_000_000
        path = "/api/v3/aggTrades?symbol=BTCUSDT&limit=1000"
        micro = await it.get(f"{path}&startTime={start_us}&endTime={end_us}")
        milli = await it.get(f"{path}&startTime={start_us // 1000}&endTime={end_us // 1000}")
    tape = exchange.tape("BTCUSDT")
    expected = [trade.id for trade in tape.trades(tape.id_at(start_us), 1000, end_us)]
    assert [row["a"] for row in micro] == [row["a"] for row in milli] == expected
    assert 150 < len(expected) < 250
