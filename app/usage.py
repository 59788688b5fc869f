"""What each address has used of a limit, counted in the database, so that a limit holds over all processes."""

import asyncio
from datetime import datetime
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final, NamedTuple

import structlog
from psycopg import AsyncConnection

import sql
from app.db import Pool, translated
from app.errors import DatabaseRefused, DatabaseUnavailable

_QUERIES: Final = sql.load("usage")
_MOST: Final = 64
TIDY_SECONDS: Final = 60.0
_log = structlog.get_logger()


class Usage(NamedTuple):
    """What was used of a limit in the current window, the latest cost included; whole seconds until the next begins."""

    used: int
    seconds_left: int


async def spend(
    conn: AsyncConnection[Any],
    limit: str,
    subject: str,
    cost: int,
    window_seconds: int,
    *,
    at: datetime | None = None,
) -> Usage:
    """Add a cost to what a subject has used of a limit, and answer the sum.

    Windows are aligned to the epoch by the database's clock, unless `at` tells the time. Addresses of IPv6 count as one
    where their first 64 bits agree, since a host has all of those; other subjects where their first 64 characters do.
    """
    values = {
        "limit": limit,
        "subject": _network(subject) or _storable(subject),
        "cost": cost,
        "window_seconds": window_seconds,
        "at": at,
    }
    row = await (await conn.execute(_QUERIES["spend"], values)).fetchone()
    assert row is not None  # the statement inserts or updates
    return Usage(*row)


async def forget(conn: AsyncConnection[Any]) -> None:
    """Delete what was used in windows that are over: without it, the table keeps a row of every subject it ever saw."""
    await conn.execute(_QUERIES["forget"])


async def tidy_for_ever(pool: Pool) -> None:
    """Keep the table small, until cancelled."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        try:
            with translated():
                async with pool.connection() as conn:
                    await forget(conn)
        except (DatabaseUnavailable, DatabaseRefused) as error:
            _log.warning("usage not tidied", reason=str(error))


def _network(subject: str) -> str | None:
    """The /64 of an address of IPv6, or the IPv4 address that it stands for; None where it is none."""
    try:
        address = IPv6Address(subject)
    except ValueError:
        return None
    return str(address.ipv4_mapped or IPv6Network((int(address), 64), strict=False))


def _storable(subject: str) -> str:
    """Without what PostgreSQL takes for no text: NUL, and halves of surrogate pairs."""
    return "".join(filter(str.isprintable, subject[:_MOST]))
