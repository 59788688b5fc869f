"""Candles out of ticks, exactly as the database computes them. Pure."""

from collections.abc import Iterable
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Final

from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import EXACT, Candle, Tick, from_micros, plain, to_micros

ZERO: Final = Decimal(0)


class OpenCandle:
    """One candle that ticks are folded into, in any order."""

    __slots__ = (
        "bucket",
        "close",
        "end_us",
        "first_id",
        "gap",
        "high",
        "last_id",
        "low",
        "open",
        "quote_volume",
        "start_us",
        "taker_buy_quote_volume",
        "taker_buy_volume",
        "trades",
        "volume",
    )

    def __init__(self, bucket: datetime, end: datetime, first: Tick) -> None:
        self.bucket = bucket
        self.start_us = to_micros(bucket)
        self.end_us = to_micros(end)
        self.open = self.high = self.low = self.close = first.price
        self.first_id = self.last_id = first.trade_id
        self.volume = self.quote_volume = self.taker_buy_volume = self.taker_buy_quote_volume = ZERO
        self.trades = 0
        self.gap = False
        """Trades are missing before its first tick or after its last."""
        self.add(first)

    @classmethod
    def resume(cls, candle: Candle, end: datetime) -> "OpenCandle":
        """Go on from a candle read from the database."""
        self = cls.__new__(cls)
        self.bucket = candle.time
        self.start_us = to_micros(candle.time)
        self.end_us = to_micros(end)
        for name in ("open", "high", "low", "close", "volume", "quote_volume"):
            setattr(self, name, Decimal(getattr(candle, name)))
        self.taker_buy_volume = Decimal(candle.taker_buy_volume)
        self.taker_buy_quote_volume = Decimal(candle.taker_buy_quote_volume)
        self.trades = candle.trades
        if candle.first_id is None or candle.last_id is None:
            raise ValueError("a filled-in candle holds no ticks to go on from")
        self.first_id, self.last_id = candle.first_id, candle.last_id
        self.gap = False
        return self

    def add(self, tick: Tick) -> None:
        """Fold in a tick of this bucket; whose turn it is to open or close goes by trade id."""
        price = tick.price
        if price > self.high:
            self.high = price
        if price < self.low:
            self.low = price
        if tick.trade_id < self.first_id:
            self.open, self.first_id = price, tick.trade_id
        if tick.trade_id >= self.last_id:
            self.close, self.last_id = price, tick.trade_id
        quote = EXACT.multiply(price, tick.size)
        self.volume = EXACT.add(self.volume, tick.size)
        self.quote_volume = EXACT.add(self.quote_volume, quote)
        if tick.buyer_is_maker is False:
            self.taker_buy_volume = EXACT.add(self.taker_buy_volume, tick.size)
            self.taker_buy_quote_volume = EXACT.add(self.taker_buy_quote_volume, quote)
        self.trades += 1

    def candle(self, *, closed: bool, contiguous_ids: bool) -> Candle:
        """The candle as it goes on the wire."""
        complete = closed and not self.gap and self.last_id - self.first_id + 1 == self.trades
        return Candle(
            self.bucket,
            plain(self.open),
            plain(self.high),
            plain(self.low),
            plain(self.close),
            plain(self.volume),
            plain(self.quote_volume),
            self.trades,
            plain(self.taker_buy_volume),
            plain(self.taker_buy_quote_volume),
            self.first_id,
            self.last_id,
            closed,
            complete if contiguous_ids else None,
        )


class CandleSeries:
    """The newest candles of one instrument, interval and time zone, kept from ticks that come in order of their ids.

    `open` is the candle still growing, or None when the clock closed the last one and no tick has followed; `previous`
    is the last closed one.
    """

    def __init__(self, interval: Interval, zone: tzinfo, contiguous_ids: bool) -> None:
        self.interval = interval
        self.zone = zone
        self.contiguous_ids = contiguous_ids
        self.open: OpenCandle | None = None
        self.previous: Candle | None = None
        self._closed_until_us = 0
        self._last_id = -1

    def resume(self, candles: Iterable[Candle]) -> int:
        """Start from the newest candles of the database, ascending; answers the last trade id they hold, or -1."""
        last_id = -1
        self.open = self.previous = None
        self._closed_until_us = 0
        before: Candle | None = None
        for candle in candles:
            # A gap would touch both candles, so that there is none beside a complete one: its ids are late ones.
            doubtful = before is not None and not before.complete
            gap = doubtful and candle.first_id is not None and self._skips(last_id, candle.first_id)
            if self.open is not None:
                self.open.gap = self.open.gap or gap
                self.close()  # a newer one follows, whatever our clock says
            end = next_bucket(candle.time, self.interval, self.zone)
            last_id = max(last_id, -1 if candle.last_id is None else candle.last_id)
            if candle.closed:
                self.previous = candle
                self._closed_until_us = to_micros(end)
            else:
                self.open = OpenCandle.resume(candle, end)
                self.open.gap = gap
            before = candle
        self._last_id = max(self._last_id, last_id)
        return last_id

    def closed_among(self, candles: Iterable[Candle]) -> list[Candle]:
        """Of the candles resumed from, those that are over: by the clock, or because a newer one follows."""
        return [c for c in candles if c.closed and c != self.previous] + ([self.previous] if self.previous else [])

    def add(self, tick: Tick) -> Candle | None:
        """Fold in a tick, and answer the candle that it closes by opening the next.

        Raises LateTick for a bucket that is past.
        """
        current = self.open
        gap = self._skips(self._last_id, tick.trade_id)
        if tick.trade_id > self._last_id:
            self._last_id = tick.trade_id
        if current is not None and current.start_us <= tick.time_us < current.end_us:
            current.add(tick)
            return None
        if tick.time_us < (current.start_us if current else self._closed_until_us):
            raise LateTick
        closed = None
        if current is not None:
            current.gap = current.gap or gap
            closed = self.close()
        bucket = bucket_of(from_micros(tick.time_us), self.interval, self.zone)
        self.open = OpenCandle(bucket, next_bucket(bucket, self.interval, self.zone), tick)
        self.open.gap = gap
        return closed

    def doubted_by(self, tick: Tick) -> datetime | None:
        """The candle that the clock closed as complete, where the next tick shows that trades after it are missing."""
        if self.open is None and self.previous and self.previous.complete and self._skips(self._last_id, tick.trade_id):
            return self.previous.time
        return None

    def _skips(self, last_id: int, trade_id: int) -> bool:
        """Whether trades are missing between the last one, if any, and this."""
        return self.contiguous_ids and 0 <= last_id < trade_id - 1

    def close(self) -> Candle:
        """Close the open candle."""
        if self.open is None:
            raise ValueError("no candle is open")
        self._closed_until_us = self.open.end_us
        self.previous = self.open.candle(closed=True, contiguous_ids=self.contiguous_ids)
        self.open = None
        return self.previous

    def snapshot(self) -> list[Candle]:
        """The last closed candle and the open one, as far as there are any."""
        found = [self.previous] if self.previous else []
        if self.open:
            found.append(self.open.candle(closed=False, contiguous_ids=self.contiguous_ids))
        return found


class LateTick(Exception):
    """The tick belongs to a candle that is closed."""
