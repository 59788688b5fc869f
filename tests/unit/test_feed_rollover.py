"""Planned changes of connections: no tick is lost, repeated or out of order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from app.market.model import InstrumentId
from ingest.feed import Feed, Timing
from ingest.sources.binance import binance
from tests.unit.feed_venue import Peer, Sink, Venue, open_venue

TIMING = Timing(connect=2.0, overlap=2.0, healthy=0.0, close=0.3)
SHUTDOWN = '{"stream":"","data":{"e":"serverShutdown","E":1770123456789}}'


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    async with open_venue() as venue:
        yield venue


class Exchange:
    """Trades without pause on every connection of a venue while a feed reads them."""

    def __init__(self, venue: Venue, timing: Timing = TIMING, **limits: Any) -> None:
        self.venue = venue
        self.sink = Sink()
        self.feed = Feed(
            replace(binance("trade", venue.url), **limits),
            {"BTCUSDT": InstrumentId(1), "ETHUSDT": InstrumentId(2)},
            self.sink.push,
            self.sink.room,
            timing=timing,
        )
        self.traded = 0

    async def __aenter__(self) -> "Exchange":
        self.task = asyncio.create_task(self.feed.run())
        self.first = await self.venue.arrival()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def trade_until(self, condition: Callable[[], bool]) -> None:
        """Trades, and a hundred trades more; then waits for the last one to arrive."""
        more = 100
        async with asyncio.timeout(10):
            while more:
                more -= condition()
                self.traded += 1
                await self.venue.trade(self.traded)
                await self.venue.trade(self.traded, "ETHUSDT")
                await asyncio.sleep(0.0005)
        for peer in self.venue.peers:
            peer.lag = 0
            for frame in peer.delayed:
                await peer.send(frame)
            peer.delayed.clear()
        for instrument in (1, 2):
            await self.sink.until(lambda ids: bool(ids) and max(ids) == self.traded, instrument)

    def assert_exact(self) -> None:
        assert self.sink.ids(1) == list(range(1, self.traded + 1))
        assert self.sink.ids(2) == list(range(1, self.traded + 1))


@pytest.mark.parametrize("lags", [(0, 0), (0, 40), (40, 0)], ids=["level", "new one slower", "new one faster"])
async def test_aged_connections_are_replaced_without_a_loss(venue: Venue, lags: tuple[int, int]) -> None:
    venue.prepare = lambda peer, number: setattr(peer, "lag", lags[number % 2])
    async with Exchange(venue, max_age=0.3) as exchange:
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers >= 3)
        exchange.assert_exact()
        assert exchange.feed.counters.reconnects == 0
        assert exchange.first.closed.result() == 1000
        assert exchange.feed.counters.connected


async def test_announced_shutdown_opens_the_next_connection_before_the_old_one_is_closed(venue: Venue) -> None:
    async with Exchange(venue) as exchange:
        overlapped: list[bool] = []
        venue.prepare = lambda peer, number: overlapped.append(not exchange.first.closed.done())
        await exchange.trade_until(lambda: exchange.traded >= 20)
        await exchange.first.send(SHUTDOWN)
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers == 1)
        exchange.assert_exact()
        assert overlapped == [True]
        assert await asyncio.wait_for(exchange.first.closed, 5) == 1000


async def test_old_connection_is_kept_while_the_subscription_is_slow(venue: Venue) -> None:
    async with Exchange(venue) as exchange:
        venue.subscribing.clear()
        await exchange.first.send(SHUTDOWN)
        await exchange.trade_until(lambda: len(venue.peers) == 2 and exchange.traded >= 200)
        assert not exchange.first.closed.done()
        assert exchange.feed.counters.rollovers == 0
        exchange.assert_exact()
        venue.subscribing.set()
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers == 1)
        exchange.assert_exact()


async def test_quiet_instrument_does_not_keep_the_old_connection_beyond_the_overlap(venue: Venue) -> None:
    async with Exchange(venue, timing=replace(TIMING, overlap=0.05)) as exchange:
        await exchange.first.send(SHUTDOWN)
        assert await asyncio.wait_for(exchange.first.closed, 5) == 1000
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers == 1)
        exchange.assert_exact()


async def test_old_connection_serves_on_when_the_next_one_dies_young(venue: Venue) -> None:
    def abort_second(peer: Peer, number: int) -> None:
        if number == 1:
            peer.lag = 10**6
            asyncio.get_running_loop().call_later(0.1, peer.abort)

    venue.prepare = abort_second
    async with Exchange(venue) as exchange:
        await exchange.first.send(SHUTDOWN)
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers == 1)
        assert len(venue.peers) == 3
        exchange.assert_exact()


async def test_old_connection_dying_in_the_overlap_releases_what_the_new_one_holds(venue: Venue) -> None:
    async with Exchange(venue) as exchange:
        exchange.first.lag = 10**6
        await exchange.first.send(SHUTDOWN)
        second = await venue.arrival()
        await second.trade(7)
        await second.trade(8)
        exchange.first.abort()
        await exchange.sink.until(lambda ids: ids == [7, 8])


async def test_refused_next_connection_leaves_the_old_one_serving(venue: Venue) -> None:
    async with Exchange(venue) as exchange:
        venue.answers = [503, 503]
        await exchange.first.send(SHUTDOWN)
        await exchange.trade_until(lambda: exchange.feed.counters.rollovers == 1)
        assert venue.answers == []
        exchange.assert_exact()


async def test_old_connection_ending_while_the_next_is_dialled_is_let_go(venue: Venue) -> None:
    async with Exchange(venue) as exchange:
        venue.answers = [503] * 4
        await exchange.first.send(SHUTDOWN)
        exchange.first.abort()
        second = await venue.arrival()
        await second.trade(1)
        await exchange.sink.until(lambda ids: ids == [1])
        second.abort()
        third = await venue.arrival()
        await third.trade(2)
        await exchange.sink.until(lambda ids: ids == [1, 2])
        assert [len(line._connections) for line in exchange.feed._lines] == [1]
