"""One client's subscription to one topic, and how it comes to life: the past first, then what is live."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, assert_never

from app.errors import DatabaseUnavailable
from app.market.model import Instrument, Trade
from app.market.store import Place
from app.stream.form import NATIVE, Form, Gap, TradesNews, written
from app.stream.history import StoredHistory
from app.stream.hub import Hub
from app.stream.keys import CandlesKey, Key, TradesKey
from app.stream.subscriber import Batch, Label, Outlet, Subscriber
from app.stream.topics import CHUNK_EVENTS, CandlesTopic, TickerTopic, TradesTopic

REPLAY_PAGE: Final = 1_000
RETRY_SECONDS: Final = 0.5
_T = TypeVar("_T")


class GivenUp(Exception):
    """The client ended a subscription that had not come to life yet."""


class Subscription:
    """Joins a topic once and leaves it once. While the database is away, joining waits for its return."""

    def __init__(
        self,
        hub: Hub,
        history: StoredHistory,
        subscriber: Subscriber,
        instrument: Instrument,
        key: Key,
        form: Form = NATIVE,
        label: Label = None,
    ) -> None:
        self.instrument = instrument
        self.key = key
        self.since: int | None = None
        """The last trade id that the client has; None asks for a snapshot."""
        self._hub = hub
        self._history = history
        self._subscriber = subscriber
        self._form = form
        self._label = label or key
        self._outlet = Outlet(subscriber, form, self._label)
        self._wanted = True

    def leave(self) -> None:
        """End the subscription; `join` raises GivenUp where it still goes on."""
        self._wanted = False
        if isinstance(self.key, TradesKey):
            self._subscriber.unfollow_trades(self._label)
        self._subscriber.forget_latest(self._label)
        self._hub.leave(self._outlet, self.key)

    async def join(self) -> None:
        """Send the past as the client takes it, then go live. Raises GivenUp after `leave`."""
        hub = self._hub
        await self._patiently(self._subscriber.room)
        topic = hub.topic(self.instrument, self.key)
        with hub.hold(topic, self._outlet):
            match topic:
                case TradesTopic():
                    await self._join_trades(topic)
                case CandlesTopic() | TickerTopic():
                    await self._patiently(partial(hub.ready, topic))
                    hub.flush_topic(topic)
                    self._push(self._first(topic))
                case _:
                    assert_never(topic)
            topic.admit(self._outlet)

    def _first(self, topic: CandlesTopic | TickerTopic) -> str | None:
        if isinstance(topic, TickerTopic):
            return self._form.first_ticker(self.instrument, topic.day, self._hub.clock())
        return self._form.first_candles(self.instrument, topic.key, topic.series.snapshot())

    def _push(self, text: str | None) -> None:
        if text is not None:
            self._subscriber.push(text, self._label)

    def _push_trades(self, news: list[tuple[int, TradesNews]]) -> None:
        """In pieces, so that a frame stays small."""
        events = [text for _, text in written(self._form, self.instrument, news)]
        for start in range(0, len(events), CHUNK_EVENTS):
            self._subscriber.push_all(Batch(events[start : start + CHUNK_EVENTS]), self._label)

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
        if self.since is not None and await self._is_above_all(topic, self.since):
            self._push(self._form.reset_trades(self.instrument))
            self.since = None
        reached = await (self._snapshot_trades(topic) if self.since is None else self._replay(topic, self.since))
        topic.flush()
        while (live := topic.since(reached)) is None:
            reached = await self._replay(topic, reached)
            topic.flush()
        self._push_trades(live)
        self._subscriber.follow_trades(self._label, live[-1][0] if live else reached)
        # What the replay found missing may have come before it was told.
        self._hub.doubt(self.instrument.id)

    async def _is_above_all(self, topic: TradesTopic, after_id: int) -> bool:
        if after_id <= topic.last_id:
            return False
        # The client may know more than the hub: REST reads the table, and another server's listener may be ahead.
        newest = await self._patiently(partial(self._history.newest_trades, self.instrument, 1))
        return after_id > max(topic.last_id, newest[-1].trade_id if newest else -1)

    async def _snapshot_trades(self, topic: TradesTopic) -> int:
        floor, wanted = topic.joined_at, self._form.snapshot_trades
        if not wanted:
            return floor
        trades = await self._patiently(partial(self._history.newest_trades, self.instrument, wanted))
        self._push(self._form.first_trades(self.instrument, trades))
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
            self._push_trades([self._missing(topic, reached + 1, floor)])
        return max(floor, reached)

    async def _push_page(self, topic: TradesTopic, page: list[Trade], reached: int) -> int:
        ascending = sorted(page, key=lambda trade: trade.trade_id)
        for start in range(0, len(ascending), CHUNK_EVENTS):
            await self._patiently(self._subscriber.room)
            news: list[tuple[int, TradesNews]] = []
            for trade in ascending[start : start + CHUNK_EVENTS]:
                news.extend(self._news(topic, trade, reached))
                reached = max(reached, trade.trade_id)
            self._push_trades(news)
        return reached

    def _news(self, topic: TradesTopic, trade: Trade, reached: int) -> list[tuple[int, TradesNews]]:
        trade_id = trade.trade_id
        if trade_id <= reached:
            # Its time lies after that of a higher id.
            return [(trade_id, Gap(trade_id, trade_id, "late"))]
        if self.instrument.contiguous_ids and trade_id > reached + 1 and reached >= 0:
            return [self._missing(topic, reached + 1, trade_id - 1), (trade_id, trade)]
        return [(trade_id, trade)]

    def _missing(self, topic: TradesTopic, from_id: int, to_id: int) -> tuple[int, TradesNews]:
        topic.missing.add(from_id, to_id)
        return to_id, Gap(from_id, to_id, "missing")

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


class Joiner:
    """Brings a client's subscriptions to life, one after another, in the order they were asked for.

    So a long replay holds up neither an answer nor its own end.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: dict[Subscription, None] = {}
        self._asked = asyncio.Event()

    def add(self, subscription: Subscription) -> None:
        self._waiting[subscription] = None
        self._asked.set()

    def drop(self, subscription: Subscription) -> None:
        """End a subscription, whether or not it has come to life."""
        self._waiting.pop(subscription, None)
        subscription.leave()

    async def run(self) -> None:
        """Until cancelled."""
        await self._hub.began.wait()
        while True:
            await self._asked.wait()
            while self._waiting:
                subscription = next(iter(self._waiting))
                del self._waiting[subscription]
                with suppress(GivenUp):
                    await subscription.join()
            self._asked.clear()
