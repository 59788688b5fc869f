"""What the parsers share: values are taken digit by digit, and refused where the database could not keep them so."""

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Annotated, TypeVar

import msgspec

from app.market.model import MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS, MAX_TIME_US, InstrumentId, Tick, to_micros
from ingest.sources import GarbageFrame

FIRST_TIME_MS = 10**12  # 2001, before any exchange of this kind
MAX_TIME_MS = MAX_TIME_US // 1000
ZERO = Decimal(0)

LAST_PLACE = Decimal(1).scaleb(-MAX_DECIMAL_PLACES)
STORABLE = Context(prec=MAX_INTEGER_DIGITS + MAX_DECIMAL_PLACES, traps=[Inexact, InvalidOperation])
"""Quantizing to the last place in it raises for whatever the database could not keep exactly."""

UNDECODABLE = (msgspec.MsgspecError, ArithmeticError, ValueError, RecursionError)
"""What decoding raises: beside its own errors, bad UTF-8, a decimal beyond all bounds, and arrays nested too deep."""

UNSTORABLE = "price or size is not a number that can be stored exactly"

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]

T = TypeVar("T")


def decoding(kind: type[T]) -> Callable[[bytes | str], T]:
    """A decoder of JSON that raises GarbageFrame for whatever is not of this kind."""
    decode = msgspec.json.Decoder(kind).decode

    def decoded(body: bytes | str) -> T:
        try:
            return decode(body)
        except UNDECODABLE as error:
            raise GarbageFrame(str(error)) from None

    return decoded


def ticks_of(ticks: Iterable[Tick]) -> list[Tick]:
    """The ticks that a body's rows are made into on the way; raises GarbageFrame for all when one cannot be stored."""
    try:
        return list(ticks)
    except ArithmeticError:
        raise GarbageFrame(UNSTORABLE) from None


def tick_of(
    instrument: InstrumentId, trade_id: int, time_us: int, price: Decimal, size: Decimal, maker: bool | None
) -> Tick:
    """A tick fit to be stored; raises ArithmeticError or GarbageFrame otherwise."""
    if not price > ZERO:
        raise GarbageFrame("price is not above zero")
    if size.is_signed() or not size.is_finite():
        raise GarbageFrame("size is below zero or not finite")
    price.quantize(LAST_PLACE, None, STORABLE)
    size.quantize(LAST_PLACE, None, STORABLE)
    return Tick(instrument, trade_id, time_us, price, size, maker)


def micros(time: int) -> int:
    """Microseconds since 1970 of a time in milliseconds or microseconds, told apart by their magnitude."""
    if FIRST_TIME_MS <= time < MAX_TIME_MS:
        return time * 1000
    if FIRST_TIME_MS * 1000 <= time < MAX_TIME_US:
        return time
    raise GarbageFrame(f"time {time} is not between 2001 and 2262")


def micros_of(time: datetime) -> int:
    """Microseconds since 1970 of a written time, which is aware."""
    time_us = to_micros(time)
    if FIRST_TIME_MS * 1000 <= time_us < MAX_TIME_US:
        return time_us
    raise GarbageFrame(f"time {time} is not between 2001 and 2262")
