"""LISTEN, and catching up: every tick that is committed reaches the hub once, in order, across lost connections.

The table is the truth, and NOTIFY carries the data for speed. On every connect: LISTEN first, then read what the table holds
above the last id of each instrument that somebody watches, then go live, dropping what is known already.
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
CHECK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.25
SLACK: Final = timedelta(minutes=1)
"""How far the time of a tick may lie before that of a tick with a lower id; later ones are late, and correct candles."""

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
        self._repeated_until: dict[InstrumentId, int] = {}

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
            self.reconnects += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, conn: AsyncConnection[Any]) -> None:
        await conn.execute("LISTEN ticks; LISTEN corrections; LISTEN instruments")
        await self._load_instruments(conn)
        await self._catch_up(conn)
        self._hub.reread()
        self.live.set()
        _log.info("listener live", instruments=len(self._registry.all))
        while True:
            async for notification in conn.notifies(timeout=CHECK_SECONDS):
                await self._take(conn, notification)
            # Nothing for a while: is the server still there?
            await conn.execute("SELECT 1")

    async def _take(self, conn: AsyncConnection[Any], notification: psycopg.Notify) -> None:
        match notification.channel:
            case "ticks":
                self._publish(_ticks.decode(notification.payload))
            case "corrections":
                for instrument_id, start_us, end_us in _ranges.decode(notification.payload):
                    self._hub.touch(instrument_id, from_micros(start_us), from_micros(end_us))
            case "instruments":
                await self._load_instruments(conn)

    def _publish(self, ticks: list[Tick]) -> None:
        # Notifications that were under way while we read the table repeat what it held; later ones cannot.
        repeated = bool(self._repeated_until) and any(
            tick.trade_id <= self._repeated_until.get(tick.instrument_id, -1) for tick in ticks
        )
        if not repeated:
            self._repeated_until.clear()
        self._hub.publish(ticks, repeated=repeated)

    async def _load_instruments(self, conn: AsyncConnection[Any]) -> None:
        self._registry.replace(await store.instruments(conn))

    async def _catch_up(self, conn: AsyncConnection[Any]) -> None:
        hub = self._hub
        cursor = await conn.execute(_QUERIES["last_ids"])
        newest = {instrument_id: last_id for instrument_id, last_id in await cursor.fetchall() if last_id is not None}
        for instrument_id in hub.watched:
            if instrument_id in newest:
                await self._replay(conn, instrument_id)
        for instrument_id, last_id in newest.items():
            if last_id > hub.last.get(instrument_id, (-1, 0))[0]:
                # Nobody watches it: only where it stands matters.
                tick = await self._last_tick(conn, instrument_id)
                hub.last[instrument_id] = (last_id, tick)
        self._repeated_until = {instrument_id: last_id for instrument_id, (last_id, _) in hub.last.items()}

    async def _replay(self, conn: AsyncConnection[Any], instrument_id: InstrumentId) -> None:
        last_id, time_us = self._hub.last.get(instrument_id, (store.NO_ID, 0))
        place = store.Place(max(store.ALWAYS, from_micros(time_us) - SLACK), store.NO_ID)
        while True:
            values = {
                **place._asdict(),
                "instrument_id": instrument_id,
                "after_id": last_id,
                "end": store.NEVER,
                "limit": PAGE,
            }
            cursor = await conn.execute(_QUERIES["ticks_after"], values)
            ticks = [
                Tick(instrument_id, trade_id, to_micros(time), price, size, maker)
                for trade_id, time, price, size, maker in await cursor.fetchall()
            ]
            if not ticks:
                return
            self._hub.publish(ticks)
            place = store.Place(ticks[-1].time, ticks[-1].trade_id)
            if len(ticks) < PAGE:
                return
            await asyncio.sleep(0)

    async def _last_tick(self, conn: AsyncConnection[Any], instrument_id: InstrumentId) -> int:
        cursor = await conn.execute(_QUERIES["last_tick"], {"instrument_id": instrument_id, "at": store.NEVER})
        row = await cursor.fetchone()
        return to_micros(row[1]) if row else 0
