"""A market that can be asked for any trade: a pure function of seed, symbol, rate and trade id, with no state to keep.

Ids count from 1 at EPOCH_US without a hole: history can be paged from anywhere, and a restart changes nothing.
"""

import bisect
import functools
import math
from datetime import UTC, datetime
from fractions import Fraction

from app.errors import OperatorError
from app.market.model import to_micros
from ingest.simulator.listing import PLACES, Listing, digest, listing
from ingest.simulator.tape import FOREVER, Trade

EPOCH_US = to_micros(datetime(2024, 1, 1, tzinfo=UTC))
FIRST_ID = 1
BLOCK = 16
"""Trades come in blocks of this many, spread evenly or bunched: bursts at a steady mean rate."""
FASTEST = 1_000_000
SECOND = 1_000_000
YEAR_SECONDS = 365 * 24 * 3600
LEVELS = 23
"""The slowest swing of a price lasts 2^23 seconds (97 days); beyond it prices return to where they started."""
MASK = 2**64 - 1


def mix(value: int) -> int:
    """64 well-stirred bits of an integer (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def normal(bits: int) -> float:
    """A nearly normal number of mean 0 and variance 1, within ±3.5, from 64 bits: the sum of four uniform ones."""
    total = (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48)
    return (total - 131070) / 37837.2


class Path:
    """A Brownian path that can be read at any second (Lévy's construction): middles are means of their ends plus noise.

    The noise halves in variance with each level, and a share of it moves from one half to the other at random, which
    gives calm and wild hours (a multiplicative cascade). Reading seconds in order takes two steps each, a jump LEVELS.
    """

    def __init__(self, seed: int, volatility: float) -> None:
        self._seed = seed
        span = volatility * math.sqrt(2**LEVELS / YEAR_SECONDS)
        self._swing = span / math.sqrt(2)
        self._noise = span / 2
        self._cells = [(-1, 0.0, 0.0, 0.0)] * (LEVELS + 1)

    def ends(self, second: int) -> tuple[float, float]:
        """The path's value at the start and at the end of a second."""
        cells = self._cells
        level = LEVELS
        while level >= 0 and cells[level][0] != second >> (LEVELS - level):
            level -= 1
        if level < 0:
            level, top = 0, second >> LEVELS
            cells[0] = (top, self._swing * self._at(0, top), self._swing * self._at(0, top + 1), self._noise)
        while level < LEVELS:
            index, left, right, noise = cells[level]
            level += 1
            bits = mix(self._seed + (level << 48) + index)
            middle = (left + right) / 2 + noise * normal(bits)
            tilt = ((bits * 5 >> 8 & 0xFFFF) - 32768) / 163840
            child = second >> (LEVELS - level)
            if child & 1:
                cells[level] = (child, middle, right, noise * math.sqrt(0.5) * (1 + tilt))
            else:
                cells[level] = (child, left, middle, noise * math.sqrt(0.5) * (1 - tilt))
        return cells[LEVELS][1], cells[LEVELS][2]

    def _at(self, level: int, index: int) -> float:
        return normal(mix(self._seed + (level << 48) + index))


class Market:
    """The trades of one symbol at `rate` trades a second. Times are whole milliseconds, as Binance sends them."""

    pace = 1.0

    def __init__(self, symbol: str, rate: float = 5.0, seed: int = 1) -> None:
        if not 0 < rate <= FASTEST:
            raise OperatorError(f"the rate must be above 0 and at most {FASTEST:,} trades a second, not {rate:g}")
        self.listing: Listing = listing(symbol)
        self.rate = rate
        self._seed = digest(f"{seed} {symbol}")
        self._per_block_us = BLOCK * SECOND / Fraction(rate).limit_denominator(SECOND)
        self._path = Path(mix(self._seed), self.listing.volatility)
        self._base_ticks = int(self.listing.price.scaleb(self.listing.tick_places))
        self._depth = max(2, self._base_ticks // 20_000)
        self._typical_steps = max(1, int(self.listing.typical_size.scaleb(self.listing.step_places)))
        self._tick_units: int = 10 ** (PLACES - self.listing.tick_places)
        self._step_units: int = 10 ** (PLACES - self.listing.step_places)
        self._block = functools.lru_cache(maxsize=4)(self._compute_block)
        self._second = functools.lru_cache(maxsize=4)(self._compute_second)

    def begin(self, clock_us: int) -> None:
        """A market has always been open."""

    def now_us(self, clock_us: int) -> int:
        return clock_us

    def trade(self, trade_id: int) -> Trade:
        if trade_id < FIRST_ID:
            raise LookupError(trade_id)
        bits = mix(self._seed + trade_id)
        offset = self._offset(trade_id, bits) // 1000 * 1000
        start, end = self._second(offset // SECOND)
        middle = start + (end - start) * (offset % SECOND) // SECOND
        distance = 1 + ((self._depth * (bits >> 40 & 0xFF)) >> 8)
        buyer_is_maker = bits >> 16 & 1 == 1
        ticks = max(1, middle - distance if buyer_is_maker else middle + distance)
        spread = (1024 + (bits >> 17 & 0x3FF)) << (bits >> 27 & 0xFFF).bit_count()
        steps = max(1, self._typical_steps * spread >> 16)
        price = f"{ticks * self._tick_units:09d}"
        size = f"{steps * self._step_units:09d}"
        return Trade(
            trade_id, EPOCH_US + offset, f"{price[:-8]}.{price[-8:]}", f"{size[:-8]}.{size[-8:]}", buyer_is_maker
        )

    def trades(self, from_id: int, limit: int, until_us: int = FOREVER) -> list[Trade]:
        found: list[Trade] = []
        first = max(from_id, FIRST_ID)
        for trade_id in range(first, first + limit):
            trade = self.trade(trade_id)
            if trade.time_us > until_us:
                break
            found.append(trade)
        return found

    def before(self, trade_id: int, limit: int) -> list[Trade]:
        first = max(FIRST_ID, trade_id - limit)
        return self.trades(first, trade_id - first)

    def latest(self, limit: int, until_us: int) -> list[Trade]:
        return self.before(self.id_at(until_us + 1), limit)

    def id_at(self, time_us: int) -> int:
        offset = -((EPOCH_US - time_us) // 1000) * 1000
        block = offset // self._per_block_us
        low, high = max(FIRST_ID, (block - 1) * BLOCK), max(FIRST_ID, (block + 2) * BLOCK)
        return low + bisect.bisect_left(range(low, high), offset, key=self._offset)

    def time_of(self, from_id: int) -> int:
        return self.trade(max(from_id, FIRST_ID)).time_us

    def _offset(self, trade_id: int, bits: int | None = None) -> int:
        """Microseconds from EPOCH to a trade; never falls as ids rise."""
        if bits is None:
            bits = mix(self._seed + trade_id)
        start, span, shape = self._block(trade_id // BLOCK)
        place = (trade_id % BLOCK) << 16 | bits & 0xFFFF
        if shape == 1:
            place = place * place >> 20
        elif shape == 2:
            place = (1 << 20) - ((1 << 20) - place) ** 2 // (1 << 20)
        elif shape == 3:
            place = place**3 >> 40
        return start + (span * place >> 20)

    def _compute_block(self, block: int) -> tuple[int, int, int]:
        """Where a block of trades starts, how long it lasts, and how its trades bunch together."""
        start = int(block * self._per_block_us)
        return start, int((block + 1) * self._per_block_us) - start, mix(self._seed ^ block) & 3

    def _compute_second(self, second: int) -> tuple[int, int]:
        """The middle price, in ticks, at both ends of a second."""
        start, end = self._path.ends(second)
        return round(self._base_ticks * math.exp(start)), round(self._base_ticks * math.exp(end))
