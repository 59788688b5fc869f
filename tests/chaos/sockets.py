"""Addresses and sockets of the tests' own."""

import random
import socket
from typing import Final

MSS: Final = 536
"""The least that a kernel takes: by it the server's kernel reckons how much it buffers for a client."""
_PORTS: Final = range(10_000, 32_000)
"""Below those that kernels give to connections: Linux's begin at 32,768."""


def lasting_port() -> int:
    """A free port, which no connection takes while its server is away; not one that another process is given, too."""
    dice = random.SystemRandom()  # pytest-randomly makes all others the same in every process
    while True:
        port = dice.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def small_socket(buffer: int) -> socket.socket:
    """A socket to be connected, that takes about so many bytes before it is read; 0 for the usual."""
    made = socket.socket()
    made.setblocking(False)
    if buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MSS)
    return made
