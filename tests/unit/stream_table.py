"""A table in memory that stands for the database in tests of the hub: what the stream reads of the past."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

from app.market.candles import OpenCandle
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import Candle, Instrument, InstrumentId, Tick, Trade, day_start, from_micros, to_micros
from app.market.store import Place
from app.stream.ranges import IdRange
from app.stream.topics import CandlesTopic, trade_of

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def instrument(number: int = 1, *, contiguous: bool = True, ticker: str | None = None) -> Instrument:
    name = ticker or f"T{number}"
    return Instrument(
        InstrumentId(number), f"TEST:{name}", "TEST", name, None, None, "spot", 2, "trade", contiguous, True
    )


def tick(
    trade_id: int,
    seconds: float = 0,
    *,
    price: str = "100.00",
    size: str = "0.50",
    maker: bool | None = False,
    of: int = 1,
) -> Tick:
    """A tick so many seconds after START."""
    time_us = to_micros(START) + round(seconds * 1_000_000)
    return Tick(InstrumentId(of), trade_id, time_us, Decimal(price), Decimal(size), maker)


def candles_of(
    ticks: Sequence[Tick], interval: Interval, now: datetime, *, contiguous: bool = True, zone: object = UTC
) -> list[Candle]:
    """All candles of some ticks, as the database would compute them: from nothing, in any order."""
    assert zone is UTC
    found: dict[datetime, OpenCandle] = {}
    for one in ticks:
        bucket = bucket_of(one.time, interval)
        if bucket in found:
            found[bucket].add(one)
        else:
            found[bucket] = OpenCandle(bucket, next_bucket(bucket, interval), one)
    for before, after in pairwise(sorted(ticks, key=lambda one: one.trade_id)):
        if contiguous and after.trade_id > before.trade_id + 1:
            for bucket, candle in found.items():
                candle.gap |= bucket <= after.time and candle.end_us > before.time_us
    open_since = bucket_of(now, interval)
    return [found[bucket].candle(closed=bucket < open_since, contiguous_ids=contiguous) for bucket in sorted(found)]


class Table:
    """Committed ticks. Each reading sees one moment of it, `pause` turns of the loop after it was asked for."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.filled: list[IdRange] = []
        self.now = START
        self.pause = 1
        self.readings = 0
        self.failure: Exception | None = None

    def commit(self, *ticks: Tick) -> None:
        self.ticks.extend(ticks)

    async def newest_candles(self, topic: CandlesTopic) -> list[Candle]:
        return (await self._candles(topic))[-2:]

    async def candles_between(self, topic: CandlesTopic, start: datetime, end: datetime, limit: int) -> list[Candle]:
        return [candle for candle in await self._candles(topic) if start <= candle.time < end][:limit]

    async def day(self, of: Instrument) -> tuple[list[Candle], Trade | None]:
        own = await self._own(of)
        minutes = candles_of(own, Interval.M1, self.now)
        newest = max(own, key=lambda t: (t.time_us, t.trade_id), default=None)
        before = [c for c in minutes if c.time < day_start(self.now)]
        return [*before[-1:], *minutes[len(before) :]], trade_of(newest) if newest else None

    async def newest_trades(self, of: Instrument, limit: int) -> list[Trade]:
        own = sorted(await self._own(of), key=lambda t: (t.time_us, t.trade_id))
        return sorted([trade_of(t) for t in own[-limit:]], key=lambda trade: trade.trade_id)

    async def place_after_id(self, of: Instrument, after_id: int) -> Place | None:
        times = [t.time_us for t in await self._own(of) if t.trade_id > after_id]
        return Place(from_micros(min(times)), -1) if times else None

    async def trades_after(self, of: Instrument, place: Place, after_id: int, limit: int) -> list[Trade]:
        own = sorted(await self._own(of), key=lambda t: (t.time_us, t.trade_id))
        return [trade_of(t) for t in own if (t.time, t.trade_id) > place and t.trade_id > after_id][:limit]

    async def filled_gaps(self, of: Instrument, among: Iterable[IdRange]) -> list[IdRange]:
        told = [*among]
        for _ in range(self.pause):
            await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        found = [gap for gap in self.filled if any(gap.from_id <= b and gap.to_id >= a for a, b in told)]
        for _ in range(self.pause):
            await asyncio.sleep(0)
        return found

    async def _candles(self, topic: CandlesTopic) -> list[Candle]:
        own = await self._own(topic.instrument)
        return candles_of(own, topic.key.interval, self.now, contiguous=topic.instrument.contiguous_ids)

    async def _own(self, of: Instrument) -> list[Tick]:
        self.readings += 1
        for _ in range(self.pause):
            await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        found = [t for t in self.ticks if t.instrument_id == of.id]
        for _ in range(self.pause):
            await asyncio.sleep(0)
        return found
