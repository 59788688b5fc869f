"""What every REST answer is read with: bounds on what a server can make us hold or wait for."""

from typing import Final

import aiohttp

from ingest.sources import GarbageFrame

MAX_BODY_BYTES: Final = 4 << 20
"""Well above a page of a thousand trades; a longer body is garbage."""

LONGEST_WAIT: Final = 3 * 86_400.0
"""The longest ban that a venue announces; a server that says more is not obeyed beyond this."""


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises GarbageFrame when it is longer than any that we asked for."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise GarbageFrame(f"the answer is longer than {MAX_BODY_BYTES:,} bytes")
    return bytes(body)


def wait_of(response: aiohttp.ClientResponse) -> float:
    """The seconds of a Retry-After header; zero where there is none, or one with a date."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_WAIT) if value.isascii() and value.isdigit() else 0.0
