"""What a market prints: trades in the order of their ids, computed (`Market`) or read from a file (`Replay`)."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Protocol

import msgspec

from app.market.model import InstrumentId, Tick
from ingest.simulator.listing import Listing

FOREVER = 2**63 - 1
HISTORY_BATCH = 4096


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade: time in microseconds since 1970 UTC, price and size as the plain digits that go on the wire."""

    id: int
    time_us: int
    price: str
    size: str
    buyer_is_maker: bool

    def tick(self, instrument_id: InstrumentId) -> Tick:
        """The same trade as ingest stores it, to the digit."""
        price, size = Decimal(self.price), Decimal(self.size)
        return Tick(instrument_id, self.id, self.time_us, price, size, self.buyer_is_maker)


class Tape(Protocol):
    """A market's trades, readable from any id. Times are the market's own and never fall as ids rise.

    Not for use from two threads at once; two tapes made from the same arguments are equal, so make one for each.
    """

    @property
    def listing(self) -> Listing: ...

    @property
    def pace(self) -> float:
        """How many of the market's seconds pass in one second of the clock."""

    def begin(self, clock_us: int) -> None:
        """Somebody wants the trades from now on: a tape that waits for that starts, any other goes on."""

    def now_us(self, clock_us: int) -> int:
        """The market's time when the clock shows `clock_us`."""

    def trade(self, trade_id: int) -> Trade:
        """The trade of that id; LookupError where there is none."""

    def trades(self, from_id: int, limit: int, until_us: int = FOREVER) -> list[Trade]:
        """At most `limit` trades, ascending, from `from_id` (inclusive), not later than `until_us` (inclusive)."""

    def before(self, trade_id: int, limit: int) -> list[Trade]:
        """The `limit` trades next below an id (exclusive), whether they have happened or not, ascending."""

    def latest(self, limit: int, until_us: int) -> list[Trade]:
        """The newest `limit` trades not later than `until_us`, ascending."""

    def id_at(self, time_us: int) -> int:
        """The id of the first trade at or after a time; past the end of a tape the id after its last."""

    def time_of(self, from_id: int) -> int | None:
        """The time of the first trade from that id, or None when the tape is over."""


def history(tape: Tape, instrument_id: InstrumentId, from_id: int, to_id: int) -> Iterator[Tick]:
    """The ticks of ids `from_id` to `to_id` (exclusive), exactly as the exchange sends them under the same ids."""
    while from_id < to_id and (trades := tape.trades(from_id, min(HISTORY_BATCH, to_id - from_id))):
        for trade in trades:
            if trade.id >= to_id:
                return
            yield trade.tick(instrument_id)
        from_id = trades[-1].id + 1
