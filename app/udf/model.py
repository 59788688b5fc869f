"""What `/udf` answers, in TradingView's field names; numbers are the digits that PostgreSQL printed.

Each answer but a list tells by `s` what it is, except a symbol's: clients take one with `s` for an error.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import KwargDefinition

_NUMBER: Final = Schema(type=OpenAPIType.NUMBER)

Numbers = Annotated[msgspec.Raw, KwargDefinition(schema_extra={"type": OpenAPIType.ARRAY, "items": _NUMBER})]
"""A JSON array of digits, in one piece: cheaper than a value for each."""

Number = Annotated[msgspec.Raw | None, KwargDefinition(schema_extra={"type": OpenAPIType.NUMBER, "one_of": None})]
"""Digits, or nothing; then the field is left out."""


def numbers(texts: Iterable[str]) -> msgspec.Raw:
    return msgspec.Raw(f"[{','.join(texts)}]")


def number(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)


class Failure(msgspec.Struct):
    """What was wrong; clients read this, not the status."""

    s: Literal["error"]
    errmsg: str


class Exchange(msgspec.Struct):
    value: str
    name: str
    desc: str


class SymbolType(msgspec.Struct):
    value: str
    name: str


class Configuration(msgspec.Struct):
    """What clients may ask for; an empty `value` stands for all."""

    supports_search: bool
    supports_group_request: bool
    supports_marks: bool
    supports_timescale_marks: bool
    supports_time: bool
    exchanges: list[Exchange]
    symbols_types: list[SymbolType]
    supported_resolutions: list[str]


class Symbol(msgspec.Struct):
    """An instrument; `ticker` is the name that the other calls take. `pricescale`: 10 to the power of the places shown.

    The multipliers list the resolutions that are served, so that clients build none themselves. A currency that is not
    known is left out: clients stumble over null.
    """

    name: str
    full_name: str
    ticker: str
    description: str
    type: str
    exchange: str
    listed_exchange: str
    minmov: int
    pricescale: int
    volume_precision: int
    supported_resolutions: list[str]
    seconds_multipliers: list[str]
    intraday_multipliers: list[str]
    daily_multipliers: list[str]
    data_status: Literal["streaming", "endofday"]
    session: str = "24x7"
    timezone: str = "Etc/UTC"
    format: str = "price"
    visible_plots_set: str = "ohlcv"
    has_intraday: bool = True
    has_seconds: bool = True
    has_daily: bool = True
    has_weekly_and_monthly: bool = True
    has_empty_bars: bool = False
    currency_code: str | msgspec.UnsetType = msgspec.UNSET
    original_currency_code: str | msgspec.UnsetType = msgspec.UNSET


class Match(msgspec.Struct):
    """An instrument that a search found."""

    symbol: str
    full_name: str
    ticker: str
    description: str
    exchange: str
    type: str


class History(msgspec.Struct):
    """Bars, ascending, a column each; `t` is a bar's start in Unix seconds."""

    s: Literal["ok"]
    t: list[int]
    o: Numbers
    h: Numbers
    l: Numbers  # noqa: E741  # the name on the wire
    c: Numbers
    v: Numbers


class NoHistory(msgspec.Struct, rename="camel", omit_defaults=True):
    """No bar in the range; `nextTime` is the start of the newest bar before it, left out where there is none."""

    s: Literal["no_data"]
    next_time: int | None = None


class QuoteValues(msgspec.Struct, omit_defaults=True):
    """The last price, and the last 24 hours as `/api/v1/ticker` tells them; what nothing tells is left out.

    `prev_close_price` is the last price before those 24 hours.
    """

    short_name: str | None = None
    exchange: str | None = None
    description: str | None = None
    lp: Number = None
    ch: Number = None
    chp: Number = None
    open_price: Number = None
    high_price: Number = None
    low_price: Number = None
    prev_close_price: Number = None
    volume: Number = None


class Quote(msgspec.Struct, omit_defaults=True):
    """`n` is the symbol just as it was asked for. One that is unknown, or has never traded, is an error without values.

    Bid and ask are never told, since no source gives its book.
    """

    s: Literal["ok", "error"]
    n: str
    v: QuoteValues
    errmsg: str | None = None


class Quotes(msgspec.Struct):
    """In the order of the symbols asked for."""

    s: Literal["ok"]
    d: list[Quote]


class Marks(msgspec.Struct, rename="camel"):
    """Marks on bars, a column for each field."""

    id: list[str]
    time: list[int]
    color: list[str]
    text: list[str]
    label: list[str]
    label_font_color: list[str]
    min_size: list[int]


class TimescaleMark(msgspec.Struct):
    """A mark below the bars."""

    id: str
    time: int
    color: str
    label: str
    tooltip: list[str]
