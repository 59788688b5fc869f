"""Where one symbol is traded: its tape, the forms in which it is told, and how far it has been told."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from ingest.simulator.binance import frames as binance
from ingest.simulator.coinbase import frames as coinbase
from ingest.simulator.market import SECOND
from ingest.simulator.misbehaviour import Distortion, Misbehaviour, Record
from ingest.simulator.session import Sessions
from ingest.simulator.tape import Tape, Trade
from ingest.simulator.void import VoidedTape
from ingest.simulator.wire import SecondForm, Topic, TradeForm

log = structlog.get_logger()

BATCH = 2000
"""Trades generated and sent before other work gets its turn."""
SHORTEST_NAP = 0.002
LONGEST_NAP = 0.1
MAX_LAG = 60 * SECOND
"""After a longer pause (a suspended machine) the feed jumps to now, as a real one would have gone on without us."""


class Floor:
    """Sends a symbol's trades on the clock while somebody subscribes to it, from that moment on."""

    def __init__(
        self,
        tape: Tape,
        sessions: Sessions,
        record: Record,
        clock: Callable[[], int],
        misbehaviour: Callable[[], Misbehaviour],
    ) -> None:
        self.tape = VoidedTape(tape)
        self.symbol = tape.listing.symbol
        self._trades: dict[Topic, TradeForm] = {
            **binance.trade_forms(tape.listing),
            **coinbase.trade_forms(tape.listing),
        }
        self._seconds: dict[Topic, SecondForm] = {
            **binance.second_forms(self.tape),
            **coinbase.second_forms(self.tape),
        }
        self._sessions = sessions
        self._record = record
        self._clock = clock
        self._misbehaviour = misbehaviour
        self._distortion = Distortion(self.symbol, record)
        self._wanted = asyncio.Event()
        self._next_id = 0
        self._told_us = 0

    @property
    def topics(self) -> Sequence[Topic]:
        return (*self._trades, *self._seconds)

    @property
    def next_id(self) -> int:
        """The id that the next trade will have."""
        return self.tape.id_at(self._now() + 1)

    def last(self) -> Trade | None:
        """The trade before the one that is sent next."""
        found = self.tape.before(self._next_id if self._wanted.is_set() else self.next_id, 1)
        return found[0] if found else None

    def subscription_changed(self) -> None:
        if not any(self._sessions.wanted(topic) for topic in self.topics):
            self._wanted.clear()
        elif not self._wanted.is_set():
            clock_us = self._clock()
            self.tape.begin(clock_us)
            now = self.tape.now_us(clock_us)
            self._next_id, self._told_us = self.tape.id_at(now), now
            self._wanted.set()

    def jump(self) -> None:
        """Go on from now; what was traded since the last trade that was sent is left out."""
        now = self._now()
        self._next_id, self._told_us = max(self._next_id, self.tape.id_at(now)), now

    async def run(self) -> None:
        """Send what is due by the clock, again and again: late work is caught up with, so the rate never drifts."""
        while await self._wanted.wait():
            while self._wanted.is_set():
                await self._sessions.thawed()
                now = self._now()
                due = self.tape.time_of(self._next_id)
                if due is not None and now - due > MAX_LAG * self.tape.pace:
                    log.warning("exchange feed jumped", symbol=self.symbol, seconds=(now - due) // SECOND)
                    self.jump()
                if trades := self.tape.trades(self._next_id, BATCH, now):
                    self._next_id = trades[-1].id + 1
                    self._publish_trades(trades, now)
                if len(trades) == BATCH:
                    await asyncio.sleep(0)
                    continue
                self._publish_seconds(now)
                await asyncio.sleep(self._nap(now))

    def _now(self) -> int:
        return self.tape.now_us(self._clock())

    def _publish_trades(self, trades: Sequence[Trade], now_us: int) -> None:
        wanted = [(topic, form) for topic, form in self._trades.items() if self._sessions.wanted(topic)]
        if not wanted:
            return
        if self._sessions.silent:
            self._record.counters["silenced"] += len(trades)
            return
        sent = self._distortion.apply(trades, self._misbehaviour())
        self._record.counters["sent"] += len(sent)
        for topic, form in wanted:
            self._sessions.publish(topic, form.payloads(sent, now_us))

    def _publish_seconds(self, now_us: int) -> None:
        """What is told of the seconds that ended since the last time."""
        since, self._told_us = self._told_us, now_us
        if since // SECOND == now_us // SECOND:
            return
        for topic, form in self._seconds.items():
            if self._sessions.wanted(topic):
                self._sessions.publish(topic, form(since, now_us))

    def _nap(self, now_us: int) -> float:
        """Seconds until the next trade or the end of this second, whichever comes first."""
        due = (now_us // SECOND + 1) * SECOND
        if (trade := self.tape.time_of(self._next_id)) is not None:
            due = min(due, trade)
        return min(LONGEST_NAP, max(SHORTEST_NAP, (due - now_us) / self.tape.pace / SECOND))
