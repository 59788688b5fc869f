"""Which buckets a refresh covers."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.market.intervals import STORED, Interval, bucket_of, next_bucket
from ingest.refresher import StaleRange, Window, joined, windows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2024, 3, 15, tzinfo=UTC)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def ranges(*spans: tuple[float, float]) -> list[StaleRange]:
    return [StaleRange(number, 1, at(a), at(b)) for number, (a, b) in enumerate(spans)]


def found(
    spans: list[StaleRange], *, oldest: datetime = EPOCH, newest: datetime = FAR, watermark: datetime = FAR
) -> list[Window]:
    return [*windows(spans, Interval.M1, oldest=oldest, newest=newest, watermark=watermark)]


def test_windows_are_whole_buckets_merged_where_they_meet() -> None:
    spans = ranges((10.5, 10.7), (3, 3), (11, 11.9), (20, 21))
    assert found(spans) == [Window(at(3), at(4)), Window(at(10), at(12)), Window(at(20), at(22))]


def test_windows_hold_nothing_before_the_oldest_whole_bucket() -> None:
    assert found(ranges((1, 1), (5.5, 7)), oldest=at(5.2)) == [Window(at(6), at(8))]
    assert found(ranges((5.5, 7)), oldest=at(5)) == [Window(at(5), at(8))]
    assert found(ranges((1, 5.9)), oldest=at(5.2)) == []


def test_windows_beyond_the_watermark_begin_at_it_and_end_with_the_newest_whole_bucket() -> None:
    spans = ranges((2, 2), (12, 12), (30, 30))
    assert found(spans, watermark=at(5), newest=at(20.5)) == [Window(at(2), at(3)), Window(at(5), at(13))]
    assert found(ranges((19.5, 20.2)), watermark=at(5), newest=at(20.9)) == [Window(at(5), at(20))]


def test_windows_below_the_watermark_are_covered_however_new_they_are() -> None:
    assert found(ranges((8, 8)), watermark=at(10), newest=at(3)) == [Window(at(8), at(9))]


def test_joined_keeps_the_widest_gaps() -> None:
    apart = [Window(at(a), at(a + 1)) for a in (0, 2, 10, 13, 100)]
    assert joined(apart, 9) == apart
    assert joined(apart, 3) == [Window(at(0), at(3)), Window(at(10), at(14)), Window(at(100), at(101))]
    assert joined(apart, 1) == [Window(at(0), at(101))]
    assert joined([], 3) == []


moments = st.floats(0, 5000).map(at)


@given(st.lists(st.tuples(moments, moments), max_size=12), st.sampled_from(STORED), moments, moments)
def test_windows_cover_every_materialised_moment_of_every_range_and_move_no_watermark_past_a_hole(
    pairs: list[tuple[datetime, datetime]], level: Interval, newest: datetime, mark: datetime
) -> None:
    watermark = bucket_of(mark, level)
    spans = [StaleRange(n, 1, min(pair), max(pair)) for n, pair in enumerate(pairs)]
    covered = joined([*windows(spans, level, oldest=EPOCH, newest=newest, watermark=watermark)], 4)
    assert len(covered) <= 4
    for window, after in pairwise(covered):
        assert window.end < after.start
    for window in covered:
        assert window.start == bucket_of(window.start, level) < window.end == bucket_of(window.end, level)
        assert window.end <= watermark or (window.start <= watermark and window.end <= newest)
    for span in spans:
        for moment in (span.start, span.end):
            if next_bucket(bucket_of(moment, level), level) <= watermark:
                assert any(window.start <= moment < window.end for window in covered)
