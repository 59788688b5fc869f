"""What a venue looks like to ingest: an address, its subscribe frames and limits, and a pure parser.

A `Source` only declares; `ingest.feed` does the connecting and knows nothing of venues. A parser answers a frame with
the ticks it carries, with `()` when it understood the frame and there is no tick in it for us (answers to our own
requests, heartbeats, foreign symbols), or raises one of the three exceptions below, and never anything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.errors import TickwickError
from app.market.model import Feed, InstrumentId, Tick

Parse = Callable[[bytes | str, Mapping[str, InstrumentId]], Sequence[Tick]]
Request = Callable[[Sequence[str], int], str]


class GarbageFrame(TickwickError):
    """A frame that is not understood, or carries a value that cannot be true; the text is the reason."""


class ClosingSoon(TickwickError):
    """The server announced that it is about to close this connection: open the next one now."""


class RequestRefused(TickwickError):
    """The server refused a request of ours; `request` is the number it was sent with, where the answer tells."""

    def __init__(self, message: str, request: int | None) -> None:
        super().__init__(message)
        self.request = request


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A venue's feed of one kind. Times are seconds.

    `parse` maps the venue's tickers to instruments by the mapping it is given, and returns ticks in the venue's order.
    `subscribe` and `unsubscribe` build one frame for at most `tickers_per_request` tickers and a request number.
    `max_age` leaves time to open the next connection before the venue cuts this one; `silence` is how long a connection
    may bring no frame before it is taken for dead.
    """

    name: str
    feed: Feed
    url: str
    contiguous_ids: bool
    parse: Parse
    subscribe: Request
    unsubscribe: Request
    tickers_per_request: int
    requests_per_second: int
    tickers_per_connection: int
    connections_per_window: int
    connection_window: float
    max_age: float
    silence: float
