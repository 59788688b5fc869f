"""One server for all of the clients' tests, and no way out of this machine."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.market import Market, opened
from tests.databases import Databases


@pytest.fixture(scope="session")
def market(databases: Databases) -> Iterator[Market]:
    with opened(databases) as made:
        yield made


@pytest.fixture(autouse=True)
def _loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients know the addresses of real exchanges by heart: none of them is to be looked up."""
    look_up = socket.getaddrinfo

    def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host in ("127.0.0.1", "localhost", None), f"a test asks for {host}"
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
