"""What a venue looks like to ingest: addresses, requests, limits, and pure parsers.

A `Source` is a feed on a websocket, a `PollSource` one that must be asked again and again, and a `History` serves the
trades of the past by REST. They only declare; `ingest.feed`, `ingest.poll` and `ingest.history` do the connecting and
know nothing of venues. A parser answers a frame with the ticks it carries, with `()` when it understood the frame and
there is no tick in it for us (answers to our own requests, heartbeats, foreign symbols), or raises one of the
exceptions below, and never anything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


class TryLater(TickwickError):
    """The server answers nobody, or not us, for the next `wait` seconds. Only REST parsers raise it."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class AccessDenied(TickwickError):
    """The server does not accept our key, or not for this. Only REST parsers raise it."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSource:
    """A venue's quotes, which must be asked for; one round of requests every `interval` seconds.

    `requests` builds the paths, with query, that together quote all the tickers. `parse` reads an answer, whatever its
    status. `headers` may hold a key and are never shown.
    """

    name: str
    feed: Feed
    url: str
    parse: Parse
    requests: Callable[[Sequence[str]], Sequence[str]]
    headers: Mapping[str, str] = field(repr=False)
    interval: float
    requests_per_second: int
    contiguous_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTime:
    """A venue that can be asked for the first trade at or after a time: `request` is given ticker and microseconds.

    `parse` answers that trade's id, or None when there is none yet.
    """

    request: Callable[[str, int], str]
    parse: Callable[[bytes], int | None]
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ById:
    """A venue whose trades are found by id alone: `request` asks for the last one up to an id, or the newest.

    The answer is read with the history's own `parse`. Its pages are asked for by their end: they bring what there is of
    the `page_ticks` ids from the wanted one on, and as many earlier trades as fit.
    """

    request: Callable[[str, int | None], str]
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How a venue's REST serves past trades, under the ids and times that its live feed gives them.

    `page` builds path and query for at most `page_ticks` trades, given ticker, first id wanted, and the time in
    microseconds of the trade before it. `parse` returns ticks with ascending ids. `pages_by_time` says that `page` goes
    by the time, so that a page may begin, and even end, before the wanted id. A page costs `weight`; a clock minute
    costs at most `weight_limit`, of which the venue tells what is used in the header `weight_header`.
    """

    name: str
    url: str
    page: Callable[[str, int, int], str]
    parse: Callable[[bytes, InstrumentId], Sequence[Tick]]
    locate: ByTime | ById
    requests_per_second: int
    page_ticks: int = 1000
    pages_by_time: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    weight: int = 1
    weight_limit: int | None = None
    weight_header: str = ""
