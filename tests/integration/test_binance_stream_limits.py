"""What Binance's streams refuse, and how they end: origins, limits, pings, age, slow readers, the database away."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from app.binance import session, sockets
from app.binance.session import MAX_FRAME_BYTES
from app.embedded import Server
from app.stream import subscriber
from tests.databases import Database
from tests.integration.binance_stream import CLOSE, PING, PONG, Wire, listening, refused
from tests.integration.rest import Rest
from tests.integration.stream_harness import Market, eventually, serving

POLICY_VIOLATION = 1008
RESTART = 1012


@pytest.fixture
def market(any_database: Database) -> Iterator[Market]:
    made = Market(any_database)
    yield made
    made.close()


async def test_page_of_another_origin_is_refused(any_database: Database) -> None:
    async with serving(any_database) as running:
        status, body, _ = await refused(running, "/ws", origin="https://elsewhere.example")
        assert (status, set(body)) == (403, {"code", "msg"})
        async with listening(running, "/ws", origin=running.url) as client:
            assert await client.ask("LIST_SUBSCRIPTIONS") == {"result": [], "id": 1}


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/stream?streams=btcusdt@trade&timeUnit=NANOSECOND", -1194, "time unit"),
        ("/ws/btcusdt@deep", -1130, "btcusdt@deep"),
        ("/ws/btcusdt@trade/btcusdt@ticker?resume=7", -1130, "streams of trades"),
        ("/ws/btcusdt@trade?events=everything", -1130, "everything"),
        ("/stream?streams=" + "/".join(f"t{number}@trade" for number in range(1_025)), -1130, "1024"),
    ],
)
async def test_url_that_cannot_be_served_is_refused_with_the_reason(
    any_database: Database, path: str, code: int, reason: str
) -> None:
    async with serving(any_database) as running:
        status, body, _ = await refused(running, path)
        assert (status, body["code"]) == (400, code)
        assert reason in body["msg"]


async def test_url_may_name_1024_streams(any_database: Database) -> None:
    names = [f"{number}@trade" for number in range(1_024)]
    async with serving(any_database) as running, listening(running, "/stream?streams=" + "/".join(names)) as client:
        assert (await client.ask("LIST_SUBSCRIPTIONS"))["result"] == names
        assert (await client.ask("SUBSCRIBE", "more@trade"))["code"] == 2


async def test_connections_of_an_address_beyond_the_limit_are_refused_by_every_process(any_database: Database) -> None:
    async with serving(any_database, connection_limit=3) as running, serving(any_database, connection_limit=3) as other:
        began = time.time()
        for server in (running, other, running):
            async with listening(server):
                pass
        status, body, headers = await refused(other, "/stream?streams=")
        if time.time() // 300 == began // 300:
            assert (status, body["code"]) == (429, -1034)
            assert 0 < int(headers["retry-after"]) <= 300
            async with running.client() as native:
                await native.ask(op="ping")
                await native.until_type("heartbeat")


async def test_client_beyond_the_servers_limit_is_told_to_try_later(any_database: Database) -> None:
    async with serving(any_database, max_clients=1) as running, listening(running) as first:
        status, body, _ = await refused(running, "/ws")
        assert (status, body["code"]) == (503, -1001)
        await first.ask("LIST_SUBSCRIPTIONS")


async def test_connections_stay_while_the_database_is_away_and_new_ones_are_told_to_try_later(
    any_database: Database, any_server: Server
) -> None:
    async with serving(any_database) as running, listening(running) as client:
        await asyncio.to_thread(any_server.stop)
        status, body, _ = await refused(running, "/ws")
        assert (status, body["code"]) == (503, -1001)
        assert (await client.ask("SUBSCRIBE", "one@trade"))["result"] is None
        await asyncio.to_thread(any_server.start)
        await eventually(running.stream.listener.live.is_set)
        async with listening(running) as again:
            await again.ask("LIST_SUBSCRIPTIONS")


@pytest.mark.parametrize("kind", ["text", "ping", "pong"])
async def test_more_than_five_messages_a_second_end_the_connection(any_database: Database, kind: str) -> None:
    async with serving(any_database) as running, listening(running, ping_interval=None) as client:
        for number in range(4):
            await client.ask("LIST_SUBSCRIPTIONS", id=number)
        with suppress(ConnectionClosed):
            for number in range(5):
                match kind:
                    case "text":
                        await client.socket.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
                    case "ping":
                        await client.socket.ping(str(number))
                    case _:
                        await client.socket.pong()
        assert await client.closed() == POLICY_VIOLATION
        assert client.socket.close_reason == "Too many requests"
        await eventually(lambda: not running.connections)


@pytest.mark.parametrize(
    "frame", [b'{"method":"LIST_SUBSCRIPTIONS"}', " " * (MAX_FRAME_BYTES + 1)], ids=["binary", "long"]
)
async def test_frame_that_is_no_text_of_moderate_size_ends_the_connection(
    any_database: Database, frame: str | bytes
) -> None:
    async with serving(any_database) as running, listening(running) as client:
        await client.socket.send(frame)
        assert await client.closed() == POLICY_VIOLATION


async def test_connection_is_pinged_with_the_time_and_dropped_where_nothing_is_answered(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "PING_SECONDS", 0.25)
    monkeypatch.setattr(sockets, "PONG_SECONDS", 0.75)
    async with serving(any_database) as running, Wire(running, "/ws/one@trade") as good, Wire(running, "/ws") as bad:
        answered, unanswered = 0, 0
        while (frame := await bad.frame()) and frame[0] == PING:
            unanswered += 1
            assert abs(int(frame[1]) - time.time() * 1_000) < 5_000
            bad.send(PONG, b"unsolicited")
            ping = await good.frame()
            assert ping is not None
            assert ping[0] == PING
            good.send(PONG, ping[1])
            answered += 1
        assert frame is None or (frame[0], frame[1][:2]) == (CLOSE, (1011).to_bytes(2))
        assert unanswered >= 3, "the first is answered by nothing for so long"
        await eventually(lambda: len(running.connections) == 1)
        for _ in range(answered):
            ping = await good.frame()
            assert ping is not None
            good.send(PONG, ping[1])
        assert len(running.stream.hub.subscribers) == 1


async def test_connection_that_grew_old_is_told_and_closed(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LIFE", 1.0)
    monkeypatch.setattr(session, "NOTICE_SECONDS", 0.6)
    async with (
        serving(any_database) as running,
        listening(running, "/ws") as raw,
        listening(running, "/stream?timeUnit=MICROSECOND") as combined,
    ):
        assert (await raw.until_event("serverShutdown"))["E"] < 10**13
        wrapped = await combined.until(lambda frame: True)
        assert wrapped["stream"] == "!serverShutdown"
        assert wrapped["data"]["E"] > 10**15
        assert await raw.ask("GET_PROPERTY", "combined") == {"result": False, "id": 1}, "there is time left"
        assert await raw.closed() == RESTART
        assert await combined.closed() == RESTART
        assert len(combined.frames) == 1


async def test_shutdown_sends_what_waits_then_a_notice_and_closes(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    market.trade(one, range(1, 201))
    async with serving(any_database) as running, listening(running, "/ws/one@trade?resume=0") as client:
        await client.until_event("trade", t=1)
        stopped = running.stop()
        assert await client.closed() == RESTART
        assert client.events[-1]["e"] == "serverShutdown"
        assert client.trade_ids == [*range(1, len(client.trade_ids) + 1)]
        await stopped


async def test_client_that_does_not_read_is_dropped_and_others_miss_nothing(
    any_database: Database, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "STALL_SECONDS", 0.5)
    one = market.add("ONE")
    async with serving(any_database) as running, listening(running, "/ws/one@trade") as client:
        async with Wire(running, "/ws/one@trade"):
            await eventually(lambda: [len(topic.subscribers) for topic in running.stream.hub.topics] == [2])
            last = 0
            while not running.stream.slow:
                await asyncio.to_thread(market.trade, one, range(last + 1, last + 501))
                last += 500
                await client.until_event("trade", t=last)
            await eventually(lambda: len(running.connections) == 1)
        assert client.trade_ids == [*range(1, last + 1)]


async def test_client_that_lags_is_closed_and_resumes_without_a_hole(any_database: Database, market: Market) -> None:
    one = market.add("ONE")
    async with serving(any_database, outbox_bytes=65_536) as running:
        async with listening(running, "/ws/one@trade", max_queue=1) as client:
            await eventually(lambda: running.stream.hub.topics and running.stream.hub.topics[0].audiences)
            first = 1
            while not running.stream.slow:
                await asyncio.to_thread(market.trade, one, range(first, first + 200))
                first += 200
            assert await client.closed() == POLICY_VIOLATION
            assert client.socket.close_reason == "the client reads too slowly"
            received = client.trade_ids
            assert received == [*range(1, len(received) + 1)]
            assert len(received) < first - 1
        async with listening(running, f"/ws/one@trade?resume={received[-1]}") as again:
            await again.until_event("trade", t=first - 1)
            assert again.trade_ids == [*range(received[-1] + 1, first)]


async def test_url_that_is_too_long_is_refused_at_once(any_database: Database) -> None:
    async with serving(any_database) as running:
        rest = Rest(int(running.url.rpartition(":")[2]))
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        for path in ("/stream?streams=" + "x" * 70_000, "/api/v1/stream?" + "x" * 70_000):
            answer = await rest.send(f"GET {path} HTTP/1.1\r\nHost: here\r\n{upgrade}{key}\r\n".encode())
            assert answer.status == 400


async def test_request_that_is_no_handshake_is_no_fault_of_the_server(any_database: Database) -> None:
    async with serving(any_database) as running:
        rest = Rest(int(running.url.rpartition(":")[2]))
        for path in ("/ws", "/ws/btcusdt@trade", "/stream"):
            assert (await rest.ask(path)).status == 405
