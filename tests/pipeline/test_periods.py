"""Calendar periods in UTC begin and end where the calendar says."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.periods import moment, period_bounds, period_end_ms
from schemas.meter import Period
from tests.pipeline.usage_log import EPOCH, SECOND_MAX, core, utc

LAST = utc(2262, 4, 10, 23, 59, 59, 999_999)

moments = st.integers(0, SECOND_MAX).map(lambda at: EPOCH + timedelta(seconds=at)) | st.builds(
    lambda year, month, microseconds: (
        utc(year + month // 12, month % 12 + 1, 1) + timedelta(microseconds=microseconds)
    ),
    st.integers(1971, 2260),
    st.integers(0, 12),
    st.sampled_from([-1, 0, 1, 86_400_000_000, -86_400_000_000]),
)


def by_calendar(at: datetime, period: Period) -> tuple[datetime, datetime]:
    """Start and end of a period, by the standard library alone."""
    day = utc(at.year, at.month, at.day)
    if period == "day":
        return day, day + timedelta(days=1)
    start = day.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def milliseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(milliseconds=1)


@pytest.mark.parametrize("period", ["month", "day"])
@core(200)
@given(moment=moments)
@example(moment=utc(2028, 2, 29, 23, 59, 59, 999_999))
@example(moment=utc(2100, 3, 1))
@example(moment=utc(2026, 12, 31, 23, 59, 59))
@example(moment=LAST)
def test_a_period_is_that_of_the_calendar(period: Period, moment: datetime) -> None:
    nanos = (moment - EPOCH) // timedelta(microseconds=1) * 1_000 + 999
    start, end = (milliseconds(bound) for bound in by_calendar(moment, period))
    starts, ends = period_bounds(np.array([nanos]), period)
    assert (starts.tolist(), ends.tolist()) == ([start], [end])
    assert period_end_ms(start, period) == end


@pytest.mark.parametrize("period", ["month", "day"])
def test_periods_follow_each_other_without_gap_or_overlap(period: Period) -> None:
    days = np.arange(0, 106_751, dtype=np.int64) * 86_400 * 10**9
    starts, ends = period_bounds(days, period)
    at_ms = days // 10**6
    assert ((starts <= at_ms) & (at_ms < ends)).all()
    boundaries = np.unique(starts)
    assert (boundaries[1:] == np.unique(ends)[:-1]).all()


@core(100)
@given(st.integers(0, 106_751 * 86_400_000 - 1))
def test_a_moment_is_exact_to_the_millisecond(ms: int) -> None:
    assert milliseconds(moment(ms)) == ms
    assert moment(ms).utcoffset() == timedelta(0)
