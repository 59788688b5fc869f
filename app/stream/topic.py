"""What all topics have in common: who listens, who has yet to be told, and whether the past is being read. No I/O."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeVar

from app.market.model import Instrument, Tick
from app.stream.form import Form
from app.stream.subscriber import Outlet, Subscriber

MAX_WAITING: Final = 50_000
_State = TypeVar("_State")


class Beat(NamedTuple):
    """The seconds of the clock at the flush before and at this one: what is told at a pace is told when they turn."""

    before: int
    now: int

    @property
    def turned(self) -> bool:
        return self.before != self.now

    def falls_on(self, pace: int) -> bool:
        """Whether a form of this pace tells now. One that was overslept is made up for."""
        return pace == 0 or self.before // pace != self.now // pace


NO_BEAT: Final = Beat(0, 0)
"""Of a flush between two beats."""


class Topic:
    """Common to all: who listens, and who is about to; both keep the topic alive."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.audiences: dict[Form, set[Outlet]] = {}
        self.joining: set[Outlet] = set()

    def admit(self, outlet: Outlet) -> None:
        self.audiences.setdefault(outlet.form, set()).add(outlet)

    def dismiss(self, outlet: Outlet) -> None:
        if audience := self.audiences.get(outlet.form):
            audience.discard(outlet)
            if not audience:
                del self.audiences[outlet.form]

    @property
    def subscribers(self) -> set[Subscriber]:
        return {outlet.subscriber for outlet in chain(*self.audiences.values())}


class ReadingTopic(Topic):
    """A topic whose state is read from the database, and of which each form tells the newest at its own pace."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self.reading = Reading()
        self._untold: set[Form] = set()
        """To whom the newest has yet to be told."""
        self._known = -1
        """The last trade id that the reading held, which may be ahead of what was notified."""

    def _unknown(self, ticks: Sequence[Tick]) -> Sequence[Tick]:
        """Of ascending ticks, those that the reading did not hold. What is committed is read, told or not."""
        if ticks and ticks[0].trade_id <= self._known:
            return [tick for tick in ticks if tick.trade_id > self._known]
        return ticks

    def _change(self) -> None:
        self._untold.update(self.audiences)

    def _take_due(self, beat: Beat) -> list[Form]:
        """The forms to tell now, which then count as told."""
        self._untold &= self.audiences.keys()
        due = [form for form in self._untold if beat.falls_on(form.pace)]
        self._untold.difference_update(due)
        return due


class Reading:
    """Whether a topic's state must be read from the database, and the ticks that wait while it is read."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.needed = True
        self.waiting: list[Tick] | None = []
        """Ticks to apply above the last id that was read; None while the topic is live."""
        self.overrun = False
        """More ticks came than may wait: what was read is too old to go on from."""

    @property
    def due(self) -> bool:
        return self.needed or self.waiting is not None

    def begin(self) -> None:
        """What came before this moment will be found by reading."""
        self.needed = self.overrun = False
        self.waiting = []

    async def fetch(self, read: Callable[[], Awaitable[_State]]) -> _State:
        """What `read` answers, in time for the ticks since to be at hand."""
        while True:
            self.begin()
            state = await read()
            if not self.overrun:
                return state

    def wait(self, ticks: Iterable[Tick]) -> None:
        assert self.waiting is not None
        self.waiting.extend(ticks)
        if len(self.waiting) > MAX_WAITING:
            self.waiting.clear()
            self.overrun = True

    def finish(self) -> list[Tick]:
        """The ticks that waited; the topic is live."""
        waiting, self.waiting = self.waiting, None
        return waiting or []
