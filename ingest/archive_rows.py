"""The rows of a trade file, from text to ticks: what is right, what is not, and why. `archive` tells the layouts.

A dump's rows are nearly all right, so a block of them is matched as a whole; only where that fails are they looked at
one by one, and only those that do not match field by field.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from app.errors import OperatorError
from app.market.model import EPOCH, EXACT, MAX_TIME_US, InstrumentId, Tick, from_micros, tick_problem, to_micros

Layout = Literal["trades", "aggTrades", "plain"]

MAX_LINE = 4096  # characters of a row; the longest that can be right has about 300
SHOWN = 80  # characters of a rejected row

BOM = "\ufeff"
FIRST_LINE = re.compile(r"\S[^\n]*")

# Right rows of a dump as nearly all are, with the fields of a tick as groups. What these leave out is looked at field
# by field: it may still be right, such as an id of 19 digits or a time in seconds.
ID = r"([0-9]{1,18})"
PRICE = r"((?=[0.]*[1-9])[0-9]{1,20}(?:\.[0-9]{1,18})?)"
SIZE = r"([0-9]{1,20}(?:\.[0-9]{1,18})?)"
TIME = r"([1-8][0-9]{12}(?:[0-9]{3})?)"
FLAG = r"([Tt]rue|[Ff]alse|[01])"
QUOTE = r"[0-9]{1,40}(?:\.[0-9]{1,40})?"
BEST = r"(?:[Tt]rue|[Ff]alse|[01])"
FAST: Mapping[Layout, re.Pattern[str]] = {
    "trades": re.compile(rf"^{ID},{PRICE},{SIZE},{QUOTE},{TIME},{FLAG},{BEST}\r?$", re.MULTILINE),
    "aggTrades": re.compile(
        rf"^{ID},{PRICE},{SIZE},[0-9]{{1,18}},[0-9]{{1,18}},{TIME},{FLAG},{BEST}\r?$", re.MULTILINE
    ),
}

DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
WHOLE = re.compile(r"-?[0-9]+")
NUMBER = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?")
ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.(?P<fraction>[0-9]+))?)?"
    r"(?P<offset>Z|[+-][0-9]{2}:?[0-9]{2})?"
)
FLAGS = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}
MAX_TIME = from_micros(MAX_TIME_US)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that was not read: its line from 1, the column (or `row` as a whole), why, and how the row begins.

    `member` is the file within a ZIP, whose lines are counted on their own; empty for a bare file.
    """

    line: int
    field: str
    reason: str
    text: str
    member: str = ""


class _BadField(Exception):  # a finding about a row, which never leaves this module
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


# Fields: from text to values. A parser raises ValueError with the reason.


def _decimal(text: str) -> Decimal:
    if not DECIMAL.fullmatch(text):
        raise ValueError("is not a plain decimal number")
    return Decimal(text)


def _whole(text: str) -> int:
    if not WHOLE.fullmatch(text):
        raise ValueError("is not a whole number")
    if len(text) > 20:  # 2^63 has 19 digits
        raise ValueError("is not between 0 and 2^63 - 1")
    return int(text)


def _time(text: str) -> int:
    """Microseconds since 1970, exactly."""
    if NUMBER.fullmatch(text):
        value = Decimal(text)
        unit = 1_000_000 if value < 10**11 else 1000 if value < 10**14 else 1
        time_us = EXACT.multiply(value, Decimal(unit))
        if time_us >= MAX_TIME_US:
            raise ValueError("is not between 1970 and 2262")
        if EXACT.remainder(time_us, Decimal(1)):
            raise ValueError("is finer than a microsecond")
        return int(time_us)
    moment = ISO.fullmatch(text)
    if not moment:
        raise ValueError("is neither a number since 1970 nor ISO 8601")
    if not moment["offset"]:
        raise ValueError("has no offset from UTC such as Z or +02:00")
    if (moment["fraction"] or "")[6:].strip("0"):
        raise ValueError("is finer than a microsecond")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no time of the calendar") from None
    if not EPOCH <= time < MAX_TIME:
        raise ValueError("is not between 1970 and 2262")
    return to_micros(time)


def _flag(text: str) -> bool:
    if text not in FLAGS:
        raise ValueError("is neither true nor false")
    return FLAGS[text]


def _taker_side(text: str) -> bool:
    """Whether the buyer was the maker, which is where the taker sold."""
    if text.lower() not in ("buy", "sell"):
        raise ValueError("is neither buy nor sell")
    return text.lower() == "sell"


class _Column(NamedTuple):
    """A column's name in the file, what it is to a tick, and how it is parsed; None where it is ignored."""

    name: str
    role: str
    parse: Callable[[str], object] | None
    may_be_empty: bool = False


COLUMNS: Mapping[Layout, tuple[_Column, ...]] = {
    "trades": (
        _Column("id", "trade_id", _whole),
        _Column("price", "price", _decimal),
        _Column("qty", "size", _decimal),
        _Column("quoteQty", "quote", _decimal),
        _Column("time", "time", _time),
        _Column("isBuyerMaker", "buyer_is_maker", _flag),
        _Column("isBestMatch", "best", _flag),
    ),
    "aggTrades": (
        _Column("aggId", "trade_id", _whole),
        _Column("price", "price", _decimal),
        _Column("qty", "size", _decimal),
        _Column("firstId", "first", _whole),
        _Column("lastId", "last", _whole),
        _Column("time", "time", _time),
        _Column("isBuyerMaker", "buyer_is_maker", _flag),
        _Column("isBestMatch", "best", _flag),
    ),
}

