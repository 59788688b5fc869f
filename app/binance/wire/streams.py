"""The names of Binance's market streams: `btcusdt@trade`, `btcusdt@kline_1d@+08:00`, `!miniTicker@arr`."""

import re
from datetime import UTC, tzinfo
from typing import Final, Literal, NamedTuple, cast

from app.binance.wire.parameters import offset_of
from app.market.intervals import Interval

Kind = Literal["trade", "aggTrade", "kline", "ticker", "miniTicker", "avgPrice"]

_NAME: Final = re.compile(
    r"(?P<symbol>[a-z0-9._-]{1,80})@(?:(?P<kind>trade|aggTrade|ticker|miniTicker|avgPrice)"
    r"|kline_(?P<interval>[0-9a-zA-Z]{1,3})(?:@(?P<zone>[-+]\d\d:\d\d))?)",
    re.ASCII,
)
_ALL: Final = re.compile(r"!(?P<kind>ticker|miniTicker)@arr(?:@[1-9]\d{2,3}ms)?", re.ASCII)
"""python-binance asks for `!miniTicker@arr@1000ms`; the speed is a second, whatever it says."""

_PUBLISHED: Final = re.compile(
    r"[a-zA-Z0-9._-]{1,80}@(?:bookTicker|depth(?:5|10|20)?(?:@1000?ms)?|ticker_(?:1h|4h|1d)|blockTrade|referencePrice)"
    r"|!bookTicker|!ticker_(?:1h|4h|1d)@arr",
    re.ASCII,
)


class Stream(NamedTuple):
    """What a name asks for; `symbol` is in upper case, and None for all. `name` is what events are labelled with."""

    name: str
    kind: Kind
    symbol: str | None = None
    interval: Interval | None = None
    zone: tzinfo = UTC


def parse(name: str) -> Stream | None:
    """The stream of a name, or None for what is no name of a stream that there is; symbols are in lower case."""
    name = written(name)
    if found := _ALL.fullmatch(name):
        return Stream(name, cast("Kind", found["kind"]))
    if not (found := _NAME.fullmatch(name)):
        return None
    symbol = found["symbol"].upper()
    if found["kind"]:
        return Stream(name, cast("Kind", found["kind"]), symbol)
    zone = offset_of(found["zone"] or "0")
    if found["interval"] not in Interval.__members__.values() or zone is None:
        return None
    return Stream(name, "kline", symbol, Interval(found["interval"]), zone)


def is_elsewhere(name: str) -> bool:
    """Whether it is the name of a stream that Binance has and this server has not: of order books and the like."""
    return _PUBLISHED.fullmatch(name) is not None


def written(name: str) -> str:
    """A name as it was meant: a plus sign that was not escaped in a query arrives as a space."""
    return name.replace("@ ", "@+")


def listed(text: str) -> list[str]:
    """The names in a path or in `streams=`, divided by slashes; a part without @ and ! is none, as in `/ws/0`."""
    return [written(part) for part in text.split("/") if "@" in part or "!" in part]
