"""Frames that no venue should send: strategies for values, and the promise that every parser keeps."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from app.market.model import Tick, tick_problem
from ingest.sources import AccessDenied, ClosingSoon, GarbageFrame, RequestRefused, TryLater

numbers = st.sampled_from(["0", "-0", "1E-18", "NaN", "-NaN", "sNaN", "Infinity", "1e5", "1_0", " 1", "9" * 40, "."])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    numbers,
    st.sampled_from(
        [1e300, 1e-300, "9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00+12:00", "1969-01-01T00:00:00Z"]
    ),
    st.decimals().map(str),
    st.lists(st.integers(), max_size=2),
)

BROKEN = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"stream":"x"}',
    b'{"id":1}',
]


def altered(event: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The event with some of its fields changed, and some gone."""
    changed = st.dictionaries(st.sampled_from(sorted(event)), values, max_size=3)
    gone = st.sets(st.sampled_from(sorted(event)), max_size=1)
    return st.tuples(changed, gone).map(
        lambda pair: {key: value for key, value in {**event, **pair[0]}.items() if key not in pair[1]}
    )


@st.composite
def damaged(draw: st.DrawFn, frames: Sequence[bytes]) -> bytes:
    frame = draw(st.sampled_from(list(frames)))
    at = draw(st.integers(0, len(frame)))
    damage: Callable[[bytes], bytes] = draw(
        st.sampled_from([lambda f: f[:at], lambda f: f[at:], lambda f: f[:at] + b"\x80" + f[at + 1 :]])
    )
    return damage(frame)


def check(parse: Callable[[], Sequence[Tick]]) -> None:
    """A parser answers with ticks fit to be stored, or raises one of its own exceptions."""
    try:
        ticks = parse()
    except (GarbageFrame, ClosingSoon, RequestRefused, TryLater, AccessDenied):
        return
    assert [tick_problem(tick) for tick in ticks] == [None] * len(ticks)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()
