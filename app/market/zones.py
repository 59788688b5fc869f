"""Time zones as REST and the stream read them: a name of the IANA database, or a fixed offset."""

import re
from datetime import UTC, timedelta, timezone, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

_OFFSET: Final = re.compile(r"(?P<sign>[-+]?)(?P<hours>0\d|1[0-3]|14(?=:00)):(?P<minutes>[0-5]\d)", re.ASCII)
_NOT_PLACES: Final = {"Factory", "localtime", "posixrules"}
"""Files beside the zones: what they say depends on the machine, or is nothing at all."""


def zone_named(text: str) -> tzinfo:
    """UTC (or Z), a zone of the IANA database, or an offset of at most 14 hours, such as +05:30.

    Raises ValueError, whose text tells what is allowed.
    """
    if text.upper() in ("UTC", "Z"):
        return UTC
    if offset := _OFFSET.fullmatch(text):
        ahead = timedelta(hours=int(offset["hours"]), minutes=int(offset["minutes"]))
        return timezone(-ahead if offset["sign"] == "-" else ahead) if ahead else UTC
    if text in _names():
        return ZoneInfo(text)
    raise ValueError(
        f"{text[:60]!r} is neither UTC, nor an IANA time zone, such as Europe/Berlin,"
        " nor an offset of -14:00 to +14:00, such as +05:30"
    )


def zone_text(zone: tzinfo) -> str:
    """The one text of a zone that `zone_named` made, which reads it back: UTC, Europe/Berlin, +05:30."""
    return str(zone).removeprefix("UTC") or "UTC"


@cache
def _names() -> frozenset[str]:
    # Walks the database's files: once.
    names = available_timezones() - _NOT_PLACES
    return frozenset(name for name in names if not name.startswith(("posix/", "right/")))
