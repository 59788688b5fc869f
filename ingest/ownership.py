"""Who writes what: each tracked instrument has one owner among the ingesters of its source, spread evenly.

Ownership is an advisory lock of the session that writes: who loses the session, by death, a cut network or a stall,
loses both at once, and the others take over at their next look.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import args_row

import sql as queries
from app.market.model import Feed, Instrument, InstrumentId

_QUERIES: Final = queries.load("ownership")


SILENCE_SECONDS: Final = 3.0
"""After which the server ends the session of who looks, or works, every second."""


async def guard(conn: AsyncConnection[Any], seconds: float = SILENCE_SECONDS) -> None:
    """Have the server end a session, and with it its locks, once it has been silent for so long.

    What counts is time without a statement: who stalls in the middle of a COPY is ended by its peers.
    """
    await conn.execute(_QUERIES["guard_session"], {"limit": f"{round(seconds * 1000)}ms"})


class Look(NamedTuple):
    """`keep` is ours to follow; `surplus` is ours still, but to be released: no longer tracked, or beyond our share."""

    keep: dict[InstrumentId, Instrument]
    surplus: frozenset[InstrumentId]


def share_of(instruments: int, members: Sequence[int], me: int) -> int:
    """How many instruments one of the members, given in an order that all agree on, is to own."""
    base, extra = divmod(instruments, len(members))
    return base + (members.index(me) < extra)


class Ownership:
    """The locks of one connection on the instruments of a source and feed; other ingesters of the two are its peers."""

    def __init__(
        self, conn: AsyncConnection[Any], source: str, feed: Feed, preferred: Collection[InstrumentId] = ()
    ) -> None:
        """`preferred` were ours before: the first look takes no others, lest all reconnecting peers swap theirs."""
        self._conn = conn
        self._who = {"source": source, "feed": feed}
        self._preferred = set(preferred)
        self._owned: set[InstrumentId] = set()

    async def join(self) -> None:
        """Become a member among the peers; from here on, to fall silent is to lose everything."""
        await guard(self._conn)
        await self._conn.execute(_QUERIES["join_ingesters"], self._who)

    async def look(self) -> Look:
        """Take what is free as far as our share goes, and tell what is ours. To be called every second."""
        members = await self._members()
        if len(members) > 1:
            await self._conn.execute(_QUERIES["end_stalled"], {"pids": members})
        async with self._conn.cursor(row_factory=args_row(Instrument)) as cursor:
            await cursor.execute(_QUERIES["tracked_instruments"], self._who)
            tracked = {instrument.id: instrument for instrument in await cursor.fetchall()}
        share = share_of(len(tracked), members, self._conn.info.backend_pid)
        keep = sorted(self._owned & tracked.keys())[:share]
        keep += await self._take(await self._free(tracked), share - len(keep))
        self._owned |= set(keep)
        return Look({instrument_id: tracked[instrument_id] for instrument_id in keep}, frozenset(self._owned - {*keep}))

    async def release(self, surplus: Collection[InstrumentId]) -> None:
        """Give up instruments, all of whose ticks are stored."""
        await self._conn.execute(_QUERIES["unlock_instruments"], {"ids": sorted(surplus)})
        self._owned -= set(surplus)

    async def _members(self) -> list[int]:
        cursor = await self._conn.execute(_QUERIES["ingesters"], self._who)
        return [pid for (pid,) in await cursor.fetchall()]

    async def _free(self, tracked: Collection[InstrumentId]) -> list[InstrumentId]:
        cursor = await self._conn.execute(_QUERIES["locked_instruments"])
        locked = {instrument_id for (instrument_id,) in await cursor.fetchall()}
        wanted = self._preferred & set(tracked) if self._preferred else set(tracked)
        self._preferred.clear()
        return sorted(wanted - locked)

    async def _take(self, free: Sequence[InstrumentId], most: int) -> list[InstrumentId]:
        if most <= 0 or not free:
            return []
        cursor = await self._conn.execute(_QUERIES["lock_instruments"], {"ids": free[:most]})
        return [InstrumentId(instrument_id) for (instrument_id,) in await cursor.fetchall()]
