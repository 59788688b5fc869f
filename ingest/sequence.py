"""Which trade ids of contiguous sources are missing. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from app.market.model import InstrumentId, Tick


class Hole(NamedTuple):
    """Trade ids `from_id`..`to_id`, both inclusive, were skipped between two ticks of these times."""

    instrument_id: InstrumentId
    from_id: int
    to_id: int
    from_time_us: int
    to_time_us: int


class Sequence:
    """Follows the trade ids of instruments whose ids are contiguous; others are not looked at.

    Bounded by the number of instruments. Ids at or below the last one are late or repeated, and open no hole.
    """

    def __init__(self, last: Mapping[InstrumentId, tuple[int, int] | None]) -> None:
        """`last` holds the last stored (trade_id, time_us) of contiguous instruments, None where one has no ticks."""
        self._last = dict(last)

    def follow(self, last: Mapping[InstrumentId, tuple[int, int] | None]) -> None:
        """Follow more instruments, from where they stand."""
        self._last |= last

    def forget(self, instruments: Iterable[InstrumentId]) -> None:
        for instrument_id in instruments:
            self._last.pop(instrument_id, None)

    def observe(self, ticks: Iterable[Tick]) -> tuple[list[Hole], bool]:
        """The holes that these ticks, in order of arrival, jump over; and whether any of them came late."""
        holes: list[Hole] = []
        late = False
        last = self._last
        for tick in ticks:
            instrument_id = tick.instrument_id
            if instrument_id not in last:
                continue
            before = last[instrument_id]
            if before is None:
                last[instrument_id] = (tick.trade_id, tick.time_us)
                continue
            expected = before[0] + 1
            if tick.trade_id < expected:
                late = True
                continue
            if tick.trade_id > expected:
                holes.append(Hole(instrument_id, expected, tick.trade_id - 1, before[1], tick.time_us))
            last[instrument_id] = (tick.trade_id, tick.time_us)
        return holes, late
