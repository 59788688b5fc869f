"""The rows of `market.gaps`: what is missing of one, and its pieces as they fill or prove unfillable."""

from collections.abc import Collection, Iterable
from typing import Any, Final, Literal, NamedTuple

from psycopg import AsyncConnection

import sql as queries
from app.market.model import from_micros, to_micros
from ingest.sequence import Hole

MOST_ROWS: Final = 100
"""What a query below answers at most."""

_QUERIES: Final = queries.load("gaps")


class Absent(NamedTuple):
    """Ids that will never come, and why."""

    hole: Hole
    reason: str


class Piece(NamedTuple):
    hole: Hole
    state: Literal["open", "filled", "unfillable"]
    reason: str | None = None


def cut(gap: Hole, absent: Iterable[Absent], rest: Hole | None) -> list[Piece]:
    """The pieces of a gap, ascending: `rest`, its end, stays open; what is not absent before that has arrived."""
    pieces: list[Piece] = []
    filled = gap if rest is None else gap._replace(to_id=rest.from_id - 1, to_time_us=rest.from_time_us)
    for hole, reason in absent:
        if filled.from_id < hole.from_id:
            before = filled._replace(to_id=hole.from_id - 1, to_time_us=hole.to_time_us)
            pieces.append(Piece(before, "filled"))
        pieces.append(Piece(hole, "unfillable", reason))
        filled = filled._replace(from_id=hole.to_id + 1, from_time_us=hole.from_time_us)
    if filled.from_id <= filled.to_id:
        pieces.append(Piece(filled, "filled"))
    if rest is not None:
        pieces.append(Piece(rest, "open"))
    return pieces


async def missing(conn: AsyncConnection[Any], gap: Hole) -> list[Hole]:
    """The ids of a gap that have not arrived, nor are known never to, ascending; the first `MOST_ROWS` ranges."""
    return await _holes(conn, "missing_ids", gap_row(gap))


async def due(
    conn: AsyncConnection[Any],
    instrument_ids: Iterable[int],
    patience: float,
    postponed: Collection[tuple[int, int]] = (),
) -> list[Hole]:
    """Gaps of these instruments that have been open for `patience` seconds, the smallest first; `MOST_ROWS` at most.

    Those that are `postponed`, by instrument and first id, are left out.
    """
    values = {
        "instrument_ids": list(instrument_ids),
        "patience": f"{patience} seconds",
        "postponed": [instrument_id for instrument_id, _ in postponed],
        "postponed_ids": [from_id for _, from_id in postponed],
    }
    return await _holes(conn, "due_gaps", values)


async def open_between(conn: AsyncConnection[Any], wanted: Hole) -> list[Hole]:
    """Open gaps that touch a range of ids, the smallest first; `MOST_ROWS` at most."""
    return await _holes(conn, "open_gaps_between", gap_row(wanted))


async def open_span(conn: AsyncConnection[Any], instrument_id: int) -> Hole | None:
    """From the first to the last id of an instrument's open gaps; None where none is open."""
    found = await _holes(conn, "open_span", {"instrument_id": instrument_id})
    return found[0] if found else None


async def replace(conn: AsyncConnection[Any], gap: Hole, pieces: Iterable[Piece]) -> bool:
    """Put pieces in the place of an open gap; False where it was closed meanwhile. To be called in a transaction."""
    cursor = await conn.execute(_QUERIES["take_gap"], gap_row(gap))
    taken = await cursor.fetchone()
    if taken is None:
        return False
    rows = [
        {**gap_row(hole), "state": state, "reason": reason, "opened_at": taken[0]} for hole, state, reason in pieces
    ]
    async with conn.cursor() as inserting:
        await inserting.executemany(_QUERIES["put_gap"], rows)
    return True


async def _holes(conn: AsyncConnection[Any], query: str, values: dict[str, Any]) -> list[Hole]:
    cursor = await conn.execute(_QUERIES[query], values)
    return [Hole(i, a, b, to_micros(start), to_micros(end)) for i, a, b, start, end in await cursor.fetchall()]


def gap_row(hole: Hole) -> dict[str, Any]:
    """A hole as the parameters of the queries."""
    return {
        "instrument_id": hole.instrument_id,
        "from_id": hole.from_id,
        "to_id": hole.to_id,
        "from_time": from_micros(hole.from_time_us),
        "to_time": from_micros(hole.to_time_us),
    }
