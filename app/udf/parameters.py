"""The parameters of UDF requests: text in, checked values out, or an InvalidParameter that names the field."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from app.errors import InvalidParameter
from app.market.intervals import Interval
from app.market.model import MAX_TIME_US, Instrument, from_micros
from app.udf.resolutions import RESOLUTIONS, SHORT

MAX_BARS: Final = 5_000
MAX_MATCHES: Final = 100
MAX_SYMBOLS: Final = 100
DEFAULT_MATCHES: Final = 30
# Clients compute times in floating point. Eleven digits of seconds are past the year 5000; milliseconds have 13.
_SECONDS: Final = re.compile(r"-?[0-9]{1,11}(\.[0-9]{1,20})?")
_COUNT: Final = re.compile(r"[0-9]{1,18}")


class BarsWanted(NamedTuple):
    """Bars from `start` to before `end`; where `countback` is not 0, the newest so many before `end`."""

    interval: Interval
    start: datetime
    end: datetime
    countback: int


def given(field: str, text: str | None) -> str:
    """The text of a parameter that must be there."""
    if not text:
        raise InvalidParameter(field, "is missing")
    return text


def bars_wanted(resolution: str | None, start: str | None, end: str | None, countback: str | None) -> BarsWanted:
    """What a request for history asks for; its `from` does without where there is a count."""
    interval = resolution_of(resolution)
    before = time_of("to", end)
    count = min(_count("countback", countback), MAX_BARS) if countback else 0
    since = time_of("from", start) if start or not count else before
    if before < since and not count:
        raise InvalidParameter("to", "is before from")
    return BarsWanted(interval, since, before, count)


def resolution_of(text: str | None) -> Interval:
    """Case matters: 1M is a month, and 1m nothing."""
    resolution = given("resolution", text)
    if interval := RESOLUTIONS.get(resolution) or SHORT.get(resolution):
        return interval
    raise InvalidParameter("resolution", f"{resolution[:60]!r} is not one of {' '.join([*RESOLUTIONS, *SHORT])}")


def time_of(field: str, text: str | None) -> datetime:
    """Unix seconds, also with a fraction. A time before 1970 or after 2262 counts as that end."""
    seconds = given(field, text)
    if not _SECONDS.fullmatch(seconds):
        raise InvalidParameter(field, f"{seconds[:60]!r} is not Unix time in seconds")
    return from_micros(min(max(int(Decimal(seconds) * 1_000_000), 0), MAX_TIME_US))


def limit_of(text: str | None) -> int:
    """How many matches at most."""
    limit = _count("limit", text) if text else DEFAULT_MATCHES
    if limit == 0:
        raise InvalidParameter("limit", "is 0, but must be at least 1")
    return min(limit, MAX_MATCHES)


def _count(field: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise InvalidParameter(field, f"{text[:60]!r} is not a whole number")
    return int(text)


def symbols_of(text: str | None) -> list[str]:
    """The names of a list with commas between them."""
    names = [name for name in given("symbols", text).split(",") if name]
    if len(names) > MAX_SYMBOLS:
        raise InvalidParameter("symbols", f"are {len(names)}, but at most {MAX_SYMBOLS} are quoted at once")
    return names


def check_currency(text: str | None, instrument: Instrument) -> None:
    """Clients name the currency that they were told; prices in another one would be wrong, since none is converted."""
    if text and text.upper() != (instrument.quote or "").upper():
        told = instrument.quote or "no currency that is known"
        raise InvalidParameter("currencyCode", f"is {text[:60]!r}, but {instrument.symbol} is quoted in {told}")
