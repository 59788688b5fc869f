import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from ingest.simulator.binance.frames import GARBAGE
from ingest.simulator.exchange import Address, Exchange
from ingest.simulator.misbehaviour import Misbehaviour
from ingest.simulator.replay import Replay
from ingest.simulator.session import Limits

WAIT = 10.0


async def receive(client: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(client.recv(), WAIT))


async def receive_trades(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    return [await receive(client) for _ in range(count)]


async def ask(client: ClientConnection, frame: object) -> Any:
    """Send a control frame and return its answer, passing over market data."""
    await client.send(frame if isinstance(frame, str) else json.dumps(frame))
    while True:
        answer = await receive(client)
        if "id" in answer:
            return answer


async def until_closed(client: ClientConnection) -> list[Any]:
    """All frames until the connection ends."""
    seen = []
    try:
        while True:
            seen.append(await receive(client))
    except websockets.ConnectionClosed:
        return seen


async def test_exchange_trade_frames_have_binances_fields_and_the_true_trades() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        got = await receive_trades(client, 50)
    for frame, trade in zip(got, exchange.tape("BTCUSDT").trades(got[0]["t"], 50), strict=True):
        assert list(frame) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
        assert frame["T"] <= frame["E"]
        assert frame == {
            "e": "trade",
            "E": frame["E"],
            "s": "BTCUSDT",
            "t": trade.id,
            "p": trade.price,
            "q": trade.size,
            "T": trade.time_us // 1000,
            "m": trade.buyer_is_maker,
            "M": True,
        }


async def test_exchange_trade_is_sent_when_it_happens() -> None:
    exchange = Exchange(["BTCUSDT"], rate=100)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        lags = [-(await receive(client))["T"] + time.time() * 1000 for _ in range(100)]
    assert min(lags) >= 0
    assert sorted(lags)[50] < 100


async def test_exchange_combined_streams_wrap_and_aggregates_equal_trades() -> None:
    exchange = Exchange(["ETHUSDT", "BTCUSDT"], rate=100)
    url = "stream?streams=ethusdt@aggTrade/btcusdt@trade"
    async with exchange.serve() as address, connect(f"{address.ws}/{url}") as client:
        got = await receive_trades(client, 60)
    assert {frame["stream"] for frame in got} == {"ethusdt@aggTrade", "btcusdt@trade"}
    data = next(frame["data"] for frame in got if frame["stream"] == "ethusdt@aggTrade")
    trade = exchange.tape("ETHUSDT").trade(data["a"])
    assert list(data) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
    assert (data["e"], data["s"], data["f"], data["l"]) == ("aggTrade", "ETHUSDT", trade.id, trade.id)
    assert (data["p"], data["q"], data["T"], data["m"]) == (
        trade.price,
        trade.size,
        trade.time_us // 1000,
        trade.buyer_is_maker,
    )


async def test_exchange_kline_is_the_closed_second_of_its_trades() -> None:
    exchange = Exchange(["BTCUSDT"], rate=40)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@kline_1s") as client:
        frame = await receive(client)
    candle = frame["k"]
    assert list(frame) == ["e", "E", "s", "k"]
    assert list(candle) == ["t", "T", "s", "i", "f", "L", "o", "c", "h", "l", "v", "n", "x", "q", "V", "Q", "B"]
    tape = exchange.tape("BTCUSDT")
    trades = tape.trades(candle["f"], candle["n"])
    prices = [Decimal(trade.price) for trade in trades]
    assert tape.trade(candle["f"] - 1).time_us < candle["t"] * 1000 <= trades[0].time_us
    assert trades[-1].time_us < (candle["T"] + 1) * 1000 <= tape.trade(candle["L"] + 1).time_us
    assert (candle["T"] - candle["t"], candle["i"], candle["x"], candle["L"]) == (999, "1s", True, trades[-1].id)
    assert (candle["o"], candle["c"]) == (trades[0].price, trades[-1].price)
    assert (Decimal(candle["h"]), Decimal(candle["l"])) == (max(prices), min(prices))
    assert Decimal(candle["v"]) == sum(Decimal(trade.size) for trade in trades)
    assert Decimal(candle["q"]) == sum(Decimal(trade.size) * Decimal(trade.price) for trade in trades)
    assert Decimal(candle["V"]) == sum(Decimal(trade.size) for trade in trades if not trade.buyer_is_maker)


async def test_exchange_kline_of_a_second_without_trades_is_flat() -> None:
    exchange = Exchange(["BTCUSDT"], rate=0.0001)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@kline_1s") as client:
        candle = (await receive(client))["k"]
    last = exchange.tape("BTCUSDT").latest(1, candle["t"] * 1000)[0].price
    assert [candle[name] for name in "ochl"] == [last] * 4
    assert (candle["n"], candle["f"], candle["L"], candle["v"]) == (0, -1, -1, "0.00000000")


async def test_exchange_mini_ticker_has_the_last_price_and_its_range() -> None:
    exchange = Exchange(["BTCUSDT"], rate=20)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@miniTicker") as client:
        frame = await receive(client)
    assert list(frame) == ["e", "E", "s", "c", "o", "h", "l", "v", "q"]
    last = exchange.tape("BTCUSDT").latest(200, frame["E"] * 1000 + 999)
    assert frame["c"] in [trade.price for trade in last]
    low, high = Decimal(frame["l"]), Decimal(frame["h"])
    assert low <= Decimal(frame["c"]) <= high
    assert low <= Decimal(frame["o"]) <= high
    assert Decimal(frame["v"]) * low <= Decimal(frame["q"]) + Decimal(1)
    assert Decimal(frame["q"]) <= Decimal(frame["v"]) * high + Decimal(1)


async def test_exchange_subscriptions_are_answered_like_binance() -> None:
    exchange = Exchange(["BTCUSDT", "ETHUSDT"], rate=50)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/0") as client:
        assert await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": "x"}) == {"result": [], "id": "x"}
        streams = ["btcusdt@trade", "ethusdt@trade", "nosuch@trade"]
        assert await ask(client, {"method": "SUBSCRIBE", "params": streams, "id": 1}) == {"result": None, "id": 1}
        assert (await receive(client))["e"] == "trade"
        assert await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 2}) == {"result": streams, "id": 2}
        assert await ask(client, {"method": "UNSUBSCRIBE", "params": streams[:1], "id": 3}) == {"result": None, "id": 3}
        assert {frame["s"] for frame in await receive_trades(client, 20)} == {"ETHUSDT"}


