"""LISTEN, and catching up: every tick that is committed reaches the hub once, in order, across lost connections.

The table is the truth, and NOTIFY carries the data for speed. On every connect: LISTEN first, then read what the table
holds above the last id of each instrument that somebody watches, then go live, dropping what is known already.
"""

import asyncio
from datetime import timedelta
from typing import Any, Final

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection

import sql as queries
from app import db
from app.errors import DatabaseUnavailable
from app.market import store
from app.market.model import InstrumentId, Tick, from_micros, to_micros
from app.market.registry import Registry
from app.stream.hub import Hub

PAGE: Final = 5_000
PAGE_PAUSE: Final = 0.02
"""For the hub to hand out a page before the next; clients that cannot follow get a gap to resume from."""
CHECK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.25
SLACK: Final = timedelta(minutes=1)
"""How far the time of a tick may lie before that of a tick with a lower id, for catching up to find it."""

_QUERIES: Final = queries.load("market")
_ticks: Final = msgspec.json.Decoder(list[Tick])
_ranges: Final = msgspec.json.Decoder(list[tuple[InstrumentId, int, int]])
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
        await conn.execute("LISTEN ticks; LISTEN corrections; LISTEN instruments; LISTEN caught_up")
        instruments = await store.instruments(conn)
        await self._catch_up(conn)
        # Only now: a client that finds a new instrument finds its last id known, too.
        self._registry.replace(instruments)
        # Notifications come in the order of commits: whatever precedes our own was stored before we had read the table.
        await conn.execute("NOTIFY caught_up")
        while True:
            # Read in full before any is handled: the connection is locked meanwhile, and handling may query.
            received = [notification async for notification in conn.notifies(timeout=CHECK_SECONDS, stop_after=1)]
            for notification in received:
                self._take(notification, conn.info.backend_pid)
            if any(notification.channel == "instruments" for notification in received):
                self._registry.replace(await store.instruments(conn))
            if not received:
                # Nothing for a while: is the server still there?
                await conn.execute("SELECT 1")

    def _take(self, notification: psycopg.Notify, own_pid: int) -> None:
        try:
            match notification.channel:
                case "ticks":
                    self._hub.publish(_ticks.decode(notification.payload), repeated=not self.live.is_set())
                case "corrections":
                    for instrument_id, start_us, end_us in _ranges.decode(notification.payload):
                        self._hub.touch(instrument_id, from_micros(start_us), from_micros(end_us))
                case "caught_up" if notification.pid == own_pid:
                    self._hub.go_live()
                    self.live.set()
                    _log.info("listener live", instruments=len(self._registry.all))
        except msgspec.DecodeError as error:
            # Every role of the database may NOTIFY.
            _log.warning("notification not understood", channel=notification.channel, reason=str(error))

    async def _catch_up(self, conn: AsyncConnection[Any]) -> None:
        hub = self._hub
        cursor = await conn.execute(_QUERIES["last_ids"])
        newest = {instrument_id: last_id for instrument_id, last_id in await cursor.fetchall() if last_id is not None}
        behind = [instrument_id for instrument_id, last_id in newest.items() if last_id > hub.last_id(instrument_id)]
        for instrument_id in sorted(behind, key=hub.watches, reverse=True):
            if not hub.watches(instrument_id):
                time_us = await self._last_time(conn, instrument_id)
                if not hub.watches(instrument_id):
                    # Still nobody: only where it stands matters.
                    hub.last[instrument_id] = (newest[instrument_id], time_us)
                    continue
            await self._replay(conn, instrument_id)

    async def _replay(self, conn: AsyncConnection[Any], instrument_id: InstrumentId) -> None:
        last_id, time_us = self._hub.last.get(instrument_id, (store.NO_ID, 0))
        place = store.Place(max(store.ALWAYS, from_micros(time_us) - SLACK), store.NO_ID)
        while ticks := await self._page(conn, instrument_id, place, last_id):
            place = store.Place(ticks[-1].time, ticks[-1].trade_id)
            self._hub.publish(sorted(ticks, key=lambda tick: tick.trade_id))
            if len(ticks) < PAGE:
                return
            await asyncio.sleep(PAGE_PAUSE)

    async def _page(
        self, conn: AsyncConnection[Any], instrument_id: InstrumentId, place: store.Place, last_id: int
    ) -> list[Tick]:
        """Ticks after a place and above an id, ascending by time."""
        values = {"instrument_id": instrument_id, "after_id": last_id, "end": store.NEVER, "limit": PAGE}
        cursor = await conn.execute(_QUERIES["ticks_after"], {**values, **place._asdict()})
        return [
            Tick(instrument_id, trade_id, to_micros(time), price, size, maker)
            for trade_id, time, price, size, maker in await cursor.fetchall()
        ]

    async def _last_time(self, conn: AsyncConnection[Any], instrument_id: InstrumentId) -> int:
        cursor = await conn.execute(_QUERIES["last_tick"], {"instrument_id": instrument_id, "at": store.NEVER})
        row = await cursor.fetchone()
        return to_micros(row[1]) if row else 0
