"""One client's subscription to one topic, and how it comes to life: the past first, then what is live."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar, assert_never

from app.errors import DatabaseUnavailable
from app.market.model import Instrument, Trade
from app.market.store import Place
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.protocol import SNAPSHOT_TRADES, GapEvent, ResetEvent, Snapshot, encode
from app.stream.subscriber import Subscriber
from app.stream.topics import (
    CHUNK_EVENTS,
    CandlesKey,
    CandlesTopic,
    Key,
    TickerTopic,
    TradesKey,
    TradesTopic,
    trade_event,
)

REPLAY_PAGE: Final = 1_000
RETRY_SECONDS: Final = 0.5
_T = TypeVar("_T")


class GivenUp(Exception):
    """The client ended a subscription that had not come to life yet."""


class Subscription:
    """Joins a topic once and leaves it once. While the database is away, joining waits for its return."""

    def __init__(
        self, hub: Hub, history: StoredHistory, subscriber: Subscriber, instrument: Instrument, key: Key
    ) -> None:
        self.instrument = instrument
        self.key = key
        self.since: int | None = None
        """The last trade id that the client has; None asks for a snapshot."""
        self._hub = hub
        self._history = history
        self._subscriber = subscriber
        self._wanted = True

    def leave(self) -> None:
        """End the subscription; `join` raises GivenUp where it still goes on."""
        self._wanted = False
        if isinstance(self.key, TradesKey):
            self._subscriber.unfollow_trades(self.instrument.symbol)
        self._subscriber.forget_latest(self.key)
        self._hub.leave(self._subscriber, self.key)

    async def join(self) -> None:
        """Send the past as the client takes it, then go live. Raises GivenUp after `leave`."""
        hub, subscriber = self._hub, self._subscriber
        await self._patiently(subscriber.room)
        topic = hub.topic(self.instrument, self.key)
        with hub.hold(topic, subscriber):
            match topic:
                case TradesTopic():
                    await self._join_trades(topic)
                case CandlesTopic() | TickerTopic():
                    await self._patiently(partial(hub.ready, topic))
                    hub.flush_topic(topic)
                    subscriber.push(encode(_snapshot(topic, hub.clock())))
                case _:
                    assert_never(topic)
            topic.subscribers.add(subscriber)

    def describe(self) -> dict[str, Any]:
        """What `list` tells of it."""
        match self.key:
            case TradesKey():
                return {"channel": "trades", "symbol": self.instrument.symbol}
            case CandlesKey(_, interval, zone):
                symbol = self.instrument.symbol
                return {"channel": "candles", "symbol": symbol, "interval": interval, "timezone": zone}
            case _:
                return {"channel": "ticker", "symbol": self.instrument.symbol}

    async def _join_trades(self, topic: TradesTopic) -> None:
        """Send the past out of the table until the topic's ring reaches back to it: no hole, no repeat."""
        subscriber, symbol = self._subscriber, self.instrument.symbol
        if self.since is not None and await self._is_above_all(topic, self.since):
            subscriber.push(encode(ResetEvent("trades", symbol)))
            self.since = None
        reached = await (self._snapshot_trades(topic) if self.since is None else self._replay(topic, self.since))
        topic.flush()
        while (live := topic.since(reached)) is None:
            reached = await self._replay(topic, reached)
            topic.flush()
        for start in range(0, len(live), CHUNK_EVENTS):
            subscriber.push(",".join([text for _, text in live[start : start + CHUNK_EVENTS]]))
        subscriber.follow_trades(symbol, live[-1][0] if live else reached)
        # What the replay found missing may have come before it was told.
        self._hub.doubt(self.instrument.id)

    async def _is_above_all(self, topic: TradesTopic, after_id: int) -> bool:
        if after_id <= topic.last_id:
            return False
        # The client may know more than the hub: REST reads the table, and another server's listener may be ahead.
        newest = await self._patiently(partial(self._history.newest_trades, self.instrument, 1))
        return after_id > max(topic.last_id, newest[-1].trade_id if newest else -1)

    async def _snapshot_trades(self, topic: TradesTopic) -> int:
        floor = topic.joined_at
        trades = await self._patiently(partial(self._history.newest_trades, self.instrument, SNAPSHOT_TRADES))
        self._subscriber.push(encode(Snapshot("trades", self.instrument.symbol, trades=trades)))
        return max(floor, trades[-1].trade_id if trades else -1)

    async def _replay(self, topic: TradesTopic, after_id: int) -> int:
        """Send what the table holds above an id, page by page as the client takes it; answers the last id reached."""
        # Trades up to `floor` were stored before the reading that follows: what it does not find of them is not there.
        floor, reached = topic.joined_at, after_id
        place = await self._patiently(partial(self._history.place_after_id, self.instrument, after_id))
        while place is not None:
            floor = topic.joined_at
            read = partial(self._history.trades_after, self.instrument, place, after_id, REPLAY_PAGE)
            page = await self._patiently(read)
            reached = await self._push_page(topic, page, reached)
            if len(page) < REPLAY_PAGE:
                break
            place = Place(page[-1].time, page[-1].trade_id)
        if floor > reached >= 0 and self.instrument.contiguous_ids:
            self._subscriber.push(self._missing(topic, reached + 1, floor))
        return max(floor, reached)

    async def _push_page(self, topic: TradesTopic, page: list[Trade], reached: int) -> int:
        ascending = sorted(page, key=lambda trade: trade.trade_id)
        for start in range(0, len(ascending), CHUNK_EVENTS):
            await self._patiently(self._subscriber.room)
            events: list[str] = []
            for trade in ascending[start : start + CHUNK_EVENTS]:
                events.extend(self._events(topic, trade, reached))
                reached = max(reached, trade.trade_id)
            self._subscriber.push(",".join(events))
        return reached

    def _events(self, topic: TradesTopic, trade: Trade, reached: int) -> list[str]:
        trade_id = trade.trade_id
        if trade_id <= reached:
            # Its time lies after that of a higher id.
            return [encode(GapEvent(self.instrument.symbol, trade_id, trade_id, "late"))]
        event = encode(trade_event(self.instrument.symbol, trade))
        if self.instrument.contiguous_ids and trade_id > reached + 1 and reached >= 0:
            return [self._missing(topic, reached + 1, trade_id - 1), event]
        return [event]

    def _missing(self, topic: TradesTopic, from_id: int, to_id: int) -> str:
        topic.missing.add(from_id, to_id)
        return encode(GapEvent(self.instrument.symbol, from_id, to_id, "missing"))

    async def _patiently(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Take a step of the joining, again and again while the database is away."""
        while True:
            try:
                taken = await step()
            except DatabaseUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not self._wanted:
                    raise GivenUp
                return taken
            if not self._wanted:
                raise GivenUp


def _snapshot(topic: CandlesTopic | TickerTopic, now: datetime) -> Snapshot:
    symbol = topic.instrument.symbol
    if isinstance(topic, TickerTopic):
        return Snapshot("ticker", symbol, ticker=topic.day.ticker(now))
    return Snapshot("candles", symbol, topic.key.interval, topic.key.zone, candles=topic.series.snapshot())
