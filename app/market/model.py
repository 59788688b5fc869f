"""The market's nouns. Prices and sizes are Decimal inside and JSON strings on the wire; no float touches them."""

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Literal, NewType

import msgspec

InstrumentId = NewType("InstrumentId", int)
Kind = Literal["spot", "fx", "good"]
Feed = Literal["trade", "aggTrade", "kline_1s", "miniTicker", "quote"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

MAX_INTEGER_DIGITS = 20
MAX_DECIMAL_PLACES = 18

EXACT = Context(prec=200, traps=[])
"""Sums and products of prices never round in it: 38 digits times 38 digits, summed over any number of ticks."""


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One trade or quote, as sources parse it and as NOTIFY carries it: a JSON array in this order.

    `time_us` is the exchange's time in microseconds since 1970 UTC; `trade_id` rises within an instrument and is the
    order of its ticks. `buyer_is_maker` is true where the taker sold, and None where the source does not tell.
    """

    instrument_id: InstrumentId
    trade_id: int
    time_us: int
    price: Decimal
    size: Decimal
    buyer_is_maker: bool | None

    @property
    def time(self) -> datetime:
        return from_micros(self.time_us)


class Instrument(msgspec.Struct, frozen=True):
    """What can be traded or quoted. `symbol` is `SOURCE:TICKER` and unique.

    `feed` says what the trade ids count (trades, aggregate trades, event times), since ids of two kinds cannot share
    one order; `contiguous_ids` says that a jump of the id is a missed tick.
    """

    id: InstrumentId
    symbol: str
    source: str
    ticker: str
    base: str | None
    quote: str | None
    kind: Kind
    price_scale: int
    feed: Feed
    contiguous_ids: bool
    active: bool


def from_micros(us: int) -> datetime:
    """Microseconds since 1970 as an aware UTC time, exactly."""
    return EPOCH + timedelta(microseconds=us)


def to_micros(time: datetime) -> int:
    """An aware time as microseconds since 1970, exactly."""
    return (time - EPOCH) // MICROSECOND


def plain(value: Decimal) -> str:
    """A decimal as plain digits, its places kept: never an exponent, as PostgreSQL prints a numeric."""
    return format(value, "f")


def decimal_problem(value: Decimal) -> str | None:
    """Why a price or a size cannot be stored exactly: not finite, or too many digits; None where it can."""
    if not value.is_finite():
        return "is not a finite number"
    if -value.as_tuple().exponent > MAX_DECIMAL_PLACES:  # type: ignore[operator]  # finite: the exponent is an int
        return f"has more than {MAX_DECIMAL_PLACES} decimal places"
    if value.adjusted() >= MAX_INTEGER_DIGITS:
        return f"has more than {MAX_INTEGER_DIGITS} digits before the point"
    return None


def tick_problem(tick: Tick) -> str | None:
    """Why a tick cannot be stored, naming the field, or None. Prices are above zero, sizes at least zero."""
    for field, value in (("price", tick.price), ("size", tick.size)):
        if problem := decimal_problem(value):
            return f"{field} {problem}"
    if tick.price <= 0:
        return "price is not above zero"
    if tick.size < 0:
        return "size is below zero"
    if not 0 <= tick.trade_id < 2**63:
        return "trade_id is not between 0 and 2^63 - 1"
    if not 0 <= tick.time_us < MAX_TIME_US:
        return "time is not between 1970 and 2262"
    return None


MAX_TIME_US = to_micros(datetime(2262, 1, 1, tzinfo=UTC))


class Candle(msgspec.Struct):
    """One candle as it goes on the wire: decimals as the digits that PostgreSQL prints.

    `time` is the bucket's start. `closed`: the bucket has ended. `complete`: closed, its trade ids are without a hole,
    and no known gap touches it; null where the source's ids prove nothing, or the candle was filled in.
    """

    time: datetime
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str
    first_id: int | None
    last_id: int | None
    closed: bool = False
    complete: bool | None = None


class Trade(msgspec.Struct, frozen=True):
    """One tick as it goes on the wire; `side` is the taker's, null where the source does not tell."""

    trade_id: int
    time: datetime
    price: str
    size: str
    side: Literal["buy", "sell"] | None


def side_of(buyer_is_maker: bool | None) -> Literal["buy", "sell"] | None:
    """The taker's side: a buyer who is the maker was met by a seller."""
    if buyer_is_maker is None:
        return None
    return "sell" if buyer_is_maker else "buy"


class Ticker(msgspec.Struct, frozen=True):
    """The 24 hours that start with the minute 24 hours before the current one, or another window to the minute.

    `open` and `last` are the prices of the lowest and the highest trade id in the window; `time` and `last_size` are
    those of the last trade by time. `change` is `last` minus `open`, `change_percent` that in hundredths of `open` to
    three places. `previous` is the close of the newest minute before the window, null where there is none. Where
    nothing traded in the window, `last` is `previous`, and all else of the window is null or zero.
    """

    time: datetime
    last: str
    open: str | None
    high: str | None
    low: str | None
    change: str | None
    change_percent: str | None
    volume: str
    quote_volume: str
    trades: int
    last_size: str
    previous: str | None
    first_id: int | None
    last_id: int | None

    @property
    def average(self) -> str:
        """The average price in the window, weighted by volume; `last` where there was no volume."""
        return average_of(Decimal(self.quote_volume), Decimal(self.volume), Decimal(self.last))


def quiet_ticker(time: datetime, last: str, last_size: str) -> Ticker:
    """The ticker of a window in which nothing traded."""
    return Ticker(time, last, None, None, None, None, None, "0", "0", 0, last_size, last, None, None)


DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
AVERAGE = timedelta(minutes=5)
"""The window of the average price."""


def window_start(now: datetime, length: timedelta) -> datetime:
    """The start of a window that ends now: the minute that lies its length before the current one."""
    return now - (now - EPOCH) % MINUTE - length


def day_start(now: datetime) -> datetime:
    """The start of the 24 hours that a ticker tells of."""
    return window_start(now, DAY)


def change_of(first: Decimal, last: Decimal) -> tuple[str, str]:
    """The change and the change in percent to three places, as text."""
    change = EXACT.subtract(last, first)
    percent = EXACT.quantize(EXACT.divide(EXACT.multiply(change, Decimal(100)), first), Decimal("0.001"))
    return plain(change), plain(percent)


def average_of(quote_volume: Decimal, volume: Decimal, last: Decimal) -> str:
    """The average price weighted by volume, to eight places; the last price where there was no volume, as quotes do."""
    if not volume:
        return plain(last)
    return plain(EXACT.quantize(EXACT.divide(quote_volume, volume), Decimal("0.00000001")))
