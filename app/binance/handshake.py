"""What the URL of a websocket asks for: its streams, and in what unit and with which extensions they are told. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote

from app.binance.wire.errors import BinanceError
from app.binance.wire.parameters import MILLISECOND, time_unit
from app.binance.wire.streams import Stream, is_elsewhere, listed, parse
from app.binance.wire.weights import STREAMS

EXTENSIONS: Final = ("gap", "correction")
INVALID: Final = -1130


class UnknownStream(Exception):
    """No stream of this server has such a name, for any symbol."""


class Handshake(NamedTuple):
    """`streams` holds each name once; None stands for a stream that no instrument can bring to life."""

    streams: dict[str, Stream | None]
    combined: bool
    unit: int = MILLISECOND
    extensions: tuple[str, ...] = ()
    since: int | None = None
    """The last trade id that the client has, of the one symbol that its streams are of."""


def handshake(path: str, query: str) -> Handshake:
    """Of `/ws`, `/ws/<streams>` or `/stream?streams=`. Raises BinanceError.

    Streams that Binance has and this server has not are held and stay silent: a client whose URL is refused for one of
    them loses all others, and some ask again without a pause.
    """
    sent = dict(_pairs(query))
    combined = not path.startswith("/ws")
    names = listed(sent.get("streams", "") if combined else path.removeprefix("/ws"))
    try:
        streams = {name: None if is_elsewhere(name) else known(name) for name in names}
    except UnknownStream as error:
        raise _invalid("streams", str(error)) from None
    if len(streams) > STREAMS:
        raise _invalid("streams", f"a connection can have at most {STREAMS} streams")
    extensions = tuple(word for word in sent.get("events", "").split(",") if word)
    if unknown := set(extensions) - set(EXTENSIONS):
        raise _invalid("events", f"{_shown(min(unknown))} is none of {', '.join(EXTENSIONS)}")
    since = _since(sent["resume"], streams) if "resume" in sent else None
    return Handshake(streams, combined, time_unit(sent.get("timeUnit")), extensions, since)


def known(name: str) -> Stream | None:
    """The stream of a name, or UnknownStream.

    Symbols of streams are in lower case: one in upper case is that of no instrument, and as such well-formed.
    """
    if stream := parse(name):
        return stream
    symbol, at, kind = name.partition("@")
    if parse(symbol.lower() + at + kind):
        return None
    raise UnknownStream(f"there is no stream {_shown(name)}")


def _since(text: str, streams: dict[str, Stream | None]) -> int:
    kinds = {stream.kind if stream else None for stream in streams.values()}
    if not streams or kinds - {"trade", "aggTrade"}:
        raise _invalid("resume", "only streams of trades can be resumed")
    if len({stream.symbol for stream in streams.values() if stream}) > 1:
        raise _invalid("resume", "only streams of one symbol can be resumed, for each has trade ids of its own")
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise _invalid("resume", "it is the id of the last trade that was received")
    return int(text)


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    # A plus sign is none of a form's spaces: clients do not escape that of `btcusdt@kline_1d@+08:00`.
    for part in query.split("&"):
        name, _, value = part.partition("=")
        yield unquote(name), unquote(value)


def _invalid(name: str, reason: str) -> BinanceError:
    return BinanceError(INVALID, f"Data sent for parameter '{name}' is not valid: {reason}.")


def _shown(text: str) -> str:
    return repr(text[:60])
