"""The hub: ticks in, events out to every subscriber, once encoded. No I/O of its own but the readings of its `history`.

Ticks come in order of commits, each instrument's by rising id; what is not above the last id is late, and is answered
by reading the candles it touched anew. Everything here runs on one event loop; nothing waits in `publish` or `flush`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol, assert_never

import msgspec
import structlog

from app.errors import DatabaseUnavailable
from app.market.intervals import bucket_of, next_bucket
from app.market.model import Candle, Instrument, InstrumentId, Tick, Trade
from app.market.zones import zone_named
from app.stream.keys import CandlesKey, Key, TickerKey, TradesKey
from app.stream.ranges import IdRange
from app.stream.subscriber import Outlet, Subscriber
from app.stream.topic import NO_BEAT, Beat
from app.stream.topics import CandlesTopic, TickerTopic, TradesTopic
from app.telemetry import Histogram

MAX_CORRECTIONS: Final = 100
"""Corrected candles sent one by one; a wider change sends `reset`, and the client fetches the range."""
CLOCK_SECONDS: Final = 0.04
READ_PAUSE: Final = 0.1
"""Between two rounds of readings, so that a stream of late ticks costs a reading of its candles ten times a second."""
RETRY_SECONDS: Final = 1.0
_log = structlog.get_logger()

AnyTopic = TradesTopic | CandlesTopic | TickerTopic
ReadTopic = CandlesTopic | TickerTopic


class History(Protocol):
    """What the hub reads of the past."""

    async def newest_candles(self, topic: CandlesTopic) -> list[Candle]:
        """The last two candles, ascending."""

    async def candles_between(self, topic: CandlesTopic, start: datetime, end: datetime, limit: int) -> list[Candle]:
        """The oldest candles of a range, ascending."""

    async def day(self, instrument: Instrument) -> tuple[list[Candle], Trade | None]:
        """The minute candles of the last 24 hours, ascending, and the last trade, both of one moment."""

    async def filled_gaps(self, instrument: Instrument, among: Iterable[IdRange]) -> list[IdRange]:
        """The gaps that have been filled and touch any of these ranges."""


class HubCounters(msgspec.Struct):
    ticks: int = 0
    late: int = 0
    corrections: int = 0
    flushes: int = 0


class Hub:
    """Owns the topics. A topic lives from the first who joins it to its last subscriber."""

    def __init__(
        self, history: History, *, flush_seconds: float, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.counters = HubCounters()
        self.subscribers: set[Subscriber] = set()
        self.last: dict[InstrumentId, tuple[int, int]] = {}
        """The highest trade id of each instrument, and its time in microseconds: where the listener resumes."""
        self.began = asyncio.Event()
        """Set once `last` is known for all instruments that have ticks: before, nobody can join without a hole."""
        self.live = False
        """Whether ticks arrive as they are committed. While they do not, the clock closes no candle."""
        self._history = history
        self._flush_seconds = flush_seconds
        self.clock = clock
        self._topics: dict[InstrumentId, dict[Key, AnyTopic]] = {}
        self._changed: dict[AnyTopic, None] = {}
        self._held: dict[AnyTopic, None] = {}
        """Changed, and waiting for the second to turn to tell of it at the pace of a form."""
        self._second = int(clock().timestamp())
        self._corrections: dict[CandlesTopic, tuple[datetime, datetime]] = {}
        self.lag = Histogram()
        """Seconds from the exchange's time of the last tick of a batch to here, while ticks arrive as committed."""
        self._work = asyncio.Event()
        self._gaps = 0

    # Topics

    def topic(self, instrument: Instrument, key: Key) -> AnyTopic:
        """The topic of a key, made where there is none; `hold` it before the next await."""
        topics = self._topics.setdefault(instrument.id, {})
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = self._make(instrument, key)
        return topic

    def _make(self, instrument: Instrument, key: Key) -> AnyTopic:
        match key:
            case TradesKey():
                return TradesTopic(key, instrument, self.last_id(instrument.id))
            case CandlesKey():
                return CandlesTopic(key, instrument, zone_named(key.zone))
            case TickerKey():
                return TickerTopic(key, instrument)
            case _:
                assert_never(key)

    @contextmanager
    def hold(self, topic: AnyTopic, outlet: Outlet) -> Iterator[None]:
        """Keep a topic while a subscriber joins it; afterwards it stays where anybody listens."""
        if isinstance(topic, TradesTopic):
            topic.begin_join()
        topic.joining.add(outlet)
        try:
            yield
        finally:
            topic.joining.discard(outlet)
            if isinstance(topic, TradesTopic):
                topic.end_join()
            self._release(topic)

    def leave(self, outlet: Outlet, key: Key) -> None:
        """Take a subscriber's outlet off a topic, and the topic away with its last one."""
        topic = self._topics.get(key.instrument_id, {}).get(key)
        if topic is not None:
            topic.dismiss(outlet)
            self._release(topic)

    def _release(self, topic: AnyTopic) -> None:
        topics = self._topics.get(topic.instrument.id, {})
        if topic.audiences or topic.joining or topics.get(topic.key) is not topic:
            return
        del topics[topic.key]
        self._changed.pop(topic, None)
        self._held.pop(topic, None)
        if isinstance(topic, CandlesTopic):
            self._corrections.pop(topic, None)
        elif isinstance(topic, TradesTopic):
            self._gaps += topic.gaps
        if not topics:
            del self._topics[topic.instrument.id]

    async def ready(self, topic: ReadTopic) -> None:
        """Read the topic's state where it has not been read yet; DatabaseUnavailable passes through."""
        async with topic.reading.lock:
            if topic.reading.waiting is not None:
                await self._read(topic)

    def watches(self, instrument_id: InstrumentId) -> bool:
        """Whether anybody listens to an instrument, or is about to."""
        return instrument_id in self._topics

    @property
    def topics(self) -> list[AnyTopic]:
        return [topic for topics in self._topics.values() for topic in topics.values()]

    @property
    def gaps(self) -> int:
        """Gap events told to all who listened to an instrument's trades, each counted once."""
        return self._gaps + sum(topic.gaps for topic in self.topics if isinstance(topic, TradesTopic))

    # Ticks

    def last_id(self, instrument_id: InstrumentId) -> int:
        """The highest trade id known, or -1."""
        return self.last.get(instrument_id, (-1, 0))[0]

    def publish(self, ticks: Sequence[Tick], *, repeated: bool = False) -> None:
        """Take ticks in the order of commits, each instrument's ascending within a call.

        `repeated`: those not above the last id are known already, not late.
        """
        self.counters.ticks += len(ticks)
        by_instrument: dict[InstrumentId, list[Tick]] = {}
        for tick in ticks:
            by_instrument.setdefault(tick.instrument_id, []).append(tick)
        for instrument_id, own in by_instrument.items():
            last_id = self.last_id(instrument_id)
            fresh = own if own[0].trade_id > last_id else [tick for tick in own if tick.trade_id > last_id]
            if fresh:
                newest = fresh[-1]
                self.last[instrument_id] = (newest.trade_id, newest.time_us)
                if self.live:
                    self.lag.observe(max(0.0, self.clock().timestamp() - newest.time_us / 1_000_000))
            topics = self._topics.get(instrument_id)
            if not topics:
                continue
            if fresh:
                self._give(topics.values(), fresh)
            if len(fresh) < len(own) and not repeated:
                self._take_late(topics.values(), own[: len(own) - len(fresh)])

    def _give(self, topics: Iterable[AnyTopic], ticks: list[Tick]) -> None:
        for topic in topics:
            self._changed[topic] = None
            if isinstance(topic, TradesTopic):
                topic.add(ticks)
            elif topic.reading.waiting is not None:
                topic.reading.wait(ticks)
            elif isinstance(topic, CandlesTopic):
                self._touch_times(topic, topic.add(ticks, self.clock()))
            elif not topic.add(ticks):
                self._need(topic)

    def _take_late(self, topics: Iterable[AnyTopic], late: list[Tick]) -> None:
        self.counters.late += len(late)
        for topic in topics:
            if isinstance(topic, TradesTopic):
                topic.add_late([tick.trade_id for tick in late])
                self._changed[topic] = None
        self.touch(late[0].instrument_id, min(t.time for t in late), max(t.time for t in late))

    def touch(self, instrument_id: InstrumentId, start: datetime, end: datetime) -> None:
        """Ticks between these times, inclusive, were stored late: have what they touched read anew."""
        for topic in self._topics.get(instrument_id, {}).values():
            if isinstance(topic, CandlesTopic):
                self._touch_times(topic, [start, end])
            elif isinstance(topic, TickerTopic):
                self._need(topic)

    def doubt(self, instrument_id: InstrumentId) -> None:
        """A gap may have been filled: have the table asked, and tell whoever was told that trades are missing."""
        topic = self._topics.get(instrument_id, {}).get(TradesKey(instrument_id))
        if isinstance(topic, TradesTopic) and topic.missing:
            topic.doubted = True
            self._work.set()

    def _touch_times(self, topic: CandlesTopic, times: list[datetime]) -> None:
        if not times:
            return
        interval, zone = topic.key.interval, topic.series.zone
        first = bucket_of(min(times), interval, zone)
        after = next_bucket(bucket_of(max(times), interval, zone), interval, zone)
        if after > topic.current_bucket(self.clock()):
            self._need(topic)
        # The open candle, too: it may be closed, and told of as it stands, before it is read anew.
        known = self._corrections.get(topic)
        self._corrections[topic] = (min(first, known[0]), max(after, known[1])) if known else (first, after)
        self._work.set()

    def _need(self, topic: ReadTopic) -> None:
        topic.reading.needed = True
        self._work.set()

    # The feed

    def go_live(self) -> None:
        """Ticks arrive as they are committed, from here on; what was missed before has been published.

        Ticks that were stored late in the time between are not among it: past candles may no longer hold, and trades
        with ids below the last are not told of, unless they filled a gap that was.
        """
        for topic in self.topics:
            if isinstance(topic, TradesTopic):
                self.doubt(topic.instrument.id)
                continue
            if isinstance(topic, CandlesTopic) and self.began.is_set():
                topic.reset()
                self._changed[topic] = None
            self._need(topic)
        self.live = True
        self.began.set()

    def lose_feed(self) -> None:
        """Ticks no longer arrive."""
        self.live = False

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
        now = self.clock()
        for topics in self._topics.values():
            for topic in topics.values():
                if isinstance(topic, CandlesTopic):
                    if self.live and topic.close_due(now):
                        self._changed[topic] = None
                elif isinstance(topic, TickerTopic) and topic.turn(now):
                    self._changed[topic] = None

    def flush(self) -> None:
        """Hand out everything that is new since the last flush, and what was held until the second turned."""
        self.counters.flushes += 1
        beat = Beat(self._second, int(self.clock().timestamp()))
        self._second = beat.now
        changed, self._changed = self._changed, {}
        if beat.turned:
            changed |= self._held
            self._held = {}
        # A gap is told before the corrections that it causes.
        for topic in sorted(changed, key=lambda topic: not isinstance(topic, TradesTopic)):
            if self.flush_topic(topic, beat):
                self._held[topic] = None

    def flush_topic(self, topic: AnyTopic, beat: Beat = NO_BEAT) -> bool:
        """Hand out what is new in one topic: whoever joins it afterwards begins after that.

        Whether some of it waits for another beat.
        """
        if isinstance(topic, TradesTopic):
            topic.flush()
            return False
        if isinstance(topic, TickerTopic):
            return topic.flush(self.clock(), beat)
        return topic.flush(beat)

    async def _read_for_ever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._read_round()
            except DatabaseUnavailable as error:
                _log.warning("hub reading failed", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._work.set()
            await asyncio.sleep(READ_PAUSE)

    async def _read_round(self) -> None:
        for doubted in self.topics:
            if isinstance(doubted, TradesTopic) and doubted.doubted:
                await self._tell_filled(doubted)
        for stale in self.topics:
            if not isinstance(stale, TradesTopic) and stale.reading.needed:
                async with stale.reading.lock:
                    if stale.reading.needed:
                        await self._read(stale)
        for topic, touched in [*self._corrections.items()]:
            start, end = touched
            if topic.is_open(start):
                # Has just been read: what it holds is right, and told of in time.
                candles = []
            else:
                candles = await self._history.candles_between(topic, start, end, MAX_CORRECTIONS + 1)
            if self._corrections.get(topic) is touched:  # else it was touched again, after the reading perhaps
                del self._corrections[topic]
            self._correct(topic, candles)

    async def _tell_filled(self, topic: TradesTopic) -> None:
        topic.doubted = False
        try:
            filled = await self._history.filled_gaps(topic.instrument, [*topic.missing])
        except BaseException:
            topic.doubted = True
            raise
        for ids in filled:
            topic.fill(*ids)
        # At once: corrections follow.
        topic.flush()

    def _correct(self, topic: CandlesTopic, candles: list[Candle]) -> None:
        self.counters.corrections += len(candles)
        if len(candles) <= MAX_CORRECTIONS:
            topic.correct(candles)
        else:
            topic.reset()
        self._changed[topic] = None

    async def _read(self, topic: ReadTopic) -> None:
        reading = topic.reading
        try:
            if isinstance(topic, CandlesTopic):
                candles = await reading.fetch(partial(self._history.newest_candles, topic))
                self._touch_times(topic, topic.resume(candles, reading.finish(), self.clock()))
            else:
                minutes, last = await reading.fetch(partial(self._history.day, topic.instrument))
                if not topic.resume(minutes, last, reading.finish()):
                    self._need(topic)
        except BaseException:
            # Whoever asked may have been cancelled; others still wait for this topic.
            self._need(topic)
            raise
        self._changed[topic] = None
