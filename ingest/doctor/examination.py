"""What every check is given: the connection, the range, the instruments, and where the lines are drawn."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString, NamedTuple

import msgspec
from psycopg import AsyncConnection, sql
from psycopg.rows import namedtuple_row

import sql as queries
from app.errors import OperatorError
from app.market.intervals import Interval, bucket_of
from app.market.model import DAY, MICROSECOND
from ingest.doctor.findings import EXAMPLES
from sql.engine import Engine

_QUERIES: Final = queries.load("doctor")


class Limits(msgspec.Struct, frozen=True):
    """Beyond these, something is wrong; all but the share of the queue are in seconds."""

    slack: float = 60  # ids and times of ticks may contradict each other this much; gaps are filled with the same slack
    stale: float = 10  # a refresher looks every second, and one pass takes some
    queue: float = 0.5
    replay: float = 10
    idle_transaction: float = 300
    transaction: float = 3_600
    clock: float = 2


class Subject(NamedTuple):
    """An instrument that is examined."""

    id: int
    symbol: str
    contiguous_ids: bool


class Day(NamedTuple):
    """A whole UTC day of an instrument that has ticks or candles."""

    subject: Subject
    start: datetime
    with_ticks: bool
    """Its ticks are kept; else its candles can only be held against each other."""

    @property
    def end(self) -> datetime:
        return self.start + DAY

    @property
    def values(self) -> dict[str, Any]:
        return {
            "instrument_id": self.subject.id,
            "contiguous": self.subject.contiguous_ids,
            "start": self.start,
            "end": self.end,
            "ticks_kept": self.with_ticks,
        }


class Examination:
    """A connection in autocommit mode, and what is to be looked at over it: times from `start` until before `end`."""

    def __init__(
        self,
        conn: AsyncConnection[Any],
        engine: Engine,
        role: str,
        start: datetime,
        end: datetime,
        subjects: Sequence[Subject],
        limits: Limits,
    ) -> None:
        self.conn = conn
        self.engine = engine
        self.role = role
        self.start = start
        self.end = end
        self.subjects = subjects
        self.limits = limits

    async def rows(self, query: str | sql.Composed, **values: Any) -> list[Any]:
        """All rows of a named query, or of one that was put together, as named tuples."""
        async with self.conn.cursor(row_factory=namedtuple_row) as cursor:
            await cursor.execute(_QUERIES[query] if isinstance(query, str) else query, values)
            return await cursor.fetchall()

    async def row(self, query: str | sql.Composed, **values: Any) -> Any:
        """The one row of a query that gives exactly one."""
        (row,) = await self.rows(query, **values)
        return row

    async def execute(self, query: str | sql.Composed, **values: Any) -> int:
        """Run a query for its effect; answers its row count."""
        cursor = await self.conn.execute(_QUERIES[query] if isinstance(query, str) else query, values)
        return cursor.rowcount

    async def pieces(self, subject: Subject) -> AsyncIterator[dict[str, Any]]:
        """The values for `anomalies` of each day, or part of one, of the range."""
        slack = timedelta(seconds=self.limits.slack)
        async for day in self.days(subject):
            start, end = max(day.start, self.start), min(day.end, self.end)
            before = await self.rows("tick_before", instrument_id=subject.id, time=start - slack)
            opening = (before[0].time if before else start) - slack
            yield {**day.values, "start": start, "end": end, "opening": opening, "slack": slack, "examples": EXAMPLES}

    async def days(self, subject: Subject) -> AsyncIterator[Day]:
        """The UTC days that the range touches, oldest first, from the first that has something to the last."""
        start, end = bucket_of(self.start, Interval.D1), bucket_of(self.end - MICROSECOND, Interval.D1) + DAY
        known = await self.row("extent", instrument_id=subject.id, start=start, end=end)
        if known.first is None:
            return
        first, last = bucket_of(known.first, Interval.D1), bucket_of(known.last, Interval.D1)
        there = await self.row("days_with_ticks", start=first, end=last)
        with_ticks = set(there.days)
        for number in range((last - first) // DAY + 1):
            day = first + number * DAY
            kept = there.kept_since is None or day >= there.kept_since
            yield Day(subject, day, kept and day in with_ticks)


def composed(query: str, **parts: str) -> sql.Composed:
    """A named query whose parts in braces are other named queries."""
    return sql.SQL(_QUERIES[query]).format(**{name: sql.SQL(_QUERIES[part]) for name, part in parts.items()})


def named(query: str) -> LiteralString:
    return _QUERIES[query]


async def examine(
    conn: AsyncConnection[Any],
    names: Sequence[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    limits: Limits | None = None,
) -> Examination:
    """An examination of some instruments (symbols, or bare tickers where unambiguous; none means all) over a range.

    The range is the last 24 hours where nothing is said. Raises OperatorError for a mistake in any of that.
    """
    end = end or datetime.now(UTC)
    start = start or end - DAY
    if end <= start:
        raise OperatorError("--to is not after --from")
    bare = Examination(conn, Engine.POSTGRES, "", start, end, [], limits or Limits())
    chosen = await bare.rows("chosen_engine")
    if not chosen:
        raise OperatorError("the database has not been migrated: run `tickwick migrate`")
    subjects = await _subjects(bare, [name.upper() for name in names])
    return Examination(conn, Engine(chosen[0].engine), chosen[0].role, start, end, subjects, bare.limits)


async def _subjects(examination: Examination, names: Sequence[str]) -> list[Subject]:
    found = await examination.rows("wanted_instruments", names=list(names) or None)
    for name in names:
        if any(row.symbol == name for row in found):
            continue
        meant = [row.symbol for row in found if row.ticker == name]
        if len(meant) != 1:
            raise OperatorError(
                f"{name} may be any of {', '.join(meant)}: say which" if meant else f"no instrument is called {name!r}"
            )
    wanted = [row for row in found if not names or row.symbol in names or row.ticker in names]
    return [Subject(row.id, row.symbol, row.contiguous_ids) for row in wanted]


@asynccontextmanager
async def as_owner(examination: Examination) -> AsyncIterator[None]:
    """A transaction as tickwick_owner. Raises psycopg's InsufficientPrivilege where the role may not act as it."""
    async with examination.conn.transaction():
        await examination.execute("become_owner")
        yield
