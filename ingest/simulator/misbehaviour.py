"""How the exchange can be made to fail, and what a failing feed sends in place of the true trades.

Every choice is a function of the seed and the trade's id, so that a failing run can be repeated whatever its timing.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from ingest.simulator.listing import digest
from ingest.simulator.market import mix
from ingest.simulator.tape import Trade

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
DeedKind = Literal["skip", "duplicate", "reorder", "garbage"]
LOG_LENGTH = 100_000

GARBAGE = (
    b"not json at all",
    b'{"e":"trade","E":17',
    b"[]",
    b"null",
    b'{"e":"trade"}',
    b'{"e":"trade","E":0,"s":"NOSUCHSYMBOL","t":1,"p":"1","q":"1","T":0,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":"x","p":"1","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"NaN","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"1e400","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"-1","q":"1","T":1700000000000,"m":true,"M":true}',
    b'{"e":"trade","E":0,"s":"%s","t":1,"p":"1","q":"1","T":99999999999999999999,"m":true,"M":true}',
)
"""Frames no parser may take for a trade: broken JSON, wrong shapes, an unknown symbol, impossible numbers."""


class Misbehaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the exchange does wrong until told otherwise; the default does nothing wrong. ValueError for what cannot be.

    `skip`, `duplicate`, `reorder` and `garbage` are probabilities for each trade: it is left out, sent twice, sent
    after `reorder_distance` later ones (one trade at a time), or preceded by a frame of garbage. A connection made
    from now on lives at most `max_connection_seconds` (0: for ever) and is told `notice_seconds` before its end.
    `weight_limit` is the request weight that a minute of REST allows.
    """

    skip: Probability = 0.0
    duplicate: Probability = 0.0
    reorder: Probability = 0.0
    garbage: Probability = 0.0
    reorder_distance: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    max_connection_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    notice_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    weight_limit: Annotated[int, msgspec.Meta(ge=0)] = 6000
    seed: int = 1

    def __post_init__(self) -> None:
        for field in ("skip", "duplicate", "reorder", "garbage"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is a probability, between 0 and 1")
        if self.reorder_distance < 1:
            raise ValueError("reorder_distance is at least 1")


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


class Distortion:
    """Turns a symbol's true trades, in order, into what is sent: trades, and bytes where garbage goes.

    One trade at a time is held back by `reorder`, possibly into a later batch.
    """

    def __init__(self, symbol: str, record: Record) -> None:
        self._symbol = symbol
        self._salt = digest(symbol)
        self._record = record
        self._held: Trade | None = None
        self._wait = 0

    def apply(self, trades: Sequence[Trade], misbehaviour: Misbehaviour) -> list[Trade | bytes]:
        if not self._held and not (
            misbehaviour.skip or misbehaviour.duplicate or misbehaviour.reorder or misbehaviour.garbage
        ):
            return list(trades)
        sent: list[Trade | bytes] = []
        for trade in trades:
            held = self._held
            self._send(trade, misbehaviour, sent)
            self._wait -= 1
            if held and self._wait == 0:
                sent.append(held)
                self._held = None
        return sent

    def _send(self, trade: Trade, misbehaviour: Misbehaviour, sent: list[Trade | bytes]) -> None:
        bits = mix(mix(misbehaviour.seed ^ self._salt) + trade.id)
        if self._falls("garbage", misbehaviour.garbage, bits, 0, trade):
            sent.append(GARBAGE[bits % len(GARBAGE)].replace(b"%s", self._symbol.encode()))
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
