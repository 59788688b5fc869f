"""What goes to websocket clients, whatever the venue: topics, the forms in which a topic is told, RFC 6455 frames."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ingest.simulator.misbehaviour import Garbage
from ingest.simulator.tape import Trade


class Topic(NamedTuple):
    """What can be subscribed to: a stream by its venue's name for it, in one of the venue's wire forms."""

    form: str
    stream: str


class TradeForm(NamedTuple):
    """How a topic tells trades: `encode` takes a trade and the time of sending; no parser may accept `garbage`."""

    encode: Callable[[Trade, int], bytes]
    garbage: Sequence[bytes]

    def payloads(self, sent: Sequence[Trade | Garbage], event_us: int) -> list[bytes]:
        return [
            self.encode(one, event_us) if isinstance(one, Trade) else self.garbage[one.bits % len(self.garbage)]
            for one in sent
        ]


SecondForm = Callable[[int, int], list[bytes]]
"""What a topic tells when seconds have ended: those between the last time that it told of any, and now."""


def text(payload: bytes) -> bytes:
    """A payload as an unmasked text frame of RFC 6455, ready for the socket."""
    return _header(0x81, len(payload)) + payload


def ping(payload: bytes) -> bytes:
    return _header(0x89, len(payload)) + payload


def pong(payload: bytes) -> bytes:
    return _header(0x8A, len(payload)) + payload


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2)
    return bytes((first, 127)) + length.to_bytes(8)
