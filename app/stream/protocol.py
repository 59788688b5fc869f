"""The frames of the native stream: what clients may send, what they are sent, close codes and published limits. Pure.

A client sends one JSON object a frame; the server sends JSON arrays of events, each with a `type`.
"""

from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from app.market.intervals import Interval
from app.market.model import Candle, Ticker, Trade
from app.market.zones import zone_named, zone_text

MAX_SUBSCRIPTIONS: Final = 1_024
MAX_MESSAGES_PER_SECOND: Final = 10
MAX_MESSAGE_BYTES: Final = 16_384
SNAPSHOT_TRADES: Final = 50

Channel = Literal["trades", "candles", "ticker"]
RequestId = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)] | None


class Close(IntEnum):
    """Why the server ends a connection."""

    GOING_AWAY = 1012
    TRY_LATER = 1013
    BAD_FRAME = 4400
    NOT_AUTHENTICATED = 4401
    FORBIDDEN = 4403
    SLOW_CONSUMER = 4408
    TOO_MANY = 4429


class BadFrame(Exception):
    """The frame is not a JSON object of at most 16 KiB; the connection closes with 4400."""


class BadRequest(Exception):
    """The object is not a request that can be carried out; answered by an `error` event."""

    def __init__(self, code: str, message: str, request_id: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


class _Request(msgspec.Struct, tag_field="op", tag=str.lower, forbid_unknown_fields=True, kw_only=True):
    id: RequestId = None


class _Topics(_Request):
    channel: Channel
    symbols: Annotated[list[str], Meta(min_length=1, max_length=MAX_SUBSCRIPTIONS)]
    interval: Interval | None = None
    timezone: str = "UTC"


class Subscribe(_Topics):
    """`symbols` may be `["*"]`; `interval` goes with candles alone; `since` maps symbols to the last trade id seen.

    With `since` a subscription that stands begins anew from there; without, it stays as it is.
    """

    since: dict[str, Annotated[int, Meta(ge=-1, le=2**63 - 1)]] = {}


class Unsubscribe(_Topics):
    pass


class List(_Request):
    pass


class Ping(_Request):
    pass


class Auth(_Request):
    token: str


Request = Subscribe | Unsubscribe | List | Ping | Auth

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "op": tuple(kind.__name__.lower() for kind in get_args(Request)),
    "channel": get_args(Channel),
    "interval": tuple(Interval),
}
_decoder: Final[msgspec.json.Decoder[Request]] = msgspec.json.Decoder(Request)
_encoder: Final = msgspec.json.Encoder()


def decode(frame: str | bytes) -> Request:
    """One request. Raises BadFrame for what is no JSON object, and BadRequest, with the request's id, for the rest."""
    if len(frame.encode() if isinstance(frame, str) else frame) > MAX_MESSAGE_BYTES:
        raise BadFrame(f"a message may have {MAX_MESSAGE_BYTES} bytes at most")
    try:
        return _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _explain(frame, error) from None


def _explain(frame: str | bytes, error: Exception) -> Exception:
    try:
        raw = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return BadFrame("a message is one JSON object")
    if not isinstance(raw, dict):
        return BadFrame("a message is one JSON object")
    request_id = raw.get("id")
    if not isinstance(request_id, int | str):
        request_id = None
    return BadRequest("bad_request", _reason(str(error)), request_id)


def _reason(problem: str) -> str:
    """The decoder's words, or where there are few choices, what they are."""
    for field, choices in _CHOICES.items():
        if problem.endswith((f"at `$.{field}`", f"missing required field `{field}`")):
            return f"{field} must be one of {' '.join(choices)}"
    return problem


def zone_of(request: Subscribe | Unsubscribe) -> str:
    """The request's time zone, as `zone_text` writes it.

    Raises BadRequest where it is none, or where the channel or interval takes none.
    """
    try:
        zone = zone_text(zone_named(request.timezone))
    except ValueError as error:
        raise BadRequest("bad_request", f"timezone {error}", request.id) from None
    if zone != "UTC" and (request.interval is None or not request.interval.zoned):
        raise BadRequest("bad_request", "timezone goes with candles of 1d and above", request.id)
    return zone


class TradeEvent(Trade, tag_field="type", tag="trade", frozen=True, kw_only=True):
    symbol: str


class CandleEvent(Candle, tag_field="type", tag="candle", kw_only=True):
    symbol: str
    interval: Interval
    timezone: str


class CorrectionEvent(CandleEvent, tag="correction", kw_only=True):
    """A past candle changed."""


class TickerEvent(Ticker, tag_field="type", tag="ticker", frozen=True, kw_only=True):
    symbol: str


class GapEvent(msgspec.Struct, tag_field="type", tag="gap", frozen=True):
    """Trades `from_id`..`to_id` were not delivered. The reason tells where they are.

    `missing`: the source skipped them, and the table has them not. `slow`: dropped, because the client read too slowly.
    `late`: some in this range were stored after higher ones had been delivered; what was told to be missing comes so,
    too. Resume with `since` = from_id - 1, or fetch them by REST.
    """

    symbol: str
    from_id: int
    to_id: int
    reason: Literal["missing", "slow", "late"]


class ResetEvent(msgspec.Struct, tag_field="type", tag="reset", frozen=True, omit_defaults=True):
    """What was delivered of this topic no longer holds: fetch it anew."""

    channel: Channel
    symbol: str
    interval: Interval | None = None
    timezone: str | None = None


class Event(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True):
    """Base of the small control events."""


class Subscribed(Event, tag="subscribed", frozen=True):
    id: RequestId
    channel: Channel
    symbols: list[str]
    interval: Interval | None = None
    timezone: str | None = None


class Unsubscribed(Subscribed, tag="unsubscribed", frozen=True):
    pass


class Subscriptions(Event, tag="subscriptions", frozen=True):
    id: RequestId
    subscriptions: list[dict[str, Any]]


class Snapshot(Event, tag="snapshot", frozen=True):
    """Where a subscription begins.

    The newest 50 trades, ascending; the last closed candle and the open one, as far as there are any; or the ticker,
    which is left out where nothing has ever traded.
    """

    channel: Channel
    symbol: str
    interval: Interval | None = None
    timezone: str | None = None
    trades: list[Trade] | None = None
    candles: list[Candle] | None = None
    ticker: Ticker | None = None


class Heartbeat(Event, tag="heartbeat", frozen=True):
    """Sent after silence, and in answer to a ping with its id."""

    time: datetime
    id: RequestId = None


class Notice(Event, tag="notice", frozen=True):
    """The server is about to close the connection."""

    message: str


class ErrorEvent(Event, tag="error", frozen=True):
    code: str
    message: str
    id: RequestId = None


def encode(event: msgspec.Struct) -> str:
    """An event as JSON text."""
    return _encoder.encode(event).decode()
