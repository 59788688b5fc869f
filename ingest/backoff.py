"""When to try again: delays that grow and scatter, a quota of attempts, and which failures no retry can cure."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from time import monotonic

import aiohttp

RETRYABLE_STATUS = frozenset({408, 418, 429})
"""Timed out, banned for a while, too many requests: answers that pass with time, as all of 5xx do."""


class Backoff:
    """Delays in seconds with full jitter: each is drawn evenly from zero to a bound that doubles up to `ceiling`.

    Clients that lost the same server come back scattered, and a server that stays away is asked ever less often.
    """

    def __init__(
        self, first: float = 0.1, ceiling: float = 30.0, factor: float = 2.0, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._ceiling = ceiling
        self._factor = factor
        self._rng = rng or random.SystemRandom()
        self._bound = first

    def next(self) -> float:
        delay = self._rng.uniform(0.0, self._bound)
        self._bound = min(self._ceiling, self._bound * self._factor)
        return delay

    def reset(self) -> None:
        """Start over at `first`; for when a connection has proved healthy, not when it was merely accepted."""
        self._bound = self._first


class Quota:
    """At most `limit` permits in any `window` seconds; who comes too early waits in `take`, in order of arrival."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = monotonic) -> None:
        self._taken: deque[float] = deque(maxlen=limit)
        self._window = window
        self._clock = clock
        self._turn = asyncio.Lock()

    def delay(self) -> float:
        """Seconds until the next permit is free; zero when one is."""
        if len(self._taken) < (self._taken.maxlen or 0):
            return 0.0
        return max(0.0, self._taken[0] + self._window - self._clock())

    async def take(self) -> None:
        async with self._turn:
            await asyncio.sleep(self.delay())
            self._taken.append(self._clock())


def fatal_reason(error: Exception) -> str | None:
    """Why connecting again cannot help, as the end of a sentence, or None for what may pass: the table of the house.

    Fatal are an address that is none, a certificate that is not trusted, and an HTTP answer instead of a websocket
    other than 408, 418, 429 and 5xx. Names that do not resolve, refusals, resets and timeouts may pass.
    """
    match error:
        case aiohttp.WSServerHandshakeError(status=451):
            return "refuses to serve this location (HTTP 451); another address of the exchange may serve it"
        case aiohttp.WSServerHandshakeError(status=status) if status not in RETRYABLE_STATUS and status < 500:
            return f"answered HTTP {status} instead of opening a websocket; check the address"
        case aiohttp.InvalidURL():
            return "is not an address of a websocket"
        case aiohttp.ClientConnectorCertificateError():
            return "has a certificate that is not trusted here"
    return None


def retry_after(error: Exception) -> float:
    """The seconds that the server asked us to stay away with a Retry-After header; zero where it did not."""
    headers = getattr(error, "headers", None) or {}
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
