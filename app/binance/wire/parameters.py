"""The parameters of Binance's REST: text in, checked values out, or the BinanceError that Binance publishes for it."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Final

import msgspec

from app.binance.wire import errors
from app.binance.wire.errors import BinanceError
from app.market.intervals import Interval
from app.market.model import MAX_TIME_US

DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 1000
FIRST_MICROSECOND_STAMP: Final = 10**14
"""A time of this size or more counts microseconds: as milliseconds it would lie beyond the year 5000."""
MILLISECOND: Final = 1000
TIME_UNITS: Final = {"MILLISECOND": MILLISECOND, "millisecond": MILLISECOND, "MICROSECOND": 1, "microsecond": 1}

_NUMBER: Final = "^[0-9]{1,20}$"
_WORD: Final = "[A-Z0-9-_.]{1,80}"
_LEGAL: Final = {"symbol": f"^{_WORD}$"}
_LISTED: Final = rf'^\[("{_WORD}"(,"{_WORD}"){{0,}}){{0,1}}\]$'
_OFFSET: Final = re.compile(r"(?P<sign>[-+ ]?)(?P<hours>\d{1,2})(:(?P<minutes>[0-5]\d))?", re.ASCII)
_WINDOW: Final = re.compile(r"(?P<count>[1-9]\d?)(?P<unit>[mhd])", re.ASCII)
_WINDOW_UNITS: Final = {"m": (timedelta(minutes=1), 59), "h": (timedelta(hours=1), 23), "d": (timedelta(days=1), 7)}


class Parameters:
    """What a call was sent, each name at most once and none that the call does not know."""

    def __init__(self, pairs: Iterable[tuple[str, str]], allowed: Collection[str]) -> None:
        sent = list(pairs)
        counts = Counter(name for name, _ in sent)
        if any(count > 1 for count in counts.values()):
            raise errors.duplicate()
        if counts.keys() - set(allowed):
            raise errors.too_many(sum(name in allowed for name in counts), len(sent))
        self._values = dict(sent)

    def __contains__(self, name: str) -> bool:
        """Whether the parameter was sent, if only without a value."""
        return name in self._values

    def text(self, name: str) -> str | None:
        """An optional parameter; what has a legal range keeps to it."""
        if name not in self._values:
            return None
        if not self._values[name]:
            raise errors.empty(name)
        return self._legal(name, self._values[name], _LEGAL.get(name))

    def required(self, name: str) -> str:
        if not self._values.get(name):
            raise errors.missing(name)
        return self._legal(name, self._values[name], _LEGAL.get(name))

    def integer(self, name: str) -> int | None:
        """A whole number that PostgreSQL's bigint holds."""
        if (number := self._number(name)) is not None and number >= 2**63:
            raise errors.invalid(name)
        return number

    def limit(self) -> int:
        """How many rows were asked for; more than MAX_LIMIT counts as MAX_LIMIT."""
        if (limit := self._number("limit")) == 0:
            raise errors.invalid("limit")
        return DEFAULT_LIMIT if limit is None else min(limit, MAX_LIMIT)

    def time(self, name: str) -> tuple[int, int] | None:
        """The first and the last microsecond since 1970 of a time given in milliseconds or in microseconds.

        A time beyond the year 2262 counts as the end of it, as Binance moves what is out of its range into it.
        """
        if (time := self._number(name)) is None:
            return None
        first, last = (time, time) if time >= FIRST_MICROSECOND_STAMP else (time * 1000, time * 1000 + 999)
        return min(first, MAX_TIME_US - 1), min(last, MAX_TIME_US - 1)

    def interval(self, name: str = "interval") -> Interval:
        """A candle's length; mandatory and case-sensitive, since 1m and 1M differ."""
        try:
            return Interval(self.required(name))
        except ValueError:
            raise errors.bad_interval() from None

    def zone(self, name: str = "timeZone") -> tzinfo:
        """An offset of -12:00 to +14:00 such as `0`, `8`, `-1:00`, `05:45`; UTC unless it was sent."""
        if (text := self.text(name)) is None:
            return UTC
        if (zone := offset_of(text)) is None:
            raise errors.invalid(name)
        return zone

    def window(self, name: str = "windowSize") -> timedelta:
        """1m to 59m, 1h to 23h, 1d to 7d; a day unless it was sent."""
        if (text := self.text(name)) is None:
            return timedelta(days=1)
        if found := _WINDOW.fullmatch(text):
            unit, most = _WINDOW_UNITS[found["unit"]]
            if (count := int(found["count"])) <= most:
                return unit * count
        raise errors.invalid(name)

    def choice(self, name: str, choices: Collection[str], default: str, error: BinanceError) -> str:
        """One of a few words, or the error."""
        if (text := self.text(name)) is None:
            return default
        if text not in choices:
            raise error
        return text

    def boolean(self, name: str, default: bool) -> bool:
        text = self.choice(name, ("true", "false"), str(default).lower(), errors.invalid(name))
        return text == "true"

    def names(self, name: str, most: int | None = None) -> list[str] | None:
        """A JSON array of symbols or the like, each once, at least one and at most `most`; None unless it was sent."""
        if name not in self._values:
            return None
        if not self._values[name]:
            raise errors.missing(name)
        found = self._array(name)
        if not found:
            raise errors.missing(name)
        if len(set(found)) < len(found):
            raise errors.duplicate_symbols()
        if most is not None and len(found) > most:
            raise errors.too_many_values(name, most)
        return found

    def name_or_names(self, name: str) -> list[str] | None:
        """As `names`, but for one it may be the bare word: permissions=SPOT."""
        text = self._values.get(name, "")
        return [self._legal(name, text, f"^{_WORD}$")] if text and not text.startswith("[") else self.names(name)

    def _array(self, name: str) -> list[str]:
        try:
            found = msgspec.json.decode(self._values[name], type=list[str])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise errors.illegal(name, _LISTED) from None
        if not all(re.fullmatch(_WORD, one) for one in found):
            raise errors.illegal(name, _LISTED)
        return found

    def _number(self, name: str) -> int | None:
        text = self.text(name)
        return None if text is None else int(self._legal(name, text, _NUMBER))

    def _legal(self, name: str, text: str, legal: str | None) -> str:
        if legal is not None and not re.fullmatch(legal, text):
            raise errors.illegal(name, legal)
        return text


def offset_of(text: str) -> tzinfo | None:
    """The zone of an offset of -12:00 to +14:00, with or without minutes, or None for anything else.

    A plus sign that was not escaped in a query arrives as a space, and counts as one.
    """
    if not (found := _OFFSET.fullmatch(text)):
        return None
    size = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"] or 0))
    offset = -size if found["sign"] == "-" else size
    if not timedelta(hours=-12) <= offset <= timedelta(hours=14):
        return None
    return timezone(offset) if offset else UTC


def time_unit(value: str | None) -> int:
    """How many microseconds a unit of time has, by the header X-MBX-TIME-UNIT or the query's timeUnit."""
    if value is None:
        return MILLISECOND
    if value not in TIME_UNITS:
        raise errors.bad_time_unit()
    return TIME_UNITS[value]
