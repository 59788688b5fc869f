"""Websocket clients that cost next to nothing: they look for a marker in the bytes and parse no frame.

`python -m tests.bench.readers PORT PATH MESSAGE COUNT MARKER` prints `ready` when all have been answered, and `done`
when the marker has reached them all. The system keeps little for one that is stopped: its receive buffers are small.
"""

import asyncio
import socket
import sys
from typing import Final, cast

import uvloop

RECEIVE_BYTES: Final = 131_072


def masked(payload: bytes) -> bytes:
    """A text frame of a client, with a mask of zeros."""
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


class Reader(asyncio.Protocol):
    def __init__(self, path: str, message: bytes, marker: bytes) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self._path = path
        self._message = message
        self._marker = marker
        self._tail = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            if b"\r\n\r\n" in data:
                self._upgraded = True
                self._transport.write(masked(self._message))
            return
        if not self.ready.done():
            self.ready.set_result(None)
        if not self.done.done() and self._marker in self._tail + data:
            self.done.set_result(None)
        self._tail = data[-64:]


async def main(port: int, path: str, message: str, count: int, marker: str) -> None:
    loop = asyncio.get_running_loop()
    readers = []
    for _ in range(count):
        _, reader = await loop.create_connection(
            lambda: Reader(path, message.encode(), marker.encode()), "127.0.0.1", port
        )
        readers.append(reader)
    await asyncio.gather(*(reader.ready for reader in readers))
    print("ready", flush=True)
    await asyncio.gather(*(reader.done for reader in readers))
    print("done", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