async def test_exchange_combined_property_changes_the_wrapping() -> None:
    exchange = Exchange(["BTCUSDT"], rate=50)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        assert await ask(client, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 1}) == {
            "result": None,
            "id": 1,
        }
        assert (await receive(client))["stream"] == "btcusdt@trade"
        assert (await ask(client, {"method": "GET_PROPERTY", "params": ["combined"], "id": 2}))["result"] is True


@pytest.mark.parametrize(
    ("frame", "code", "request_id"),
    [
        ("{", 3, None),
        ("[1]", 2, None),
        ({"method": "DANCE", "id": 5}, 2, 5),
        ({"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 6}, 2, 6),
        ({"method": "SUBSCRIBE", "params": [1], "id": 7}, 2, 7),
        ({"method": "SUBSCRIBE", "id": 8}, 2, 8),
        ({"method": "SUBSCRIBE", "params": [f"a{n}@trade" for n in range(1025)], "id": 9}, 2, 9),
        ({"method": "LIST_SUBSCRIPTIONS", "id": "x" * 37}, 2, None),
        ({"method": "LIST_SUBSCRIPTIONS", "id": 1.5}, 2, None),
        ({"method": "SET_PROPERTY", "params": ["nothing", 1], "id": 10}, 0, 10),
    ],
)
async def test_exchange_bad_control_frame_is_answered_with_an_error(
    frame: object, code: int, request_id: int | None
) -> None:
    async with Exchange(["BTCUSDT"]).serve() as address, connect(f"{address.ws}/ws") as client:
        answer = await ask(client, frame)
        assert list(answer) == ["error", "code", "msg", "id"]
        assert (answer["code"], answer["id"]) == (code, request_id)
        assert answer["msg"]
        assert (await ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 1}))["result"] == []


async def test_exchange_unknown_time_unit_is_refused_before_the_connection_opens() -> None:
    async with Exchange(["BTCUSDT"]).serve() as address:
        with pytest.raises(websockets.InvalidStatus, match="400") as refused:
            await connect(f"{address.ws}/stream?timeUnit=SECOND")
    assert json.loads(refused.value.response.body)["code"] == -1194


