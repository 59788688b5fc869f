"""The candles of every stored level against the ticks, as a reader sees them; and their cure.

Where ticks are no longer kept, hours are held against minutes and days against hours. Retention never deletes a candle,
and neither does a cure: a candle that knows more trades than its ticks may be all that is left of them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from app.market.intervals import Interval, next_bucket
from app.market.model import MICROSECOND
from ingest.doctor.examination import Day, Examination, Subject, composed
from ingest.doctor.findings import EXAMPLES, Cure, Finding, counted, listed, moment
from ingest.refresher import Refresher
from sql.engine import Engine

# The refresher joins windows beyond a hundred, and would count anew what lies between.
_MARKS_AT_ONCE: Final = 50
_Cure = Callable[[Examination, Day], Awaitable[tuple[int, str | None]]]
"""How many candles of a day it mended, and why not others."""


async def candles(examination: Examination) -> list[Finding]:
    """Each candle equals what its ticks make, in all columns."""
    return [await _candles(examination, subject) for subject in examination.subjects]


async def _candles(examination: Examination, subject: Subject) -> Finding:
    examples: list[str] = []
    counts: dict[str, int] = {}
    kept = waiting = days = without_ticks = 0
    async for day in examination.days(subject):
        days += 1
        without_ticks += not day.with_ticks
        for row in await wrong_candles(examination, day):
            if row.waits and examination.engine is Engine.TIMESCALEDB:
                waiting += 1
                continue
            counts[row.level] = counts.get(row.level, 0) + 1
            kept += not row.rebuildable
            if len(examples) < EXAMPLES:
                examples.append(describe(row.level, row.bucket, row.kind, row.columns))
    notes = []
    if without_ticks:
        notes.append(f"{counted(without_ticks, 'day')} without ticks: levels held against each other")
    if waiting:
        notes.append(f"{counted(waiting, 'candle')} about to be refreshed")
    if not counts:
        detail = f"as the ticks of {counted(days, 'day')} make them" if days > without_ticks else "nothing to compare"
        return Finding("candles", subject.symbol, "ok", "; ".join([detail, *notes]))
    total = sum(counts.values())
    per_level = ", ".join(f"{count:,} of {level}" for level, count in counts.items())
    if kept:
        notes.append(f"{kept:,} of them know more trades than there are ticks")
    return Finding(
        "candles",
        subject.symbol,
        "wrong",
        "; ".join([f"{counted(total, 'candle')} wrong ({per_level}): {listed(examples, total)}", *notes]),
        _remedy(total, kept),
    )


def _remedy(total: int, kept: int) -> str:
    said = []
    if kept < total:
        said.append("--repair counts them anew")
    if kept:
        said.append("where ticks were lost, get them back first (`tickwick backfill`, `tickwick import`)")
    return "; ".join(said)


def describe(level: str, bucket: datetime, kind: str, columns: Sequence[str]) -> str:
    what = {"surplus": "has no ticks", "twice": "is there twice"}.get(kind, kind)
    if kind == "different":
        what = f"differs in {', '.join(columns)}"
    return f"{level} {moment(bucket)} {what}"


async def wrong_candles(examination: Examination, day: Day) -> list[Any]:
    return await examination.rows(composed("wrong_candles", differences="differences"), **day.values)


async def rebuild(examination: Examination) -> list[Cure]:
    """Bring the candles that can be rebuilt in line with their ticks, a day at a time."""
    cure = _refresh if examination.engine is Engine.TIMESCALEDB else _recount
    return [told async for told in _each(examination, cure)]


async def _each(examination: Examination, cure: _Cure) -> AsyncIterator[Cure]:
    for subject in examination.subjects:
        mended = 0
        refused: str | None = None
        async for day in examination.days(subject):
            if any(row.rebuildable for row in await wrong_candles(examination, day)):
                done, reason = await cure(examination, day)
                mended += done
                refused = refused or reason
        if mended:
            yield Cure("candles", subject.symbol, True, f"{counted(mended, 'candle')} counted anew")
        if refused:
            yield Cure("candles", subject.symbol, False, refused)


async def _recount(examination: Examination, day: Day) -> tuple[int, str | None]:
    """Exact beside a running ingester: its trigger waits for us and we for it, and then it adds to ours."""
    async with examination.conn.transaction():
        await examination.execute("stop_roll_up")
        wrong = [row for row in await wrong_candles(examination, day) if row.rebuildable]
        recount = await examination.row(composed("rebuild_candles", differences="differences"), **day.values)
        for start, end in spans((row.bucket, _end(row)) for row in wrong):
            await _mark(examination, day, start, end)
    await Refresher(examination.conn, examination.engine).settle()  # it is for the listeners here
    return recount.rebuilt, None


async def _refresh(examination: Examination, day: Day) -> tuple[int, str | None]:
    """Through the refresher, which counts anew for all instruments: never where one of them has lost ticks."""
    if not day.with_ticks:
        return 0, f"the ticks of {moment(day.start)} are gone: refresh the levels above the minutes alone, by hand"
    wrong = [row for row in await wrong_candles(examination, day) if row.rebuildable]
    refused: str | None = None
    marked = 0
    refresher = Refresher(examination.conn, examination.engine)
    for start, end in spans((row.bucket, _end(row)) for row in wrong):
        if (await examination.row("refresh_would_lose", start=start, end=end)).loses:
            refused = f"a refresh from {moment(start)} to {moment(end)} would lose candles whose ticks are gone"
            continue
        await _mark(examination, day, start, end)
        marked += 1
        if marked % _MARKS_AT_ONCE == 0:
            await refresher.settle()
    await refresher.settle()
    left = sum(row.rebuildable for row in await wrong_candles(examination, day))
    return max(len(wrong) - left, 0), refused


async def _mark(examination: Examination, day: Day, start: datetime, end: datetime) -> None:
    await examination.execute("mark_stale", instrument_id=day.subject.id, start=start, end=end - MICROSECOND)


def _end(row: Any) -> datetime:
    return next_bucket(row.bucket, Interval(row.level))


def spans(found: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """The same stretches of time, ascending, joined where they meet or overlap."""
    joined: list[tuple[datetime, datetime]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
