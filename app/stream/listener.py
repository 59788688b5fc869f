"""LISTEN, and catching up: every tick that is committed reaches the hub once, in order, across lost connections.

The table is the truth, and NOTIFY carries the data for speed. On every connect: LISTEN first, then read what the table
holds above the last id of each instrument that somebody watches, then go live, dropping what is known already.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market import store, tickers
from app.market.model import (
    MAX_TIME_US,
    MICROSECOND,
    Instrument,
    InstrumentId,
    Tick,
    from_micros,
    tick_problem,
    to_micros,
)
from app.market.registry import Registry
from app.stream.hub import Hub

PAGE: Final = 5_000
PAGE_PAUSE: Final = 0.02
"""For the hub to hand out a page before the next; clients that cannot follow get a gap to resume from."""
CHECK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.25
SLACK: Final = timedelta(minutes=1)
"""How far the time of a tick may lie before that of a tick with a lower id, for catching up to find it."""
LEAP: Final = 10_000_000
"""How far ahead of the last known id a notified tick is believed without asking the table."""

_QUERIES: Final = queries.load("market")
_TimeUs = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TIME_US)]
_ticks: Final = msgspec.json.Decoder(list[Tick])
_ranges: Final = msgspec.json.Decoder(list[tuple[InstrumentId, _TimeUs, _TimeUs]])
_gaps: Final = msgspec.json.Decoder(
    list[tuple[InstrumentId, int, int, _TimeUs, _TimeUs, Literal["filled", "unfillable"]]]
)
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
_NEW: Final = (-LEAP - 1, 0)
"""What stands for the last tick of an instrument that has none: whatever comes is a leap."""
_log = structlog.get_logger()


class Listener:
    """Feeds the hub and the registry from one connection of its own; reconnects for ever."""

    def __init__(self, dsn: str, hub: Hub, registry: Registry) -> None:
        self.live = asyncio.Event()
        """Set while the listener is connected and has caught up."""
        self.reconnects = 0
        self._dsn = dsn
        self._hub = hub
        self._registry = registry

    async def run(self) -> None:
        """Listen until cancelled. Raises DatabaseRefused when the server turns us away."""
        while True:
            try:
                async with await db.connect(self._dsn, "tickwick listener") as conn:
                    with db.translated():
                        await self._listen(conn)
            except DatabaseUnavailable as error:
                if self.live.is_set():
                    _log.warning("listener lost the database", reason=str(error))
                self.live.clear()
                self._hub.lose_feed()
            self.reconnects += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, conn: AsyncConnection[Any]) -> None:
        await conn.execute("LISTEN ticks; LISTEN corrections; LISTEN gaps; LISTEN instruments; LISTEN caught_up")
        instruments = await store.instruments(conn)
        await self._catch_up(conn, instruments)
        # Only now: a client that finds a new instrument finds its last id known, too.
        self._registry.replace(instruments)
        # Notifications come in the order of commits: whatever precedes our own was stored before we had read the table.
        await conn.execute("NOTIFY caught_up")
        while True:
            # Read in full before any is handled: the connection is locked meanwhile, and handling may query.
            received = [notification async for notification in conn.notifies(timeout=CHECK_SECONDS, stop_after=1)]
            for notification in received:
                await self._take(conn, notification)
            if any(notification.channel == "instruments" for notification in received):
                self._registry.replace(await store.instruments(conn))
            if not received:
                # Nothing for a while: is the server still there?
                await conn.execute("SELECT 1")

    async def _take(self, conn: AsyncConnection[Any], notification: psycopg.Notify) -> None:
        """Every role of the database may NOTIFY anything: what cannot be is dropped, with a warning."""
        try:
            match notification.channel:
                case "ticks":
                    ticks = _ticks.decode(notification.payload)
                    _check(ticks)
                    await self._check_leaps(conn, ticks)
                    self._hub.publish(ticks, repeated=not self.live.is_set())
                case "corrections":
                    for instrument_id, start_us, end_us in _ranges.decode(notification.payload):
                        self._hub.touch(instrument_id, from_micros(start_us), from_micros(end_us))
                case "gaps":
                    # What is unfillable stays as it was told: missing, and its candles incomplete.
                    for instrument_id, _, _, start_us, end_us, state in _gaps.decode(notification.payload):
                        if state == "filled":
                            self._hub.doubt(instrument_id)
                            self._hub.touch(instrument_id, from_micros(start_us), from_micros(end_us))
                case "caught_up" if notification.pid == conn.info.backend_pid:
                    self._hub.go_live()
                    self.live.set()
                    _log.info("listener live", instruments=len(self._registry.all))
        except _UNREADABLE as error:
            _log.warning("notification dropped", channel=notification.channel, reason=str(error)[:200])

    async def _check_leaps(self, conn: AsyncConnection[Any], ticks: list[Tick]) -> None:
        """Raises ValueError where an instrument is new, or an id far ahead, and the table has no such tick.

        A forged id would otherwise make every true one after it look late.
        """
        last = self._hub.last
        leaps = {t.instrument_id: t for t in ticks if t.trade_id > last.get(t.instrument_id, _NEW)[0] + LEAP}
        for instrument_id, tick in leaps.items():
            place = store.Place(tick.time, tick.trade_id - 1)
            if not await self._page(conn, instrument_id, place, place.trade_id, 1, tick.time + MICROSECOND):
                raise ValueError(f"instrument {instrument_id} has no tick {tick.trade_id}")

    async def _catch_up(self, conn: AsyncConnection[Any], instruments: Sequence[Instrument]) -> None:
        hub = self._hub
        cursor = await conn.execute(_QUERIES["last_ids"])
        newest = {instrument_id: last_id for instrument_id, last_id in await cursor.fetchall() if last_id is not None}
        behind = {instrument_id for instrument_id, last_id in newest.items() if last_id > hub.last_id(instrument_id)}
        idle = [one for one in instruments if one.id in behind and not hub.watches(one.id)]
        last = await tickers.last_trades(conn, idle)
        for instrument_id in sorted(behind, key=hub.watches, reverse=True):
            if instrument_id in last and not hub.watches(instrument_id):
                # Still nobody: only where it stands matters.
                hub.last[instrument_id] = (newest[instrument_id], to_micros(last[instrument_id].time))
            else:
                await self._replay(conn, instrument_id)

    async def _replay(self, conn: AsyncConnection[Any], instrument_id: InstrumentId) -> None:
        last_id, time_us = self._hub.last.get(instrument_id, (store.NO_ID, 0))
        place = store.Place(max(store.ALWAYS, from_micros(time_us) - SLACK), store.NO_ID)
        while ticks := await self._page(conn, instrument_id, place, last_id, PAGE):
            place = store.Place(ticks[-1].time, ticks[-1].trade_id)
            self._hub.publish(sorted(ticks, key=lambda tick: tick.trade_id))
            if len(ticks) < PAGE:
                return
            await asyncio.sleep(PAGE_PAUSE)

    async def _page(
        self,
        conn: AsyncConnection[Any],
        instrument_id: InstrumentId,
        place: store.Place,
        last_id: int,
        limit: int,
        end: datetime = store.NEVER,
    ) -> list[Tick]:
        """Ticks after a place, before a time and above an id, ascending by time."""
        values = {"instrument_id": instrument_id, "after_id": last_id, "end": end, "limit": limit}
        cursor = await conn.execute(_QUERIES["ticks_after"], {**values, **place._asdict()})
        return [
            Tick(instrument_id, trade_id, to_micros(time), price, size, maker)
            for trade_id, time, price, size, maker in await cursor.fetchall()
        ]


def _check(ticks: list[Tick]) -> None:
    """Raises ValueError where ticks could not have been stored, or are not in the order that they are notified in."""
    for tick in ticks:
        if problem := tick_problem(tick):
            raise ValueError(problem)
        if not 0 < tick.instrument_id < 2**31:
            raise ValueError("instrument_id is not between 1 and 2^31 - 1")
    if any((a.instrument_id, a.trade_id) > (b.instrument_id, b.trade_id) for a, b in pairwise(ticks)):
        raise ValueError("trade ids do not ascend")
