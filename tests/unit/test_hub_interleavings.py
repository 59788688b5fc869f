"""The hub against a model: whatever interleaves, each client's trades rise, and none is missing without a gap event."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.market.registry import Registry
from app.stream import hub, subscription
from app.stream.hub import Hub
from app.stream.ranges import IdRange
from app.stream.session import Session
from app.stream.subscriber import Subscriber
from tests.unit.stream_table import Table, instrument, tick

SYMBOL = "TEST:T1"


class Peer:
    """A client, and what it may conclude from the events it gets."""

    def __init__(self, hub: Hub, table: Table, registry: Registry, limit: int) -> None:
        self.subscriber = Subscriber(limit)
        self.session = Session(hub, table, registry, self.subscriber)  # type: ignore[arg-type]
        self.session._count_message = lambda: None  # type: ignore[method-assign]
        self.joiner = asyncio.create_task(self.session.join_for_ever())
        self.subscribed = False
        self.reached: int | None = None
        self.gaps: list[tuple[int, int]] = []
        self.missing: set[int] = set()
        self.believed: set[int] = set()
        """Ids told to be missing, and not told of since."""
        self.asked: list[int | None] = []

    def subscribe(self, since: int | None) -> None:
        self.asked.append(since)
        request: dict[str, Any] = {
            "op": "subscribe",
            "id": len(self.asked) - 1,
            "channel": "trades",
            "symbols": [SYMBOL],
        }
        if since is not None:
            request["since"] = {SYMBOL: since}
        elif self.subscribed:
            return
        self.session.receive(json.dumps(request))
        self.subscribed = True

    def unsubscribe(self) -> None:
        self.session.receive(json.dumps({"op": "unsubscribe", "channel": "trades", "symbols": [SYMBOL]}))
        self.subscribed = False

    def read(self, table: Table, frames: int) -> None:
        while frames > 0 and (frame := self.subscriber.take()) is not None:
            frames -= 1
            for event in json.loads(frame):
                self._take(event, table)

    def _take(self, event: dict[str, Any], table: Table) -> None:
        match event["type"]:
            case "subscribed":
                # Whatever came before belongs to an earlier subscription.
                self.reached, self.gaps, self.missing, self.believed = self.asked[event["id"]], [], set(), set()
            case "snapshot":
                ids = [trade["trade_id"] for trade in event["trades"]]
                assert ids == sorted(set(ids))
                self.reached = max(ids, default=-1)
            case "reset":
                self.reached = None
            case "gap":
                assert event["from_id"] <= event["to_id"]
                self.gaps.append((event["from_id"], event["to_id"]))
                told = range(event["from_id"], event["to_id"] + 1)
                if event["reason"] == "missing":
                    self.believed.update(told)
                elif event["reason"] == "late":
                    self.believed.difference_update(told)
            case "trade":
                assert self.reached is not None, "a trade before the snapshot"
                assert event["trade_id"] > self.reached
                self._account(self.reached, event["trade_id"] - 1, table)
                self.reached = event["trade_id"]

    def _account(self, after: int, upto: int, table: Table) -> None:
        self.missing |= {t.trade_id for t in table.ticks if after < t.trade_id <= upto}

    def settle(self, table: Table, forgiven: set[int]) -> None:
        """All is quiet: whatever is in the table was delivered, or told of."""
        self.read(table, 1_000_000)
        if self.subscribed and not self.subscriber.ended.done():
            assert self.reached is not None
            self._account(self.reached, 2**63, table)
            untold = {i for i in self.missing if not any(first <= i <= last for first, last in self.gaps)}
            assert not untold - forgiven, "trades that never came, and no gap told of them"
            filled = {i for gap in table.filled for i in range(gap.from_id, gap.to_id + 1)}
            assert not self.believed & filled, "trades told to be missing, and not that they came"


class World:
    def __init__(self, contiguous: bool, limit: int, peers: int) -> None:
        self.table = Table()
        self.hub = Hub(self.table, flush_seconds=0.02)
        self.instrument = instrument(contiguous=contiguous)
        registry = Registry()
        registry.replace([self.instrument])
        self.hub.go_live()
        self.reading = asyncio.create_task(self.hub._read_for_ever())
        self.peers = [Peer(self.hub, self.table, registry, limit) for _ in range(peers)]
        self.notifications: list[list[Any]] = []
        self.next_id = 1
        self.forgiven: set[int] = set()

    def commit(self, count: int, jump: int) -> None:
        self.next_id += jump
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        self._store([tick(i, i / 1000) for i in ids])

    def commit_late(self, back: int) -> None:
        taken = {t.trade_id for t in self.table.ticks}
        trade_id = max(0, self.next_id - back)
        if trade_id not in taken and trade_id < self.next_id:
            self._store([tick(trade_id, trade_id / 1000)])

    def fill(self, which: int) -> None:
        """A hole is filled without a word of its ticks, and its gap closed."""
        stored = sorted(t.trade_id for t in self.table.ticks)
        holes = [IdRange(a + 1, b - 1) for a, b in pairwise(stored) if b > a + 1]
        if holes and self.instrument.contiguous_ids:
            gap = holes[which % len(holes)]
            self.table.commit(*(tick(i, i / 1000) for i in range(gap.from_id, gap.to_id + 1)))
            self.table.filled.append(gap)
            self.notifications.append([])

    async def flow(self, times: int, count: int) -> None:
        """Ticks come, are told of and handed out, while whoever joins goes on reading."""
        for _ in range(times):
            self.commit(count, 0)
            self.notify(1)
            self.hub.flush()
            await asyncio.sleep(0)

    def _store(self, ticks: list[Any]) -> None:
        self.table.commit(*ticks)
        self.notifications.append(ticks)

    def notify(self, count: int) -> None:
        for ticks in self.notifications[:count]:
            if ticks:
                self.hub.publish(ticks)
            else:
                self.hub.doubt(self.instrument.id)
        del self.notifications[:count]

    def lose(self) -> None:
        """The listener's connection is lost with what was under way, and comes back: it reads the table.

        What it cannot find there is a late trade: candles are reset for its sake, and trades do without.
        """
        self.hub.lose_feed()
        highest = self.hub.last_id(self.instrument.id)
        for ticks in filter(None, self.notifications):
            self.forgiven |= {t.trade_id for t in ticks if t.trade_id < highest}
            highest = max(highest, *(t.trade_id for t in ticks))
        self.notifications.clear()
        last = self.hub.last_id(self.instrument.id)
        missed = sorted((t for t in self.table.ticks if t.trade_id > last), key=lambda t: t.trade_id)
        if missed and self.hub.watches(self.instrument.id):
            self.hub.publish(missed)
        elif missed:
            self.hub.last[self.instrument.id] = (missed[-1].trade_id, missed[-1].time_us)
        self.hub.go_live()

    async def act(self, action: tuple[Any, ...]) -> None:  # noqa: C901  # a list, one line each
        match action:
            case ("commit", count, jump):
                self.commit(count, jump)
            case ("flow", times, count):
                await self.flow(times, count)
            case ("burst", count):
                self.commit(count, 0)
                self.notify(100)
                self.hub.flush()
            case ("late", back):
                self.commit_late(back)
            case ("fill", which):
                self.fill(which)
            case ("notify", count):
                self.notify(count)
            case ("flush",):
                self.hub.flush()
            case ("lose",):
                self.lose()
            case ("subscribe", peer, back):
                since = None if back is None else max(0, self.next_id - back)
                self.peers[peer % len(self.peers)].subscribe(since)
            case ("unsubscribe", peer):
                self.peers[peer % len(self.peers)].unsubscribe()
            case ("read", peer, frames):
                self.peers[peer % len(self.peers)].read(self.table, frames)
            case ("turns", count):
                for _ in range(count):
                    await asyncio.sleep(0)

    async def settle(self) -> None:
        quiet = 0
        while quiet < 50:
            self.notify(100)
            self.hub.flush()
            for peer in self.peers:
                peer.read(self.table, 100)
            await asyncio.sleep(0)
            waiting = any(peer.session._joiner._waiting for peer in self.peers)
            joining = waiting or any(topic.joining for topic in self.hub.topics)
            quiet = 0 if joining or self.hub._work.is_set() else quiet + 1
        for peer in self.peers:
            peer.settle(self.table, self.forgiven)
            peer.session.leave()
            peer.joiner.cancel()
        self.reading.cancel()
        await asyncio.gather(self.reading, *(peer.joiner for peer in self.peers), return_exceptions=True)
        assert not self.hub.topics


PEER = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 12), st.sampled_from([0, 0, 1, 5])),
    st.tuples(st.just("burst"), st.integers(20, 60)),
    st.tuples(st.just("flow"), st.integers(1, 10), st.integers(1, 6)),
    st.tuples(st.just("late"), st.integers(1, 12)),
    st.tuples(st.just("fill"), st.integers(0, 3)),
    st.tuples(st.just("notify"), st.integers(1, 4)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("lose")),
    st.tuples(st.just("subscribe"), PEER, st.one_of(st.none(), st.integers(-3, 60))),
    st.tuples(st.just("unsubscribe"), PEER),
    st.tuples(st.just("read"), PEER, st.integers(1, 3)),
    st.tuples(st.just("turns"), st.integers(1, 9)),
    st.tuples(st.just("turns"), st.integers(1, 3)),
)


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "jumping"])
@pytest.mark.parametrize("limit", [1 << 20, 4_096], ids=["roomy", "tight"])
@given(
    actions=st.one_of(st.lists(ACTIONS, max_size=60), st.lists(ACTIONS, min_size=30, max_size=60)),
    pause=st.integers(0, 5),
)
@settings(max_examples=200, deadline=None)
def test_trades_of_any_interleaving_rise_and_none_is_missing_untold(
    contiguous: bool, limit: int, actions: list[tuple[Any, ...]], pause: int
) -> None:
    async def run() -> None:
        world = World(contiguous, limit, peers=3)
        world.table.pause = pause
        for action in actions:
            await world.act(action)
        await world.settle()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "READ_PAUSE", 0)
        # Small, so that pages and an overflow of the ring happen.
        patch.setattr(subscription, "REPLAY_PAGE", 7)
        patch.setattr("app.stream.topics.RING", 10)
        patch.setattr("app.stream.topics.CHUNK_EVENTS", 5)
        patch.setattr(subscription, "CHUNK_EVENTS", 5)
        asyncio.run(run())
