"""Checks of the ticks of each instrument: their ids, and what the database itself says is missing or waits."""

from typing import Any

from ingest.doctor.examination import Examination, Subject, composed
from ingest.doctor.findings import Finding, counted, duration, listed, moment

_OPEN_REMEDY = "a running ingester fetches it, or `tickwick backfill`"


async def ids(examination: Examination) -> list[Finding]:
    """No jump that no gap explains, no id out of the order of time, no id twice; of each instrument by itself."""
    return [await _ids(examination, subject) for subject in examination.subjects]


async def _ids(examination: Examination, subject: Subject) -> Finding:
    query = composed("examples_of_anomalies", anomalies="anomalies")
    found: dict[str, list[Any]] = {}
    counts: dict[str, int] = {}
    missing = 0
    async for piece in examination.pieces(subject):
        rows = await examination.rows(query, **piece)
        for kind in {row.kind for row in rows}:
            of_kind = [row for row in rows if row.kind == kind]
            found.setdefault(kind, []).extend(of_kind[: 10 - len(found.get(kind, []))])
            counts[kind] = counts.get(kind, 0) + of_kind[0].count
            missing += int(of_kind[0].ids) if kind == "jump" else 0
    if not counts:
        detail = "contiguous, in order, each once" if subject.contiguous_ids else "in order, each once"
        return Finding("ids", subject.symbol, "ok", detail)
    said, remedies = [], []
    if "jump" in counts:
        said.append(f"{counted(missing, 'id')} missing that no gap tells of: {_spans(found, counts, 'jump')}")
        remedies.append("--repair opens gaps")
    if "order" in counts:
        said.append(f"the order of ids is not that of times: {_spans(found, counts, 'order', ' → ')}")
        remedies.append("look at those ticks: one of each two has a wrong id or time")
    if "twice" in counts:
        examples = [f"{r.to_id} at {moment(r.from_time)} and {moment(r.to_time)}" for r in found["twice"]]
        said.append(f"ids stored with two times: {listed(examples, counts['twice'])}")
        remedies.append("delete the tick whose time is wrong")
    return Finding("ids", subject.symbol, "wrong", "; ".join(said), "; ".join(remedies))


def _spans(found: dict[str, list[Any]], counts: dict[str, int], kind: str, between: str = "-") -> str:
    spans = [f"{r.from_id}" if r.from_id == r.to_id else f"{r.from_id}{between}{r.to_id}" for r in found[kind]]
    return listed([f"{s} at {moment(r.to_time)}" for s, r in zip(spans, found[kind], strict=True)], counts[kind])


async def gaps(examination: Examination) -> list[Finding]:
    """Gaps that are open are wrong; those that can never be filled are told."""
    symbols = {subject.id: subject.symbol for subject in examination.subjects}
    rows = await examination.rows(
        "gaps_in_range", instrument_ids=list(symbols), start=examination.start, end=examination.end
    )
    if not rows:
        return [Finding("gaps", "all instruments", "ok", "none is open")]
    return [_gap(symbols[row.instrument_id], row) for row in rows]


def _gap(symbol: str, row: Any) -> Finding:
    span = f"{row.from_id}-{row.to_id}" if row.count == 1 else f"the first {row.from_id}-{row.to_id}"
    what = f"{counted(row.count, row.state + ' gap')} of {counted(int(row.ids), 'id')}, {span}"
    if row.state == "open":
        return Finding("gaps", symbol, "wrong", f"{what}, since {moment(row.since)}", _OPEN_REMEDY)
    return Finding("gaps", symbol, "ok", f"{what}: {listed(row.reasons or [], len(row.reasons or []))}")


async def stale_ranges(examination: Examination) -> list[Finding]:
    """Late ticks are brought into their candles within moments."""
    row = await examination.row("waiting_ranges")
    if not row.count:
        return [Finding("stale ranges", "refresher", "ok", "none waits")]
    detail = f"{counted(row.count, 'range')} of late ticks, the oldest since {duration(row.seconds)}"
    if row.seconds <= examination.limits.stale:
        return [Finding("stale ranges", "refresher", "ok", detail)]
    remedy = "start `tickwick ingest`, whose refresher settles them, or --repair"
    return [Finding("stale ranges", "refresher", "wrong", detail, remedy)]
