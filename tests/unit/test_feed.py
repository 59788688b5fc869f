"""The feed against a venue that misbehaves on command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import OperatorError
from app.market.model import InstrumentId
from ingest.backoff import Backoff
from ingest.connection import GarbageLog
from ingest.feed import Feed, Timing
from ingest.sources.binance import binance
from tests.unit.feed_venue import Peer, Sink, Venue, open_venue, trade_frame

ONE = InstrumentId(1)
TIMING = Timing(connect=2.0, overlap=2.0, healthy=0.0, close=0.3, burst=10.0)


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    async with open_venue() as venue:
        yield venue


class Running:
    def __init__(self, feed: Feed, sink: Sink) -> None:
        self.feed = feed
        self.sink = sink
        self.task = asyncio.create_task(feed.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@asynccontextmanager
async def running(
    venue: Venue,
    tickers: tuple[str, ...] = ("BTCUSDT",),
    timing: Timing = TIMING,
    **limits: Any,
) -> AsyncIterator[Running]:
    sink = Sink()
    source = replace(binance("trade", venue.url), **limits)
    instruments = {ticker: InstrumentId(number) for number, ticker in enumerate(tickers, 1)}
    run = Running(Feed(source, instruments, sink.push, sink.room, timing=timing), sink)
    try:
        yield run
    finally:
        await run.stop()
        assert run.task.cancelled() or run.task.exception()


async def test_feed_subscribes_on_the_combined_socket_and_pushes_ticks_in_order(venue: Venue) -> None:
    async with running(venue, ("BTCUSDT", "ETHUSDT")) as run:
        peer = await venue.arrival()
        assert peer.request.path == "/stream"
        request = await peer.requests.get()
        assert request == {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "ethusdt@trade"], "id": 1}
        for trade_id in range(100):
            await venue.trade(trade_id)
        await run.sink.until(lambda ids: len(ids) == 100)
        assert run.sink.ids() == list(range(100))
        counters = run.feed.counters
        assert (counters.frames, counters.ticks, counters.ignored, counters.garbage) == (101, 100, 1, 0)
        assert counters.connected
        assert monotonic() - counters.last_frame < 5


async def test_server_ping_is_answered_with_its_payload(venue: Venue) -> None:
    async with running(venue):
        peer = await venue.arrival()
        await peer.socket.ping(b"1672515782136")
        assert await asyncio.wait_for(peer.pongs.get(), 5) == b"1672515782136"


@pytest.mark.parametrize("way", ["abort", "close"])
async def test_lost_connection_is_dialled_again_and_goes_on(venue: Venue, way: str) -> None:
    with capture_logs() as logs:
        async with running(venue) as run:
            first = await venue.arrival()
            await first.trade(1)
            await run.sink.until(lambda ids: ids == [1])
            if way == "abort":
                first.abort()
            else:
                await first.socket.close(code=1001)
            second = await venue.arrival()
            await second.trade(2)
            await run.sink.until(lambda ids: ids == [1, 2])
            assert (run.feed.counters.reconnects, run.feed.counters.rollovers) == (1, 0)
    assert [log["code"] for log in logs if log["event"] == "disconnected"] == [1006 if way == "abort" else 1001]
    assert sum(log["event"] == "connected" for log in logs) == 2


async def test_refused_connection_is_retried_until_the_server_returns(venue: Venue) -> None:
    await venue.shut()
    delays = asyncio.Queue[float]()

    class Watched(Backoff):
        def next(self) -> float:
            delays.put_nowait(delay := super().next())
            return delay

    sink = Sink()
    source = binance("trade", venue.url)
    feed = Feed(source, {"BTCUSDT": ONE}, sink.push, sink.room, backoff=lambda: Watched(first=0.01, ceiling=0.05))
    task = asyncio.create_task(feed.run())
    for _ in range(3):
        await asyncio.wait_for(delays.get(), 5)
    assert not feed.counters.connected
    await venue.open()
    await (await venue.arrival()).trade(1)
    await sink.until(lambda ids: ids == [1])
    task.cancel()
    await asyncio.wait([task])


async def test_unhealthy_connections_let_the_backoff_grow(venue: Venue) -> None:
    bounds: list[float] = []

    class Watched(Backoff):
        def next(self) -> float:
            bounds.append(self._bound)
            super().next()
            return 0.0

    def abort_first_four(peer: Peer, number: int) -> None:
        if number < 4:
            asyncio.get_running_loop().call_later(0.02, peer.abort)

    venue.prepare = abort_first_four
    sink = Sink()
    timing = replace(TIMING, healthy=60.0)
    source = binance("trade", venue.url)
    feed = Feed(source, {"BTCUSDT": ONE}, sink.push, sink.room, timing=timing, backoff=Watched)
    task = asyncio.create_task(feed.run())
    while len(venue.peers) < 5:
        await venue.arrival()
    assert bounds == [0.1, 0.2, 0.4, 0.8]
    task.cancel()
    await asyncio.wait([task])


async def test_busy_server_is_retried_and_a_wrong_address_is_the_operators(venue: Venue) -> None:
    venue.answers = [503, 429, 404]
    venue.headers = {"Retry-After": "0"}
    async with running(venue) as run:
        async with asyncio.timeout(5):
            await asyncio.wait([run.task])
        assert isinstance(run.task.exception(), OperatorError)
        assert str(run.task.exception()) == (
            f"{binance('trade', venue.url).url} answered HTTP 404 instead of opening a websocket; check the address"
        )


async def test_silence_opens_a_new_connection_and_drops_the_silent_one(venue: Venue) -> None:
    with capture_logs() as logs:
        async with running(venue, timing=replace(TIMING, overlap=0.05), silence=0.1) as run:
            first = await venue.arrival()
            second = await venue.arrival()
            await second.trade(1)
            await run.sink.until(lambda ids: ids == [1])
            assert await asyncio.wait_for(first.closed, 5) == 1000
            await venue.arrival()
    assert {"went silent", "connected"} <= {log["event"] for log in logs}
    assert run.feed.counters.reconnects >= 1
    assert run.feed.counters.rollovers == 0


async def test_garbage_burst_is_counted_logged_once_and_not_fatal(venue: Venue) -> None:
    with capture_logs() as logs:
        async with running(venue) as run:
            peer = await venue.arrival()
            for number in range(50):
                await peer.send("{]" if number % 2 else trade_frame(number).replace("1.5", "NaN"))
                await peer.trade(number)
            await peer.send_raw(b"\xff\xfe\x00not text")
            await peer.trade(99)
            await run.sink.until(lambda ids: ids == [*range(50), 99])
            assert run.feed.counters.garbage == 51
            assert run.feed.counters.reconnects == 0
    events = [log["event"] for log in logs if log["event"].startswith("garbage")]
    assert events == ["garbage received", "garbage ended"]
    assert [log["frames"] for log in logs if log["event"] == "garbage ended"] == [51]


async def test_garbage_burst_ends_after_a_pause() -> None:
    ended = asyncio.Event()

    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def warning(self, event: str, **values: Any) -> None:
            lines.append((event, values))
            if event == "garbage ended":
                ended.set()

    garbage = GarbageLog(Log(), 0.02)  # type: ignore[arg-type]
    for _ in range(3):
        garbage.add("no JSON", b"\xff" * 1000)
    await asyncio.wait_for(ended.wait(), 5)
    ended.clear()
    garbage.add("no JSON", "again")
    garbage.end()
    assert [event for event, _ in lines] == ["garbage received", "garbage ended"] * 2
    assert lines[1][1] == {"frames": 3}
    assert lines[3][1] == {"frames": 1}
    assert len(lines[0][1]["frame"]) <= 200


async def test_refused_request_is_logged_and_not_fatal(venue: Venue) -> None:
    with capture_logs() as logs:
        async with running(venue) as run:
            peer = await venue.arrival()
            await peer.send('{"error":{"code":2,"msg":"Invalid request: unknown stream"},"id":1}')
            await peer.trade(1)
            await run.sink.until(lambda ids: ids == [1])
    refusals = [log for log in logs if log["event"] == "request refused"]
    assert [(log["reason"], log["request"]) for log in refusals] == [("Invalid request: unknown stream (code 2)", 1)]


async def test_ticks_of_foreign_symbols_are_ignored(venue: Venue) -> None:
    async with running(venue) as run:
        peer = await venue.arrival()
        await peer.send(trade_frame(1, "DOGEUSDT"))
        await peer.trade(2)
        await run.sink.until(lambda ids: ids == [2])
        assert run.feed.counters.ignored == 2, "the answer to SUBSCRIBE and the foreign trade"


async def test_full_buffer_stops_reading_until_there_is_room(venue: Venue) -> None:
    async with running(venue, silence=0.05) as run:
        run.sink.full = True
        peer = await venue.arrival()
        for trade_id in range(10):
            await peer.trade(trade_id)
        await asyncio.wait_for(run.sink.waiting.wait(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(venue.arrivals.get(), 0.3)
        assert run.sink.ids() == [0], "waiting for room is not silence, and nothing is read meanwhile"
        run.sink.full = False
        run.sink.released.set()
        await run.sink.until(lambda ids: ids == list(range(10)))


@pytest.mark.parametrize("deaf", [False, True], ids=["polite server", "server that never answers"])
async def test_cancelling_closes_within_a_second(venue: Venue, deaf: bool) -> None:
    venue.prepare = lambda peer, number: setattr(peer, "deaf", deaf)
    async with running(venue, ("BTCUSDT", "ETHUSDT"), tickers_per_connection=1) as run:
        peers = [await venue.arrival(), await venue.arrival()]
        started = monotonic()
        await run.stop()
        assert monotonic() - started < 1
        assert run.task.cancelled()
        assert not run.feed.counters.connected
        if not deaf:
            assert [await asyncio.wait_for(peer.closed, 5) for peer in peers] == [1000, 1000]


async def test_cancelling_while_dialling_closes_at_once(venue: Venue) -> None:
    await venue.shut()
    async with running(venue) as run:
        await asyncio.sleep(0)
        await run.stop()
        assert run.task.cancelled()


async def test_more_tickers_than_a_connection_takes_are_spread(venue: Venue) -> None:
    tickers = tuple(f"T{number}USDT" for number in range(5))
    async with running(venue, tickers, tickers_per_connection=2) as run:
        peers = [await venue.arrival() for _ in range(3)]
        assert sorted(len(peer.streams) for peer in peers) == [1, 2, 2]
        for number, ticker in enumerate(tickers, 1):
            await venue.trade(number, ticker)
            await run.sink.until(lambda ids, number=number: ids == [number], number)


async def test_requests_are_batched_and_paced(venue: Venue) -> None:
    async with running(venue, ("AUSDT", "BUSDT", "CUSDT"), tickers_per_request=1, requests_per_second=2):
        started = monotonic()
        peer = await venue.arrival()
        async with asyncio.timeout(5):
            requests = [await peer.requests.get() for _ in range(3)]
        assert [request["id"] for request in requests] == [1, 2, 3]
        assert monotonic() - started > 0.9


async def test_track_and_untrack_change_the_live_subscription(venue: Venue) -> None:
    async with running(venue) as run:
        peer = await venue.arrival()
        await peer.requests.get()
        await run.feed.track({"ETHUSDT": InstrumentId(2)})
        assert (await peer.requests.get())["params"] == ["ethusdt@trade"]
        await peer.trade(1, "ETHUSDT")
        await run.sink.until(lambda ids: ids == [1], 2)
        await run.feed.untrack({"BTCUSDT"})
        request = await peer.requests.get()
        assert (request["method"], request["params"]) == ("UNSUBSCRIBE", ["btcusdt@trade"])
        await peer.send(trade_frame(5, "BTCUSDT"))
        await peer.trade(2, "ETHUSDT")
        await run.sink.until(lambda ids: ids == [1, 2], 2)
        assert run.sink.ids(1) == []
        assert len(venue.peers) == 1


async def test_tracked_ticker_is_subscribed_again_after_a_reconnect(venue: Venue) -> None:
    async with running(venue) as run:
        first = await venue.arrival()
        await run.feed.track({"ETHUSDT": InstrumentId(2)})
        first.abort()
        second = await venue.arrival()
        assert second.streams == {"btcusdt@trade", "ethusdt@trade"}


async def test_track_opens_a_connection_and_untrack_of_the_last_closes_it(venue: Venue) -> None:
    async with running(venue, ()) as run:
        await run.feed.track({"BTCUSDT": ONE})
        peer = await venue.arrival()
        assert run.feed.counters.connected
        await run.feed.untrack({"BTCUSDT"})
        assert await asyncio.wait_for(peer.closed, 5) == 1000
        assert not run.feed.counters.connected


async def test_failing_push_ends_the_feed(venue: Venue) -> None:
    def push(_: object) -> bool:
        raise LookupError("a fault of ours")

    feed = Feed(binance("trade", venue.url), {"BTCUSDT": ONE}, push, Sink().room, timing=TIMING)
    task = asyncio.create_task(feed.run())
    peer: Peer = await venue.arrival()
    await peer.trade(1)
    with pytest.raises(LookupError):
        await asyncio.wait_for(task, 5)
