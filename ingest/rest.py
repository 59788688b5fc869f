"""What every REST answer is read with: bounds on what a server can make us hold or wait for."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from ingest.sources import GarbageFrame

MAX_BODY_BYTES: Final = 4 << 20
"""Well above a page of a thousand trades; a longer body is garbage."""

LONGEST_WAIT: Final = 3 * 86_400.0
"""The longest ban that a venue announces; a server that says more is not obeyed beyond this."""

LONGEST_WAIT_TO_DATE: Final = 3600.0
"""As much where it names a date: a clock that is wrong, ours or its, is not to stop us for days."""


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises GarbageFrame when it is longer than any that we asked for."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise GarbageFrame(f"the answer is longer than {MAX_BODY_BYTES:,} bytes")
    return bytes(body)


def wait_of(response: aiohttp.ClientResponse) -> float:
    """The seconds that a Retry-After header asks for, by number or by date; zero where there is none that makes sense.

    A date is taken by the server's own clock where it tells that.
    """
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_WAIT)
    until = date_of(value)
    if until is None:
        return 0.0
    now = date_of(response.headers.get("Date", "")) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), LONGEST_WAIT_TO_DATE)


def date_of(value: str) -> datetime | None:
    """The date of an HTTP header; None where it is none."""
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
