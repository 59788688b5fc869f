"""What the doctor says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

State = Literal["ok", "wrong", "unknown"]
"""unknown: this role may not see it, or it cannot be told now; the detail says why."""

EXAMPLES = 3
"""How many of a kind a finding names; it tells the count of the rest."""


class Finding(msgspec.Struct, frozen=True):
    """The outcome of a check for one subject; `remedy` says what to do where it is wrong."""

    check: str
    subject: str
    state: State
    detail: str
    remedy: str | None = None


class Cure(msgspec.Struct, frozen=True):
    """What `--repair` did, or why it could not."""

    check: str
    subject: str
    done: bool
    detail: str


class Report(msgspec.Struct, frozen=True):
    """A whole examination. `state` is wrong where any finding is, else unknown where any is, else ok."""

    state: State
    start: datetime = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    engine: str = ""
    role: str = ""
    findings: list[Finding] = []
    repairs: list[Cure] = []


def worst(findings: Sequence[Finding]) -> State:
    """The state of the whole."""
    states = {finding.state for finding in findings}
    return "wrong" if "wrong" in states else "unknown" if "unknown" in states else "ok"


def listed(examples: Sequence[str], count: int) -> str:
    """A few examples of `count` things, and how many more there are."""
    shown = list(examples[:EXAMPLES])
    rest = count - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A length of time, to the largest unit that fits."""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")


def moment(time: datetime) -> str:
    """A UTC time, as --from and --to take it, without what is zero."""
    return time.isoformat().replace("+00:00", "Z")
