"""What clients subscribe to, and the state that each topic keeps. Filled by the hub, tick by tick. No I/O."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import chain
from typing import Final, NamedTuple

from app.market.candles import CandleSeries, LateTick
from app.market.intervals import Interval, bucket_of
from app.market.model import EPOCH, MICROSECOND, MINUTE, Candle, Instrument, Tick, Trade, from_micros, plain, side_of
from app.market.rolling import RollingDay
from app.stream.form import Form, Gap, TradesNews, written
from app.stream.keys import CandlesKey, TickerKey, TradesKey
from app.stream.ranges import IdRanges
from app.stream.subscriber import Batch, Chunk, Outlet
from app.stream.topic import Beat, ReadingTopic, Topic

RING: Final = 4_096
CHUNK_EVENTS: Final = 256
"""Trades that are handed out as one piece, about 40 kB: a frame stays far below the 1 MiB that clients take."""
CLOSE_GRACE: Final = timedelta(milliseconds=130)
"""How long a closed bucket waits for ticks on their way; the clock closes a candle within 250 ms of its boundary."""
REPLAY_LAG: Final = timedelta(seconds=60)
"""Ticks older than this on arrival are a replay of the past, whose candles the clock must not close while it lasts."""


class TradesTopic(Topic):
    """The live trades of one instrument, and the last 4,096 of them while somebody joins from the table.

    Remembers what it told is missing, so that it can tell when that is there.
    """

    def __init__(self, key: TradesKey, instrument: Instrument, last_id: int) -> None:
        super().__init__(instrument)
        self.key = key
        self.last_id = last_id
        self.joined_at = last_id
        """While somebody joins: every trade above this id has come by since, or is told of by a gap."""
        self._ring: deque[tuple[int, TradesNews]] = deque()
        self.missing = IdRanges()
        """What any subscriber was told is missing, and nobody was told has come since."""
        self.doubted = False
        """Whether some of what is missing may have come: the table must be asked."""
        self.gaps = 0
        """Gap events made for all subscribers."""
        self._pending: list[tuple[int, TradesNews]] = []
        self._late = IdRanges()

    def add(self, ticks: Iterable[Tick]) -> None:
        """Take ticks above the last id, ascending."""
        contiguous = self.instrument.contiguous_ids
        for tick in ticks:
            trade_id = tick.trade_id
            if contiguous and trade_id > self.last_id + 1 and self.last_id >= 0:
                self._pending.append((trade_id - 1, Gap(self.last_id + 1, trade_id - 1, "missing")))
                self.missing.add(self.last_id + 1, trade_id - 1)
                self.gaps += 1
            self._pending.append((trade_id, trade_of(tick)))
            self.last_id = trade_id

    def add_late(self, ids: Sequence[int]) -> None:
        """Trades with these ids, ascending, were stored after higher ones: to be told of by a gap."""
        self._late.add(ids[0], ids[-1])
        if ids[-1] - ids[0] == len(set(ids)) - 1:
            self.missing.take(ids[0], ids[-1])

    def fill(self, from_id: int, to_id: int) -> None:
        """All trades in this range of ids are stored: to be told of by a gap, as far as they were told to be missing.

        Whoever listens is told: a client that came back with `since` had it from its connection before.
        """
        for ids in self.missing.take(from_id, to_id):
            self._late.add(*ids)

    def begin_join(self) -> None:
        """Keep trades from now on until `end_join`: whoever reads the table afterwards finds all before them there."""
        if not self.joining:
            self.flush()
            self.joined_at = self.last_id

    def end_join(self) -> None:
        if not self.joining:
            self._ring.clear()

    def since(self, after_id: int) -> list[tuple[int, TradesNews]] | None:
        """News above an id that was flushed, or None where the ring does not reach back so far."""
        if after_id < self.joined_at:
            return None
        return [(trade_id, news) for trade_id, news in self._ring if trade_id > after_id]

    def flush(self) -> None:
        news, self._pending = self._pending, []
        if self.joining:
            self._keep(news)
        for form, audience in self.audiences.items():
            events = written(form, self.instrument, news)
            for start in range(0, len(events), CHUNK_EVENTS):
                chunk = Chunk(self.instrument.symbol, events[start : start + CHUNK_EVENTS])
                for subscriber, _, label in audience:
                    subscriber.push_trades(label, chunk)
        if self._late:
            self._tell_late()

    def _tell_late(self) -> None:
        late = [(self.last_id, Gap(*ids, "late")) for ids in self._late]
        self._late = IdRanges()
        self.gaps += len(late)
        batches: dict[Form, Batch] = {}
        for subscriber, form, label in chain(*self.audiences.values(), self.joining):
            if form not in batches:
                batches[form] = Batch([text for _, text in written(form, self.instrument, late)])
            if batches[form].texts:
                subscriber.push_all(batches[form], label)
        if self.joining:
            # Who joins may have it before the trades that were told by then, which say that it is missing.
            self._keep(late)

    def _keep(self, news: Iterable[tuple[int, TradesNews]]) -> None:
        self._ring.extend(news)
        while len(self._ring) > RING:
            self.joined_at = self._ring.popleft()[0]


class Closed(NamedTuple):
    candle: Candle


class Corrected(NamedTuple):
    """A past candle changed."""

    candle: Candle


class Reset(NamedTuple):
    """Past candles changed, too many or unknown which."""


CandlesNews = Closed | Corrected | Reset


class CandlesTopic(ReadingTopic):
    """The open candle of one instrument, interval and time zone, and what closes or corrects candles before it."""

    def __init__(self, key: CandlesKey, instrument: Instrument, zone: tzinfo) -> None:
        super().__init__(instrument)
        self.key = key
        self.series = CandleSeries(key.interval, zone, instrument.contiguous_ids)
        self._hold_until = EPOCH
        self._news: list[CandlesNews] = []

    def resume(self, candles: list[Candle], waiting: Sequence[Tick], now: datetime) -> list[datetime]:
        """Go on from the newest candles of the database and the ticks since; answers as `add` does.

        Tells of what closed or changed meanwhile. Candles that closed before the newest ones count as late.
        """
        was_open, told = self.series.open, self.series.previous
        self._known = self.series.resume(candles)
        if was_open is not None or told is not None:
            for candle in self.series.closed_among(candles):
                self._tell_closed(candle, was_open.bucket if was_open else None, told)
        unseen: list[datetime] = []
        if was_open is not None and candles and was_open.bucket < candles[0].time:
            unseen = [was_open.bucket, candles[0].time - MICROSECOND]
        self._change()
        return unseen + self.add(waiting, now)

    def _tell_closed(self, candle: Candle, was_open: datetime | None, told: Candle | None) -> None:
        """Tell of a closed candle that was read, where that is news; `told` is the last of which it was told."""
        if told is not None and (candle.time < told.time or candle == told):
            return
        if candle.time >= was_open if was_open else told is None or candle.time > told.time:
            self._news.append(Closed(candle))
        else:
            self._news.append(Corrected(candle))

    def add(self, ticks: Sequence[Tick], now: datetime) -> list[datetime]:
        """Fold ascending ticks in; answers the times of candles to be read anew.

        Those are the times of ticks that came too late for their candle, and of a candle that the clock closed before a
        tick showed that trades after it are missing.
        """
        late: list[datetime] = []
        series, add = self.series, self.series.add
        tick = None
        for tick in self._unknown(ticks):
            if series.open is None and (doubted := series.doubted_by(tick)):
                late.append(doubted)
            try:
                closed = add(tick)
            except LateTick:
                late.append(tick.time)
                continue
            if closed is not None:
                self._news.append(Closed(closed))
        if tick is not None:
            self._change()
            if now - tick.time > REPLAY_LAG:
                self._hold_until = now + REPLAY_LAG
        return late

    def close_due(self, now: datetime) -> bool:
        """Close the open candle when its bucket is over, though no trade followed; whether it was."""
        candle = self.series.open
        if candle is None or self.reading.due or from_micros(candle.end_us) + CLOSE_GRACE > now:
            return False
        if now < self._hold_until:
            return False
        self._news.append(Closed(self.series.close()))
        return True

    def correct(self, candles: Iterable[Candle]) -> None:
        """Tell of past candles that changed; those still open tell of themselves."""
        current = self.series.open
        for candle in candles:
            past = candle.closed if current is None else candle.time < current.bucket
            if not past or candle == self.series.previous:
                continue
            if self.series.previous and candle.time == self.series.previous.time:
                self.series.previous = candle
            self._news.append(Corrected(candle))

    def reset(self) -> None:
        """Tell that past candles may have changed, too many or unknown which."""
        self._news.append(Reset())

    def is_open(self, bucket: datetime) -> bool:
        """Whether the candle of a bucket is open, and nothing it lacks waits to be read."""
        return self.series.open is not None and self.series.open.bucket <= bucket and not self.reading.due

    def current_bucket(self, now: datetime) -> datetime:
        """The start of the candle that is open, or would be."""
        if self.series.open:
            return self.series.open.bucket
        return bucket_of(now, self.key.interval, self.series.zone)

    def flush(self, beat: Beat) -> bool:
        """Whether the newest waits for another beat to be told to all."""
        news, self._news = self._news, []
        if news:
            for form, audience in self.audiences.items():
                self._tell(audience, Batch([*self._written(form, news)]))
        due = self._take_due(beat)
        if due and self.series.open:
            newest = self.series.open.candle(closed=False, contiguous_ids=self.instrument.contiguous_ids)
            for form in due:
                text = form.candle(self.instrument, self.key, newest)
                for subscriber, _, label in self.audiences[form]:
                    subscriber.push_latest(label, text)
        return bool(self._untold)

    def _tell(self, audience: Iterable[Outlet], batch: Batch) -> None:
        if not batch.texts:
            return
        for subscriber, _, label in audience:
            subscriber.forget_latest(label)
            subscriber.push_all(batch, label)

    def _written(self, form: Form, news: Iterable[CandlesNews]) -> Iterator[str]:
        for one in news:
            match one:
                case Closed(candle):
                    text: str | None = form.candle(self.instrument, self.key, candle)
                case Corrected(candle):
                    text = form.correction(self.instrument, self.key, candle)
                case Reset():
                    text = form.reset_candles(self.instrument, self.key)
            if text is not None:
                yield text


class TickerTopic(ReadingTopic):
    """The rolling 24 hours of one instrument."""

    def __init__(self, key: TickerKey, instrument: Instrument) -> None:
        super().__init__(instrument)
        self.key = key
        self.day = RollingDay()
        self._minute: datetime | None = None

    def resume(self, minutes: list[Candle], last: Trade | None, waiting: Sequence[Tick]) -> bool:
        """Go on from what the database holds and the ticks since; answers as `add` does."""
        self._known = self.day.resume(minutes, last)
        self._change()
        return self.add(waiting)

    def add(self, ticks: Sequence[Tick]) -> bool:
        """Fold ascending ticks in. False: some belong to a past minute, and the day must be read anew."""
        self._change()
        past = [tick for tick in self._unknown(ticks) if not self.day.add(tick)]
        return not past

    def turn(self, now: datetime) -> bool:
        """The windows move with each minute, though nothing trades; whether that changed anything."""
        minute = bucket_of(now, Interval.M1)
        before, self._minute = self._minute or minute - MINUTE, minute
        moved = minute != before and self.day.loses(before, now)
        if moved:
            self._change()
        return moved

    def flush(self, now: datetime, beat: Beat) -> bool:
        """Whether the newest waits for another beat to be told to all."""
        if self.reading.waiting is not None:
            return False
        for form in self._take_due(beat):
            text = form.ticker(self.instrument, self.day, now)
            if text is not None:
                for subscriber, _, label in self.audiences[form]:
                    subscriber.push_latest(label, text)
        return bool(self._untold)


def trade_of(tick: Tick) -> Trade:
    """A tick as it goes on the wire."""
    return Trade(tick.trade_id, tick.time, plain(tick.price), plain(tick.size), side_of(tick.buyer_is_maker))
