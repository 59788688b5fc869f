"""What an answer of a venue tells of missing ids: ticks, ids that it does not have, and what is left to ask. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.errors import TickwickError
from app.market.model import Tick, tick_problem
from ingest.gaps import Absent
from ingest.sequence import Hole

NO_SUCH_IDS: Final = "the exchange has no trades with these ids"
NO_LONGER_KEPT: Final = "ticks as old as these are no longer kept"

# Within it the times of a venue's trades may disagree with the order of their ids; as in sql/queries/gaps.sql.
_DISORDER_US: Final = 60_000_000


class Untold(TickwickError):
    """The venue's answer neither brings the ticks that were asked for nor proves that there are none."""


class Finding(NamedTuple):
    """What an answer tells of a range of missing ids, from its start on; `rest` is where it tells no more."""

    ticks: list[Tick]
    absent: list[Absent]
    rest: Hole | None


def examine(wanted: Hole, page: Sequence[Tick], kept_since_us: int) -> Finding:
    """What a page, asked for from the first missing id on, tells of the missing ids.

    Ids that it leaves out, though it has later ones, do not exist. Ticks that the table would refuse count as absent.
    Raises Untold where the page is empty, or cannot be an answer: ids that were not asked for or do not rise, times far
    from those of the ticks around.
    """
    ticks: list[Tick] = []
    absent: list[Absent] = []
    left = wanted
    for tick in page:
        if tick.instrument_id != wanted.instrument_id or tick.trade_id < left.from_id:
            raise Untold(f"the exchange answered with trade {tick.trade_id} when asked from {wanted.from_id} on")
        if tick.trade_id > wanted.to_id:
            return Finding(ticks, _joined([*absent, Absent(left, NO_SUCH_IDS)]), None)
        if not _near(tick, wanted):
            raise Untold(f"the exchange's time of trade {tick.trade_id} is far from that of its neighbours")
        if tick.trade_id > left.from_id:
            none = left._replace(to_id=tick.trade_id - 1, to_time_us=tick.time_us)
            absent.append(Absent(none, NO_SUCH_IDS))
        if problem := _problem(tick, kept_since_us):
            this = left._replace(from_id=tick.trade_id, to_id=tick.trade_id, to_time_us=tick.time_us)
            absent.append(Absent(this, problem))
        else:
            ticks.append(tick)
        if tick.trade_id == wanted.to_id:
            return Finding(ticks, _joined(absent), None)
        left = left._replace(from_id=tick.trade_id + 1, from_time_us=tick.time_us)
    if not page:
        raise Untold(f"the exchange tells nothing from trade {wanted.from_id} on")
    return Finding(ticks, _joined(absent), left)


def _near(tick: Tick, wanted: Hole) -> bool:
    return wanted.from_time_us - _DISORDER_US <= tick.time_us <= wanted.to_time_us + _DISORDER_US


def _problem(tick: Tick, kept_since_us: int) -> str | None:
    if tick.time_us < kept_since_us:
        return NO_LONGER_KEPT
    problem = tick_problem(tick)
    return f"cannot be stored: {problem}" if problem else None


def undecided(gap: Hole, hole: Hole, wanted: Hole | None, finding: Finding, *, over: bool) -> Hole | None:
    """The end of a gap that stays open: where the turn is over, what was not asked for; else what is not absent yet.

    So a gap is cut at what is absent, and no more often than turns end.
    """
    if finding.absent and not over:
        absent = finding.absent[-1].hole
        return gap._replace(from_id=absent.to_id + 1, from_time_us=absent.from_time_us)
    if wanted:
        return gap._replace(from_id=wanted.from_id, from_time_us=wanted.from_time_us)
    if hole.to_id == gap.to_id:
        return None
    return gap._replace(from_id=hole.to_id + 1, from_time_us=hole.to_time_us)


def _joined(absent: list[Absent]) -> list[Absent]:
    """The same, but neighbours with one reason are one."""
    joined: list[Absent] = []
    for hole, reason in absent:
        if joined and joined[-1].reason == reason and joined[-1].hole.to_id + 1 == hole.from_id:
            before = joined.pop().hole
            hole = before._replace(to_id=hole.to_id, to_time_us=hole.to_time_us)
        joined.append(Absent(hole, reason))
    return joined
