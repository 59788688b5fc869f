"""What clients subscribe to, and the state that each topic keeps. Filled by the hub, tick by tick. No I/O."""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable
from datetime import datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from msgspec.structs import asdict

from app.market.candles import CandleSeries, LateTick
from app.market.intervals import Interval, bucket_of
from app.market.model import Candle, Instrument, InstrumentId, Tick, Trade, from_micros, plain, side_of
from app.market.rolling import RollingDay
from app.stream.protocol import CandleEvent, CorrectionEvent, GapEvent, TickerEvent, TradeEvent, encode
from app.stream.subscriber import Chunk, Subscriber

RING: Final = 4_096
CLOSE_GRACE: Final = timedelta(milliseconds=100)
"""How long a closed bucket waits for ticks on their way; the clock closes a candle within 250 ms of its boundary."""
REPLAY_LAG: Final = timedelta(seconds=60)
"""Ticks older than this on arrival are a replay of the past, whose candles the wall clock must not close."""


class TradesKey(NamedTuple):
    instrument_id: InstrumentId


class CandlesKey(NamedTuple):
    instrument_id: InstrumentId
    interval: Interval
    zone: str


class TickerKey(NamedTuple):
    instrument_id: InstrumentId
    ticker: bool = True


Key = TradesKey | CandlesKey | TickerKey


class Topic:
    """Common to all: who listens, and the ticks that wait while the topic's state is read from the database."""

    def __init__(self, key: Hashable, instrument: Instrument) -> None:
        self.key = key
        self.instrument = instrument
        self.subscribers: set[Subscriber] = set()
        self.waiting: list[Tick] | None = []
        """Ticks to apply once the state has been read; None while the topic is live."""
        self.needs_reading = True
        self.reading = asyncio.Lock()


class TradesTopic(Topic):
    """The live trades of one instrument, and the last 4,096 of them for those who join from the table."""

    def __init__(self, key: TradesKey, instrument: Instrument, last_id: int) -> None:
        super().__init__(key, instrument)
        self.waiting = None
        self.needs_reading = False
        self.joining = 0
        """Clients that still read the past; they hold the topic as subscribers do."""
        self.last_id = last_id
        self.joined_at = last_id
        """Every trade above this id has come by since the topic began, or is told of by a gap."""
        self.ring: deque[tuple[int, str]] = deque(maxlen=RING)
        self._pending: list[tuple[int, str]] = []

    def add(self, ticks: Iterable[Tick]) -> None:
        for tick in ticks:
            trade_id = tick.trade_id
            if self.instrument.contiguous_ids and trade_id > self.last_id + 1 and self.last_id >= 0:
                gap = encode(GapEvent(self.instrument.symbol, self.last_id + 1, trade_id - 1, "missing"))
                self._pending.append((trade_id - 1, gap))
            self._pending.append((trade_id, encode(trade_event(self.instrument.symbol, trade_of(tick)))))
            self.last_id = trade_id

    def flush(self) -> None:
        if not self._pending:
            return
        events, self._pending = self._pending, []
        if len(self.ring) + len(events) > RING:
            dropped = min(len(self.ring), len(self.ring) + len(events) - RING)
            oldest = self.ring[dropped - 1][0] if dropped else -1
            self.joined_at = max(self.joined_at, oldest, events[-RING - 1][0] if len(events) > RING else -1)
        self.ring.extend(events)
        chunk = Chunk(events[0][0], events[-1][0], ",".join(text for _, text in events), events)
        for subscriber in self.subscribers:
            subscriber.push_trades(self.instrument.symbol, chunk)

    def since(self, after_id: int) -> list[str] | None:
        """Events above an id out of the ring, or None where the ring does not reach back so far."""
        if after_id < self.joined_at:
            return None
        return [text for trade_id, text in self.ring if trade_id > after_id]


