"""The hub: ticks in, events out to every subscriber, once encoded. No I/O of its own but the readings of its `history`.

Ticks come in order of commits, each instrument's by rising id; what is not above the last id is late, and is answered by
reading the candles it touched anew. Everything here runs on one event loop; nothing waits inside `publish` or `flush`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo

import msgspec
import structlog

from app.errors import DatabaseUnavailable
from app.market.intervals import bucket_of, next_bucket
from app.market.model import Candle, Instrument, InstrumentId, Tick, Trade
from app.stream.subscriber import Subscriber
from app.stream.protocol import ResetEvent, encode
from app.stream.topics import CandlesKey, CandlesTopic, Key, TickerKey, TickerTopic, TradesKey, TradesTopic

MAX_CORRECTIONS: Final = 100
"""Corrected candles sent one by one; a wider change sends `reset`, and the client fetches the range."""
CLOCK_SECONDS: Final = 0.05
_log = structlog.get_logger()


class History(Protocol):
    """What the hub reads of the past."""

    async def newest_candles(self, topic: CandlesTopic) -> list[Candle]:
        """The last two candles, ascending."""

    async def candles_between(self, topic: CandlesTopic, start: datetime, end: datetime, limit: int) -> list[Candle]:
        """The oldest candles of a range, ascending."""

    async def day(self, instrument: Instrument) -> tuple[list[Candle], Trade | None]:
        """The minute candles of the last 24 hours, ascending, and the last trade."""


class HubCounters(msgspec.Struct):
    ticks: int = 0
    late: int = 0
    corrections: int = 0
    flushes: int = 0


class Hub:
    """Owns the topics. A topic lives from its first subscriber to its last."""

    def __init__(
        self, history: History, *, flush_seconds: float, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.counters = HubCounters()
        self.subscribers: set[Subscriber] = set()
        self.last: dict[InstrumentId, tuple[int, int]] = {}
        """The highest trade id of each instrument, and its time in microseconds: where the listener resumes."""
        self._history = history
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._topics: dict[InstrumentId, dict[Key, TradesTopic | CandlesTopic | TickerTopic]] = defaultdict(dict)
        self._corrections: dict[CandlesTopic, tuple[datetime, datetime]] = {}
        self._work = asyncio.Event()

    # Topics

    def trades(self, instrument: Instrument) -> TradesTopic:
        """The trades of an instrument; from now on its ring keeps them."""
        key = TradesKey(instrument.id)
        topic = self._topics[instrument.id].get(key)
        if not isinstance(topic, TradesTopic):
            topic = TradesTopic(key, instrument, self.last.get(instrument.id, (-1, 0))[0])
            self._topics[instrument.id][key] = topic
        return topic

    def candles(self, instrument: Instrument, key: CandlesKey) -> CandlesTopic:
        """The candles of an instrument; live once `ready`."""
        topic = self._topics[instrument.id].get(key)
        if not isinstance(topic, CandlesTopic):
            zone: tzinfo = UTC if key.zone == "UTC" else ZoneInfo(key.zone)
            topic = CandlesTopic(key, instrument, zone)
            self._topics[instrument.id][key] = topic
        return topic

    def ticker(self, instrument: Instrument) -> TickerTopic:
        """The ticker of an instrument; live once `ready`."""
        key = TickerKey(instrument.id)
        topic = self._topics[instrument.id].get(key)
        if not isinstance(topic, TickerTopic):
            topic = TickerTopic(key, instrument)
            self._topics[instrument.id][key] = topic
        return topic

    async def ready(self, topic: CandlesTopic | TickerTopic) -> None:
        """Read the topic's state where it has not been read yet; DatabaseUnavailable passes through."""
        async with topic.reading:
            if topic.waiting is not None:
                await self._read(topic)

    def leave(self, subscriber: Subscriber, key: Key) -> None:
        """Take a subscriber off a topic, and the topic away with its last one."""
        topics = self._topics.get(key.instrument_id, {})
        topic = topics.get(key)
        if topic is None:
            return
        topic.subscribers.discard(subscriber)
        if not topic.subscribers and not (isinstance(topic, TradesTopic) and topic.joining):
            del topics[key]
            if isinstance(topic, CandlesTopic):
                self._corrections.pop(topic, None)

    @property
    def watched(self) -> list[InstrumentId]:
        """Instruments that somebody listens to."""
        return [instrument_id for instrument_id, topics in self._topics.items() if topics]

    # Ticks

    def publish(self, ticks: Sequence[Tick], *, repeated: bool = False) -> None:
        """Take ticks in the order of commits. `repeated`: those not above the last id are known already, not late."""
        self.counters.ticks += len(ticks)
        by_instrument: dict[InstrumentId, list[Tick]] = {}
        for tick in ticks:
            by_instrument.setdefault(tick.instrument_id, []).append(tick)
        for instrument_id, own in by_instrument.items():
            last_id = self.last.get(instrument_id, (-1, 0))[0]
            fresh = own if own[0].trade_id > last_id else [tick for tick in own if tick.trade_id > last_id]
            if fresh:
                newest = fresh[-1]
                self.last[instrument_id] = (newest.trade_id, newest.time_us)
            topics = self._topics.get(instrument_id)
            if not topics:
                continue
            if fresh:
                self._give(topics.values(), fresh)
            if len(fresh) < len(own) and not repeated:
                late = [tick for tick in own if tick.trade_id <= last_id]
                self.counters.late += len(late)
                self.touch(instrument_id, min(t.time for t in late), max(t.time for t in late))

    def _give(self, topics: Iterable[TradesTopic | CandlesTopic | TickerTopic], ticks: list[Tick]) -> None:
        for topic in topics:
            if topic.waiting is not None:
                topic.waiting.extend(ticks)
            elif isinstance(topic, CandlesTopic):
                for time in topic.add(ticks, self._clock()):
                    self._touch_candles(topic, time, time)
            else:
                topic.add(ticks)

    def touch(self, instrument_id: InstrumentId, start: datetime, end: datetime) -> None:
        """Ticks between these times, inclusive, were stored late: have what they touched read anew."""
        for topic in self._topics.get(instrument_id, {}).values():
            if isinstance(topic, CandlesTopic):
                self._touch_candles(topic, start, end)
            elif isinstance(topic, TickerTopic):
                topic.needs_reading = True
        self._work.set()

    def _touch_candles(self, topic: CandlesTopic, start: datetime, end: datetime) -> None:
        interval, zone = topic.key.interval, topic.series.zone
        first, after = bucket_of(start, interval, zone), next_bucket(bucket_of(end, interval, zone), interval, zone)
        open_bucket = topic.current_bucket(self._clock())
        if after > open_bucket:
            topic.needs_reading = True
        if first < open_bucket:
            after = min(after, open_bucket)
            known = self._corrections.get(topic)
            self._corrections[topic] = (min(first, known[0]), max(after, known[1])) if known else (first, after)
        self._work.set()

    def reread(self) -> None:
        """Have every candle and ticker read anew: after the listener was away."""
        for topics in self._topics.values():
            for topic in topics.values():
                if not isinstance(topic, TradesTopic):
                    topic.needs_reading = True
        self._work.set()

    # The two loops

    async def run(self) -> None:
        """Flush, close candles by the clock and read what was touched, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush_for_ever(), name="hub flush")
            tasks.create_task(self._read_for_ever(), name="hub readings")

    async def _flush_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        clock_due = 0.0
        while True:
            await asyncio.sleep(self._flush_seconds)
            if loop.time() >= clock_due:
                clock_due = loop.time() + CLOCK_SECONDS
                self.turn_clock()
            self.flush()

    def turn_clock(self) -> None:
        """Close the candles whose time is over, and move the tickers' windows."""
        now = self._clock()
        for topics in self._topics.values():
            for topic in topics.values():
                if isinstance(topic, CandlesTopic):
                    topic.close_due(now)
                elif isinstance(topic, TickerTopic):
                    topic.turn(now)

    def flush(self) -> None:
        """Hand out everything that is new since the last flush."""
        self.counters.flushes += 1
        now = self._clock()
        for topics in self._topics.values():
            for topic in topics.values():
                if isinstance(topic, TickerTopic):
                    topic.flush(now)
                else:
                    topic.flush()

    async def _read_for_ever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._settle()
            except DatabaseUnavailable as error:
                _log.warning("hub reading failed", reason=str(error))
                await asyncio.sleep(1)
                self._work.set()

    async def _settle(self) -> None:
        while self._corrections:
            topic, (start, end) = next(iter(self._corrections.items()))
            candles = await self._history.candles_between(topic, start, end, MAX_CORRECTIONS + 1)
            if self._corrections.get(topic) == (start, end):
                del self._corrections[topic]
            self._correct(topic, candles)
        for topics in [*self._topics.values()]:
            for topic in [*topics.values()]:
                if topic.needs_reading and not isinstance(topic, TradesTopic):
                    async with topic.reading:
                        await self._read(topic)

    def _correct(self, topic: CandlesTopic, candles: list[Candle]) -> None:
        self.counters.corrections += len(candles)
        if len(candles) <= MAX_CORRECTIONS:
            topic.correct(candles)
            return
        key = topic.key
        text = encode(ResetEvent("candles", topic.instrument.symbol, key.interval, key.zone))
        for subscriber in topic.subscribers:
            subscriber.push(text)

    async def _read(self, topic: CandlesTopic | TickerTopic) -> None:
        # Ticks that come while we read wait, and are applied above the last id that was read.
        if topic.waiting is None:
            topic.waiting = []
        topic.needs_reading = False
        try:
            if isinstance(topic, CandlesTopic):
                for time in topic.resume(await self._history.newest_candles(topic), self._clock()):
                    self._touch_candles(topic, time, time)
            else:
                topic.resume(*await self._history.day(topic.instrument))
        except DatabaseUnavailable:
            topic.needs_reading = True
            raise
