"""The parameters of market requests: text in, checked values out, or an InvalidParameter that names the field."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final

from app.errors import InvalidParameter, UnknownSymbol
from app.market.intervals import Interval
from app.market.model import Feed, from_micros, to_micros
from app.market.registry import Registry
from app.market.store import ALWAYS, NEVER, Place
from app.market.zones import zone_named

MAX_CANDLES: Final = 5_000
MAX_TICKS: Final = 10_000
DEFAULT_LIMIT: Final = 500
_TICKER: Final = re.compile(r"[A-Z0-9][A-Z0-9._/-]{0,39}")
_EPOCH_DIGITS: Final = {10: 1_000_000, 13: 1_000, 16: 1}


def interval_of(text: str) -> Interval:
    """One of the sixteen intervals; they are case-sensitive, since 1m and 1M differ."""
    try:
        return Interval(text)
    except ValueError:
        raise InvalidParameter("interval", f"{text[:60]!r} is not one of {' '.join(Interval)}") from None


def choice_of(field: str, text: str, choices: Sequence[str]) -> str:
    """One of a few words."""
    if text not in choices:
        raise InvalidParameter(field, f"{text[:60]!r} is not one of {' '.join(choices)}")
    return text


def zone_of(text: str, interval: Interval) -> tzinfo:
    """An IANA time zone for days and above, or a fixed offset such as +05:30."""
    try:
        # A plus sign that was not escaped in the query arrives as a space.
        zone = zone_named(f"+{text[1:]}" if text.startswith(" ") else text)
    except ValueError as error:
        raise InvalidParameter("timezone", str(error)) from None
    if zone is not UTC and not interval.zoned:
        raise InvalidParameter("timezone", f"moves the buckets of 1d 3d 1w 1M alone, not of {interval}")
    return zone


def time_of(field: str, text: str | None, default: datetime) -> datetime:
    """ISO 8601 with an offset (Z or +02:00), a date (midnight UTC), or Unix seconds, milliseconds or microseconds."""
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) in _EPOCH_DIGITS:
        moment = from_micros(int(text) * _EPOCH_DIGITS[len(text)])
    else:
        moment = _iso(field, text)
    if not ALWAYS <= moment <= NEVER:
        raise InvalidParameter(field, "is not between 1970 and 2262")
    return moment


def _iso(field: str, text: str) -> datetime:
    wanted = "ISO 8601 with an offset, such as 2021-01-08T00:00:00Z, a date, or Unix time"
    try:
        if not text.isprintable():  # fromisoformat overlooks a NUL at the end
            raise ValueError
        # A plus sign that was not escaped in the query arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidParameter(field, f"{text[:60]!r} is not a time: give {wanted}") from None
    if moment.tzinfo is None:
        if len(text) > len("2021-01-08"):
            raise InvalidParameter(field, f"{text!r} has no offset: give {wanted}")
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidParameter(field, "is not between 1970 and 2262") from None


def limit_of(limit: int, most: int) -> int:
    """How many rows at most."""
    if not 1 <= limit <= most:
        raise InvalidParameter("limit", f"is {limit}, but must be between 1 and {most}; page with `next` beyond that")
    return limit


def ordered(start: datetime, end: datetime) -> None:
    """Raises InvalidParameter when a range ends before it starts."""
    if end < start:
        raise InvalidParameter("end", "is before start")


def cursor_of(text: str) -> Place:
    """The place that `next` of the page before named."""
    time_us, _, trade_id = text.partition("-")
    try:
        place = Place(from_micros(int(time_us)), int(trade_id))
    except (ValueError, OverflowError):
        raise InvalidParameter("cursor", "is not one that a page gave as its next") from None
    if not -1 <= place.trade_id < 2**63 or not ALWAYS <= place.time <= NEVER:
        raise InvalidParameter("cursor", "is not one that a page gave as its next")
    return place


def cursor_text(place: Place) -> str:
    return f"{to_micros(place.time)}-{place.trade_id}"


def tracked_symbol_of(registry: Registry, text: str, feed: Feed | None, *, tracked: bool) -> str:
    """The symbol to track, which may be new where its source is not; or one that is known, to track no longer.

    Raises UnknownSymbol for one that is new and not to be tracked, and InvalidParameter for the rest.
    """
    if not tracked and feed is not None:
        raise InvalidParameter("feed", "goes with what is to be tracked")
    try:
        known = registry.find(text)
    except UnknownSymbol:
        if not tracked:
            raise
    else:
        if feed not in (None, known.feed):
            raise InvalidParameter("feed", f"is {known.feed} for {known.symbol}; ids of two feeds share no order")
        return known.symbol
    source, colon, ticker = text.upper().partition(":")
    if not colon or not _TICKER.fullmatch(ticker):
        raise InvalidParameter("symbol", f"{text[:60]!r} is not SOURCE:TICKER, such as BINANCE:BTCUSDT")
    sources = sorted({instrument.source for instrument in registry.all})
    if source not in sources:
        raise InvalidParameter("symbol", f"{source!r} is no source of this market; there are: {', '.join(sources)}")
    return f"{source}:{ticker}"