async def test_exchange_sixth_message_within_a_second_is_disconnected() -> None:
    async with Exchange(["BTCUSDT"]).serve() as address, connect(f"{address.ws}/ws") as client:
        for number in range(6):
            await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        await until_closed(client)
        assert client.close_code == 1008


async def test_exchange_pings_and_cuts_off_who_does_not_pong() -> None:
    exchange = Exchange(["BTCUSDT"], limits=Limits(ping_seconds=0.05, pong_seconds=0.2, messages_per_second=1000))
    async with exchange.serve() as address, connect(f"{address.ws}/ws") as polite:
        opcodes = []
        async with raw_client(address, "/ws") as reader:
            while header := await asyncio.wait_for(reader.read(2), WAIT):
                opcodes.append(header[0])
                await reader.readexactly(header[1])
        assert opcodes
        assert set(opcodes) == {0x89}
        assert exchange.record.counters["pong_timeout"] == 1
        assert "result" in await ask(polite, {"method": "LIST_SUBSCRIPTIONS", "id": 1})


@contextlib.asynccontextmanager
async def raw_client(address: Address, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A websocket connection with little room whose frames nobody reads or answers."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (address.host, address.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    try:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
        yield reader
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_exchange_client_that_does_not_read_is_cut_off_and_blocks_nobody() -> None:
    exchange = Exchange(["BTCUSDT"], rate=12_000, limits=Limits(buffer_bytes=1_000_000))
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade", max_queue=None) as client:
        ids = []
        async with raw_client(address, "/ws/btcusdt@trade"):
            while not exchange.record.counters["slow_client"]:
                ids.append((await receive(client))["t"])
        ids += [frame["t"] for frame in await receive_trades(client, 1000)]
    assert exchange.record.counters["slow_client"] == 1
    assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_exchange_at_a_high_rate_keeps_up_with_its_clock() -> None:
    exchange = Exchange(["BTCUSDT"], rate=20_000)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade", max_queue=None) as client:
        first = (await receive(client))["t"]
        ids = [frame["t"] for frame in await receive_trades(client, 10_000)]
        behind = exchange.next_id("BTCUSDT") - ids[-1]
    assert ids == list(range(first + 1, first + 10_001))
    assert behind < 20_000


async def test_exchange_after_a_long_pause_of_the_clock_jumps_to_now() -> None:
    pause = 0
    exchange = Exchange(["BTCUSDT"], rate=200, clock=lambda: time.time_ns() // 1000 + pause)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        ids = [frame["t"] for frame in await receive_trades(client, 5)]
        pause = 3600 * 1_000_000
        while ids[-1] - ids[-2] == 1:
            ids.append((await receive(client))["t"])
    assert ids[-1] - ids[-2] > 3500 * 200


async def test_exchange_short_pause_of_the_clock_is_caught_up() -> None:
    pause = 0
    exchange = Exchange(["BTCUSDT"], rate=200, clock=lambda: time.time_ns() // 1000 + pause)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade", max_queue=None) as client:
        first = (await receive(client))["t"]
        pause = 30 * 1_000_000
        ids = [frame["t"] for frame in await receive_trades(client, 5900)]
    assert ids == list(range(first + 1, first + 5901))


async def test_exchange_restarted_goes_on_with_the_same_trades() -> None:
    got = []
    for _ in range(2):
        exchange = Exchange(["BTCUSDT"], rate=100, seed=9)
        async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
            got += await receive_trades(client, 5)
    first, last = got[0]["t"], got[-1]["t"]
    truth = {trade.id: trade.price for trade in exchange.tape("BTCUSDT").trades(first, last - first + 1)}
    assert [frame["p"] for frame in got] == [truth[frame["t"]] for frame in got]
    assert [frame["t"] for frame in got] == sorted({frame["t"] for frame in got})


async def test_exchange_replay_plays_the_whole_file_to_its_first_subscriber(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades-2021-01-08.csv"
    rows = [(1000 + n, f"{39_000 + n}.25000000", f"0.0{n:03}0000", 1_610_064_000_000 + n * 10) for n in range(300)]
    path.write_text("".join(f"{i},{p},{q},1,{t},{'True' if i % 3 else 'False'},True\n" for i, p, q, t in rows))
    exchange = Exchange(replays=[Replay(path, speed=10, keep_times=True)])
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        got = await receive_trades(client, 300)
    assert [(frame["t"], frame["p"], frame["q"], frame["T"]) for frame in got] == rows
    assert [frame["m"] for frame in got] == [bool(row[0] % 3) for row in rows]


async def test_exchange_skipping_leaves_the_true_trades_readable() -> None:
    exchange = Exchange(["BTCUSDT"], rate=500, misbehaviour=Misbehaviour(skip=0.3))
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        got = [frame["t"] for frame in await receive_trades(client, 100)]
    missing = set(range(got[0], got[-1])) - set(got)
    assert missing
    assert missing <= exchange.record.ids("skip", "BTCUSDT")
    assert [exchange.tape("BTCUSDT").trade(trade_id).id for trade_id in missing] == list(missing)


async def test_exchange_garbage_arrives_among_true_trades() -> None:
    exchange = Exchange(["BTCUSDT"], rate=500, misbehaviour=Misbehaviour(garbage=0.5))
    known = {frame.replace(b"%s", b"BTCUSDT").decode() for frame in GARBAGE}
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        got = [await asyncio.wait_for(client.recv(), WAIT) for _ in range(200)]
    garbage = [frame for frame in got if frame in known]
    ids = [json.loads(frame)["t"] for frame in got if frame not in known]
    assert len(garbage) > 20
    assert ids == list(range(ids[0], ids[0] + len(ids)))


async def test_exchange_drop_cuts_connections_without_a_close_frame() -> None:
    exchange = Exchange(["BTCUSDT"], rate=100)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        await receive(client)
        exchange.drop_connections()
        await until_closed(client)
        assert client.close_code == 1006
        async with connect(f"{address.ws}/ws/btcusdt@trade") as again:
            assert (await receive(again))["e"] == "trade"


async def test_exchange_silence_keeps_the_connection_and_loses_its_trades() -> None:
    exchange = Exchange(["BTCUSDT"], rate=200)
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        ids = [frame["t"] for frame in await receive_trades(client, 2)]
        exchange.go_silent(0.5)
        started = time.monotonic()
        while ids[-1] - ids[-2] == 1:
            ids.append((await receive(client))["t"])
        assert time.monotonic() - started >= 0.4
    lost = ids[-1] - ids[-2] - 1
    assert lost == exchange.record.counters["silenced"]
    assert 50 < lost < 200


async def test_exchange_close_notifies_closes_and_refuses_for_a_while() -> None:
    exchange = Exchange(["BTCUSDT"], rate=100, misbehaviour=Misbehaviour(notice_seconds=0.2))
    async with exchange.serve() as address:
        raw, combined = connect(f"{address.ws}/ws/btcusdt@trade"), connect(f"{address.ws}/stream?streams=btcusdt@trade")
        async with raw as one, combined as other:
            closing = asyncio.create_task(exchange.close_for(0.6))
            for client in (one, other):
                seen = await until_closed(client)
                notices = [n for n, frame in enumerate(seen) if frame.get("data", frame)["e"] == "serverShutdown"]
                assert len(seen) > notices[0] + 1
                if client is other:
                    assert seen[notices[0]]["stream"] == "!serverShutdown"
                assert list(seen[notices[0]].get("data", seen[notices[0]])) == ["e", "E"]
                assert client.close_code == 1001
            await closing
        with pytest.raises(websockets.InvalidStatus, match="503"):
            await connect(f"{address.ws}/ws/btcusdt@trade")
        for _ in itertools.count():
            try:
                async with connect(f"{address.ws}/ws/btcusdt@trade") as again:
                    assert (await receive(again))["e"] == "trade"
                    return
            except websockets.InvalidStatus:
                continue


async def test_exchange_connection_life_ends_with_a_notice() -> None:
    exchange = Exchange(["BTCUSDT"], rate=50, misbehaviour=Misbehaviour(max_connection_seconds=0.4, notice_seconds=0.2))
    async with exchange.serve() as address, connect(f"{address.ws}/ws/btcusdt@trade") as client:
        started = time.monotonic()
        seen = await until_closed(client)
        assert 0.3 < time.monotonic() - started < 3
        assert client.close_code == 1001
    assert sum(frame["e"] == "serverShutdown" for frame in seen) == 1
