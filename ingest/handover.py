"""Merging two connections that carry the same ticks, while one takes over from the other. Pure: no I/O, no clock."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from app.market.model import InstrumentId, Tick

MAX_HELD = 100_000
"""Held ticks beyond which order is given up for memory."""

Push = Callable[[Sequence[Tick]], bool]


class Handover:
    """Pushes each tick of the old and the new connection once and, per instrument, in order.

    The new connection starts somewhere in the middle: its ticks of an instrument are held until the old one has
    reached the first of them; from then on the two are level and whichever brings a tick first is heard. `complete` is
    called once when that is so for all `instruments`: the old connection will bring nothing that the new one does not.
    `finish` ends the holding for good, when the overlap has lasted long enough or a connection ended; it also happens
    by itself when more than `MAX_HELD` ticks are held. After `retire_old` the new connection's ticks pass straight
    through, but for those that the old one was faster with. With `hold=False` nothing is ever held: for an old
    connection that fell silent and is not expected to bring anything.

    Ticks are told apart by instrument and trade id; the ids of the overlap are remembered, so it should be short.
    """

    def __init__(
        self, push: Push, instruments: Collection[InstrumentId], complete: Callable[[], None], *, hold: bool = True
    ) -> None:
        self._push = push
        self._awaited = set(instruments)
        self._complete = complete
        self._holding = hold
        self._level: set[InstrumentId] = set()
        self._held: dict[InstrumentId, list[Tick]] = {}
        self._held_count = 0
        self._reached: dict[InstrumentId, int] = {}
        self._pushed: defaultdict[InstrumentId, set[int]] = defaultdict(set)
        self._alone = False

    def from_old(self, ticks: Sequence[Tick]) -> bool:
        fresh: list[Tick] = []
        for tick in ticks:
            instrument = tick.instrument_id
            self._add(fresh, tick)
            self._reached[instrument] = max(tick.trade_id, self._reached.get(instrument, tick.trade_id))
            held = self._held.get(instrument)
            if held and held[0].trade_id <= tick.trade_id:
                self._make_level(instrument, fresh)
        return self._deliver(fresh)

    def from_new(self, ticks: Sequence[Tick]) -> bool:
        if self._alone:
            return self._deliver([tick for tick in ticks if self._is_new(tick)] if self._pushed else ticks)
        fresh: list[Tick] = []
        for tick in ticks:
            instrument = tick.instrument_id
            if instrument in self._level or not self._holding:
                self._add(fresh, tick)
                continue
            self._held.setdefault(instrument, []).append(tick)
            self._held_count += 1
            if tick.trade_id <= self._reached.get(instrument, -1):
                self._make_level(instrument, fresh)
        delivered = self._deliver(fresh)
        return self.finish() if self._held_count > MAX_HELD else delivered

    def finish(self) -> bool:
        self._holding = False
        fresh: list[Tick] = []
        for instrument in list(self._held):
            self._make_level(instrument, fresh)
        return self._deliver(fresh)

    def retire_old(self) -> None:
        """The old connection is closed."""
        self.finish()
        self._alone = True

    def _is_new(self, tick: Tick) -> bool:
        instrument = tick.instrument_id
        if tick.trade_id > self._reached.get(instrument, -1):
            self._pushed.pop(instrument, None)
            return True
        return instrument not in self._pushed or tick.trade_id not in self._pushed[instrument]

    def _make_level(self, instrument: InstrumentId, fresh: list[Tick]) -> None:
        self._level.add(instrument)
        held = self._held.pop(instrument, [])
        self._held_count -= len(held)
        for tick in held:
            self._add(fresh, tick)

    def _add(self, fresh: list[Tick], tick: Tick) -> None:
        pushed = self._pushed[tick.instrument_id]
        if tick.trade_id not in pushed:
            pushed.add(tick.trade_id)
            fresh.append(tick)

    def _deliver(self, fresh: Sequence[Tick]) -> bool:
        has_room = self._push(fresh) if fresh else True
        if self._awaited and self._awaited <= self._level:
            self._awaited.clear()
            self._complete()
        return has_room