PLAIN_COLUMNS = {
    column.name: column
    for column in (
        _Column("time", "time", _time),
        _Column("price", "price", _decimal),
        _Column("size", "size", _decimal, may_be_empty=True),
        _Column("trade_id", "trade_id", _whole),
        _Column("buyer_is_maker", "buyer_is_maker", _flag, may_be_empty=True),
        _Column("side", "buyer_is_maker", _taker_side, may_be_empty=True),
    )
}


# Rows: from lines to ticks.


def _fields(text: str) -> list[str]:
    """A row's fields. Raises _BadField where it is too long or its quotes do not match; a field stays in its line."""
    if len(text) > MAX_LINE:
        raise _BadField("row", f"is longer than {MAX_LINE} characters")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _BadField("row", f"is not CSV: {error}") from None


def plain_columns(header: str, place: str) -> list[_Column]:
    """The columns that a plain file's header names. Raises OperatorError where they do not do; `place` is for that."""
    try:
        names = [field.strip().lower() for field in _fields(header)]
    except _BadField as bad:
        raise OperatorError(f"the header line of {place} {bad.reason}") from None
    columns = [PLAIN_COLUMNS.get(name, _Column(name, name, None)) for name in names]
    roles = [column.role for column in columns if column.parse]
    if missing := {"time", "price"} - set(roles):
        raise OperatorError(
            f"the header line of {place} names no {' and no '.join(sorted(missing))}: {header[:SHOWN]!r}"
        )
    if twice := {role for role in roles if roles.count(role) > 1}:
        raise OperatorError(f"the header line of {place} names {' and '.join(sorted(twice))} twice: {header[:SHOWN]!r}")
    return columns


def sniff(line: str) -> Layout | None:
    """The layout that the first line of a file tells, be it a header or a right row."""
    for layout, fast in FAST.items():
        if fast.match(line):
            return layout
    names = [field.strip(' "').lower().replace("_", "") for field in line[:MAX_LINE].split(",")]
    if "price" in names and "isbuyermaker" in names and "isbestmatch" in names:
        return "trades" if len(names) == len(COLUMNS["trades"]) else "aggTrades"
    return "plain" if "price" in names and "time" in names else None


class Rows:
    """The rows of one CSV file, parsed block by block."""

    def __init__(self, layout: Layout, instrument_id: InstrumentId, member: str, place: str) -> None:
        self._layout = layout
        self._instrument_id = instrument_id
        self._member = member
        self._place = place
        self._line = 0
        self._columns: Sequence[_Column] = ()

    def parse(self, block: str, ticks: list[Tick], rejected: list[Rejected]) -> None:
        """Append the block's ticks and rejected rows. Most blocks have right rows only and match as a whole."""
        if not self._columns:
            block = self._begin(block.removeprefix(BOM))
        fast = FAST.get(self._layout)
        if fast:
            rows = fast.findall(block)
            if len(rows) == block.count("\n"):
                self._line += len(rows)
                ticks += self._right(rows)
                return
        for line in block.split("\n")[:-1]:
            self._line += 1
            if fast and (row := fast.match(line)):
                ticks += self._right([row.groups()])
            elif line and not line.isspace():
                text = line.removesuffix("\r")
                try:
                    ticks.append(self._checked(text))
                except _BadField as bad:
                    rejected.append(Rejected(self._line, bad.field, bad.reason, _shown(text), _shown(self._member)))

    def _begin(self, block: str) -> str:
        """Learn the columns from the first line that is not blank, and cut it off if it is a header."""
        first = FIRST_LINE.search(block)
        if not first:
            self._line += block.count("\n")
            return ""
        line = first[0].rstrip()
        if self._layout == "plain":
            self._columns = plain_columns(line, self._place)
        else:
            self._columns = COLUMNS[self._layout]
            fields = line.split(",")
            if len(fields) != len(self._columns) or fields[1].strip(' "').lower() != "price":
                return block
        self._line += block.count("\n", 0, first.end() + 1)
        return block[first.end() + 1 :]

    def _right(self, rows: Iterable[Sequence[str]]) -> list[Tick]:
        """Ticks of rows that FAST matched; its patterns take nothing that `tick_problem` would refuse."""
        instrument_id = self._instrument_id
        return [
            Tick(
                instrument_id,
                int(trade_id),
                int(time) * 1000 if len(time) == 13 else int(time),
                Decimal(price),
                Decimal(size),
                flag[0] in "Tt1",
            )
            for trade_id, price, size, time, flag in rows
        ]

    def _checked(self, text: str) -> Tick:
        """The tick of a row, field by field. Raises _BadField at the first that is wrong."""
        fields = _fields(text)
        if len(fields) != len(self._columns):
            raise _BadField("row", f"has {len(fields)} columns instead of {len(self._columns)}")
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        for column, field in zip(self._columns, fields, strict=True):
            if column.parse is None or (not field and column.may_be_empty):
                continue
            try:
                values[column.role] = column.parse(field)
            except ValueError as error:
                raise _BadField(column.name, str(error) if field else "is empty") from None
            names[column.role] = column.name
        tick = Tick(
            self._instrument_id,
            values.get("trade_id", values["time"]),
            values["time"],
            values["price"],
            values.get("size", Decimal(0)),
            values.get("buyer_is_maker"),
        )
        if problem := tick_problem(tick):
            role, _, reason = problem.partition(" ")
            raise _BadField(names[role], reason)
        return tick


def _shown(text: str) -> str:
    """The beginning of a text, fit for a terminal."""
    start = text[:SHOWN]
    return start if start.isprintable() else start.encode("unicode_escape").decode()[:SHOWN]
