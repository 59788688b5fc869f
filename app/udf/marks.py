"""Marks on a chart: what happened to an instrument at a time. Each supplier of `SUPPLIERS` tells of one kind."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from html import escape
from typing import Final, NamedTuple

from app.market import store
from app.market.intervals import Interval, bucket_of, next_bucket
from app.market.model import Instrument
from app.market.store import Connection, Gap
from app.udf.model import Marks, TimescaleMark
from app.udf.reads import seconds

MAX_MARKS: Final = 1_000
"""Of each kind, the newest."""
ORANGE: Final = "#ff9800"
RED: Final = "#f23645"
WHITE: Final = "#ffffff"
SIZE: Final = 14


class Mark(NamedTuple):
    """`label` is one letter; `text` tells the whole, as HTML."""

    id: str
    time: datetime
    color: str
    label: str
    text: str


Supplier = Callable[[Connection, Instrument, datetime, datetime], Awaitable[list[Mark]]]
"""The marks of an instrument from a time to before another."""


async def gap_marks(conn: Connection, instrument: Instrument, start: datetime, end: datetime) -> list[Mark]:
    """Where trades are missing: a mark on the bar of the last trade before them."""
    return [_gap_mark(gap) for gap in await store.gaps_between(conn, instrument, start, end, MAX_MARKS)]


def _gap_mark(gap: Gap) -> Mark:
    count = gap.to_id - gap.from_id + 1
    text = f"{count:,} trades are missing" if count > 1 else "1 trade is missing"
    if gap.state == "open":
        return Mark(f"gap-{gap.from_id}", gap.from_time, ORANGE, "G", f"{text}; the repair goes on")
    return Mark(f"gap-{gap.from_id}", gap.from_time, RED, "G", f"{text} for good: {escape(gap.reason or '')}")


SUPPLIERS: Final[tuple[Supplier, ...]] = (gap_marks,)


async def marks(
    conn: Connection, instrument: Instrument, interval: Interval, start: datetime, end: datetime
) -> list[Mark]:
    """All marks on the bars from that of `start` to that of `end`, ascending, each at the start of its bar."""
    first, after = bucket_of(start, interval), next_bucket(bucket_of(end, interval), interval)
    found = [mark for supplier in SUPPLIERS for mark in await supplier(conn, instrument, first, after)]
    found.sort(key=lambda mark: (mark.time, mark.id))
    return [mark._replace(time=bucket_of(mark.time, interval)) for mark in found]


def on_bars(found: list[Mark]) -> Marks:
    return Marks(
        id=[mark.id for mark in found],
        time=[seconds(mark.time) for mark in found],
        color=[mark.color for mark in found],
        text=[mark.text for mark in found],
        label=[mark.label for mark in found],
        label_font_color=[WHITE] * len(found),
        min_size=[SIZE] * len(found),
    )


def on_timescale(found: list[Mark]) -> list[TimescaleMark]:
    return [TimescaleMark(mark.id, seconds(mark.time), mark.color, mark.label, [mark.text]) for mark in found]
