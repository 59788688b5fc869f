"""How the exchange can be made to fail, and what a failing feed sends in place of the true trades.

Every choice is a function of the seed and the trade's id, so that a failing run can be repeated whatever its timing.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from app.binance.wire.weights import WEIGHT_LIMIT
from ingest.simulator.listing import digest
from ingest.simulator.market import mix
from ingest.simulator.tape import Trade

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
PROBABILITIES = ("skip", "duplicate", "reorder", "garbage", "rest_failure")
DeedKind = Literal["skip", "duplicate", "reorder", "garbage"]
LOG_LENGTH = 100_000
LONGEST_JUMP = 10 * 365 * 86_400.0


class Misbehaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the exchange does wrong until told otherwise; the default does nothing wrong. ValueError for what cannot be.

    `skip`, `duplicate`, `reorder` and `garbage` are probabilities for each trade: it is left out, sent twice, sent
    after `reorder_distance` later ones (one trade at a time), or preceded by a frame of garbage. A connection made
    from now on lives at most `max_connection_seconds` (0: for ever) and is told `notice_seconds` before its end, where
    the venue has such a notice. `weight_limit` is the request weight that a minute of Binance's REST allows.
    `rest_failure` is the probability that REST answers 503 (the same requests, counted from 0, for the same seed), and
    `rest_latency_seconds` how long it waits before it answers at all; `/control` is spared both.
    `void` names, by symbol, spans of ids [first, last] that were never given: such trades are not sent, and no REST has
    them. A span of ids that were traded already takes them out of REST alone.
    """

    skip: Probability = 0.0
    duplicate: Probability = 0.0
    reorder: Probability = 0.0
    garbage: Probability = 0.0
    reorder_distance: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    max_connection_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    notice_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    weight_limit: Annotated[int, msgspec.Meta(ge=0)] = WEIGHT_LIMIT
    rest_failure: Probability = 0.0
    rest_latency_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    void: dict[str, tuple[tuple[int, int], ...]] = {}
    seed: int = 1

    def __post_init__(self) -> None:
        for field in PROBABILITIES:
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is a probability, between 0 and 1")
        if self.reorder_distance < 1:
            raise ValueError("reorder_distance is at least 1")
        if any(first > last or first < 0 for spans in self.void.values() for first, last in spans):
            raise ValueError("void takes spans of ids, each [first, last]")


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be ordered once, in this order; times are seconds.

    `drop` cuts every websocket with FIN, without a close frame; `reset` with RST, so that what was on its way is lost.
    `silence`: send nothing, on connections that stay open; what is traded meanwhile is never sent, and REST answers.
    `freeze`: stand still as a stopped process does. Connections stay open and new ones are accepted, but nothing is
    sent and nothing answered, REST included, `/control` excepted; then what was missed is sent, if it was not more than
    a minute. A new freeze takes the place of one that lasts; 0 ends it.
    `clock`: set the clock ahead, or back where negative. Ids follow the time: ahead, the trades of the time between are
    never sent, but REST has them; back, nothing is traded, and no id comes twice, until the clock has caught up.
    `close`: close as after 24 hours, and refuse connections for so long (0: only roll over).
    """

    drop: bool = False
    reset: bool = False
    silence: float | None = None
    freeze: float | None = None
    clock: Annotated[float, msgspec.Meta(ge=-LONGEST_JUMP, le=LONGEST_JUMP)] | None = None
    close: float | None = None


class Deed(msgspec.Struct, frozen=True):
    """One thing done wrong to one trade."""

    kind: DeedKind
    symbol: str
    trade_id: int


class Record:
    """What was sent and what was done wrong: counters of everything, and the last LOG_LENGTH deeds."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.deeds: deque[Deed] = deque(maxlen=LOG_LENGTH)

    def add(self, kind: DeedKind, symbol: str, trade_id: int) -> None:
        self.counters[kind] += 1
        self.deeds.append(Deed(kind, symbol, trade_id))

    def ids(self, kind: DeedKind, symbol: str) -> set[int]:
        """The trades of a symbol that something was done to."""
        return {deed.trade_id for deed in self.deeds if deed.kind == kind and deed.symbol == symbol}


class Garbage(msgspec.Struct, frozen=True):
    """A place where garbage is sent: each wire form has its own, and `bits` choose one of them."""

    bits: int


class Distortion:
    """Turns a symbol's true trades, in order, into what is sent: trades, and Garbage among them.

    One trade at a time is held back by `reorder`, possibly into a later batch.
    """

    def __init__(self, symbol: str, record: Record) -> None:
        self._symbol = symbol
        self._salt = digest(symbol)
        self._record = record
        self._held: Trade | None = None
        self._wait = 0

    def apply(self, trades: Sequence[Trade], misbehaviour: Misbehaviour) -> list[Trade | Garbage]:
        if not self._held and not (
            misbehaviour.skip or misbehaviour.duplicate or misbehaviour.reorder or misbehaviour.garbage
        ):
            return list(trades)
        sent: list[Trade | Garbage] = []
        for trade in trades:
            held = self._held
            self._send(trade, misbehaviour, sent)
            self._wait -= 1
            if held and self._wait == 0:
                sent.append(held)
                self._held = None
        return sent

    def _send(self, trade: Trade, misbehaviour: Misbehaviour, sent: list[Trade | Garbage]) -> None:
        bits = mix(mix(misbehaviour.seed ^ self._salt) + trade.id)
        if self._falls("garbage", misbehaviour.garbage, bits, 0, trade):
            sent.append(Garbage(bits))
        if self._falls("skip", misbehaviour.skip, bits, 16, trade):
            return
        if not self._held and self._falls("reorder", misbehaviour.reorder, bits, 48, trade):
            self._held, self._wait = trade, misbehaviour.reorder_distance + 1
            return
        sent.append(trade)
        if self._falls("duplicate", misbehaviour.duplicate, bits, 32, trade):
            sent.append(trade)

    def _falls(self, kind: DeedKind, probability: float, bits: int, shift: int, trade: Trade) -> bool:
        if (bits >> shift & 0xFFFF) >= probability * 0x10000:
            return False
        self._record.add(kind, self._symbol, trade.id)
        return True