class CandlesTopic(Topic):
    """The open candle of one instrument, interval and time zone, and what closes or corrects candles before it."""

    def __init__(self, key: CandlesKey, instrument: Instrument, zone: tzinfo) -> None:
        super().__init__(key, instrument)
        self.key: CandlesKey = key
        self.series = CandleSeries(key.interval, zone, instrument.contiguous_ids)
        self.by_clock = True
        self._events: list[str] = []
        self._dirty = False

    def resume(self, candles: list[Candle], now: datetime) -> list[datetime]:
        """Go live from the newest candles of the database; answers as `add` does."""
        was_open = self.series.open
        last_id = self.series.resume(candles)
        if was_open is not None:
            # Closed while we read: the clock was held back, so nobody was told.
            over = [candle for candle in candles if candle.closed and candle.time >= was_open.bucket]
            self._events.extend(self._encode(CandleEvent, candle) for candle in over)
        waiting, self.waiting = self.waiting or [], None
        self._dirty = True
        return self.add((tick for tick in waiting if tick.trade_id > last_id), now)

    def add(self, ticks: Iterable[Tick], now: datetime) -> list[datetime]:
        """Fold ticks in; answers the times of those that came too late for their candle."""
        late: list[datetime] = []
        for tick in ticks:
            try:
                closed = self.series.add(tick)
            except LateTick:
                late.append(tick.time)
                continue
            self.by_clock = now - tick.time < REPLAY_LAG
            if closed is not None:
                self._events.append(self._encode(CandleEvent, closed))
            self._dirty = True
        return late

    def close_due(self, now: datetime) -> None:
        """Close the open candle when its bucket is over, though no trade followed."""
        candle = self.series.open
        if (
            self.waiting is None
            and candle is not None
            and self.by_clock
            and from_micros(candle.end_us) + CLOSE_GRACE <= now
        ):
            self._events.append(self._encode(CandleEvent, self.series.close()))

    def correct(self, candles: Iterable[Candle]) -> None:
        """Tell of past candles that changed."""
        for candle in candles:
            if self.series.previous and candle.time == self.series.previous.time:
                self.series.previous = candle
            self._events.append(self._encode(CorrectionEvent, candle))

    def current_bucket(self, now: datetime) -> datetime:
        """The start of the candle that is open, or would be."""
        if self.series.open:
            return self.series.open.bucket
        return bucket_of(now, self.key.interval, self.series.zone)

    def flush(self) -> None:
        events, self._events = self._events, []
        text = ",".join(events)
        candle = self.series.open
        newest = None
        if self._dirty and candle is not None and self.subscribers:
            newest = self._encode(
                CandleEvent, candle.candle(closed=False, contiguous_ids=self.instrument.contiguous_ids)
            )
        self._dirty = False
        for subscriber in self.subscribers:
            if text:
                subscriber.forget_latest(self.key)
                subscriber.push(text)
            if newest:
                subscriber.push_latest(self.key, newest)

    def _encode(self, event: type[CandleEvent], candle: Candle) -> str:
        key = self.key
        return encode(event(**asdict(candle), symbol=self.instrument.symbol, interval=key.interval, timezone=key.zone))


class TickerTopic(Topic):
    """The rolling 24 hours of one instrument."""

    def __init__(self, key: TickerKey, instrument: Instrument) -> None:
        super().__init__(key, instrument)
        self.day = RollingDay()
        self._dirty = False
        self._minute: datetime | None = None

    def resume(self, minutes: list[Candle], last: Trade | None) -> None:
        last_id = self.day.resume(minutes, last)
        waiting, self.waiting = self.waiting or [], None
        self._dirty = True
        self.add(tick for tick in waiting if tick.trade_id > last_id)

    def add(self, ticks: Iterable[Tick]) -> None:
        for tick in ticks:
            if not self.day.add(tick):
                self.needs_reading = True
            self._dirty = True

    def turn(self, now: datetime) -> None:
        """The window moves with each minute, though nothing trades."""
        minute = bucket_of(now, Interval.M1)
        self._dirty = self._dirty or minute != self._minute
        self._minute = minute

    def flush(self, now: datetime) -> None:
        if not self._dirty or not self.subscribers or self.waiting is not None:
            return
        self._dirty = False
        ticker = self.day.ticker(now)
        if ticker is None:
            return
        text = encode(TickerEvent(**asdict(ticker), symbol=self.instrument.symbol))
        for subscriber in self.subscribers:
            subscriber.push_latest(self.key, text)


def trade_of(tick: Tick) -> Trade:
    """A tick as it goes on the wire."""
    return Trade(tick.trade_id, tick.time, plain(tick.price), plain(tick.size), side_of(tick.buyer_is_maker))


def trade_event(symbol: str, trade: Trade) -> TradeEvent:
    """A trade as an event."""
    return TradeEvent(trade.trade_id, trade.time, trade.price, trade.size, trade.side, symbol=symbol)
