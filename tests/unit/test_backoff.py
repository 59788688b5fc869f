"""Back-off, quota, and the table of failures."""

import asyncio
import random
import ssl
from itertools import pairwise
from time import monotonic
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ingest.backoff import Backoff, Quota, fatal_reason, retry_after

KEY = ConnectionKey("exchange.test", 443, True, True, None, None, None)


class Highest(random.Random):
    """Draws the upper bound, so that a test sees the bounds."""

    def uniform(self, a: float, b: float) -> float:
        return b


def handshake_error(status: int, headers: dict[str, str] | None = None) -> aiohttp.WSServerHandshakeError:
    url = URL("wss://exchange.test/stream")
    request = RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.WSServerHandshakeError(request, (), status=status, headers=CIMultiDict(headers or {}))


def test_backoff_bounds_double_up_to_the_ceiling() -> None:
    backoff = Backoff(first=0.1, ceiling=1.0, factor=2.0, rng=Highest())
    assert [backoff.next() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_backoff_reset_starts_over() -> None:
    backoff = Backoff(first=0.1, rng=Highest())
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0.1


def test_backoff_jitter_fills_the_whole_range() -> None:
    backoff = Backoff(first=30.0, ceiling=30.0, rng=random.Random(7))
    delays = [backoff.next() for _ in range(1000)]
    assert 0 <= min(delays) < 1
    assert 29 < max(delays) <= 30
    assert 14 < sum(delays) / len(delays) < 16


def test_backoff_two_clients_scatter() -> None:
    assert [Backoff().next() for _ in range(8)] != [Backoff().next() for _ in range(8)]


async def test_quota_delay_is_zero_until_the_window_is_full_and_then_until_the_oldest_leaves() -> None:
    now = 100.0
    quota = Quota(2, 10.0, clock=lambda: now)
    await quota.take()
    assert quota.delay() == 0.0
    now = 103.0
    await quota.take()
    assert quota.delay() == 7.0
    now = 110.0
    assert quota.delay() == 0.0
    await quota.take()
    assert quota.delay() == 3.0


async def test_quota_many_takers_are_spread_over_windows() -> None:
    quota = Quota(3, 0.1)
    times: list[float] = []

    async def take() -> None:
        await quota.take()
        times.append(monotonic())

    await asyncio.gather(*(take() for _ in range(9)))
    assert all(later - earlier > 0.09 for earlier, later in zip(times, times[3:], strict=False))
    assert all(earlier <= later for earlier, later in pairwise(times))


def os_error(kind: type[aiohttp.ClientConnectorError], error: OSError) -> aiohttp.ClientConnectorError:
    return kind(KEY, error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (handshake_error(400), "HTTP 400"),
        (handshake_error(401), "HTTP 401"),
        (handshake_error(403), "HTTP 403"),
        (handshake_error(404), "HTTP 404"),
        (handshake_error(200), "HTTP 200"),
        (handshake_error(301), "HTTP 301"),
        (handshake_error(451), "location"),
        (aiohttp.InvalidURL("nonsense"), "not an address"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("expired")), "certificate"),
        (handshake_error(408), None),
        (handshake_error(418), None),
        (handshake_error(429), None),
        (handshake_error(500), None),
        (handshake_error(502), None),
        (handshake_error(503), None),
        (os_error(aiohttp.ClientConnectorError, ConnectionRefusedError(111, "refused")), None),
        (os_error(aiohttp.ClientConnectorDNSError, OSError(-3, "name resolution")), None),
        (ConnectionResetError(104, "reset"), None),
        (aiohttp.ServerDisconnectedError(), None),
        (TimeoutError(), None),
    ],
    ids=repr,
)
def test_fatal_reason_table(error: Exception, expected: str | None) -> None:
    reason = fatal_reason(error)
    assert reason is None if expected is None else reason is not None and expected in reason


@pytest.mark.parametrize(
    ("headers", "expected"), [({"Retry-After": "17"}, 17.0), ({"Retry-After": "soon"}, 0.0), ({}, 0.0)]
)
def test_retry_after_reads_seconds_only(headers: dict[str, str], expected: float) -> None:
    assert retry_after(handshake_error(429, headers)) == expected


@pytest.mark.parametrize("error", [TimeoutError(), aiohttp.ServerDisconnectedError()])
def test_retry_after_without_an_answer_is_zero(error: Any) -> None:
    assert retry_after(error) == 0.0
