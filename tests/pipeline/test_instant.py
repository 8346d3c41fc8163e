"""Times are read exactly, whatever their shape, and alone as in a column of thousands."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.instant import INVALID, LAST_NS, days_from_civil, parse_instant, parse_instants
from tests.pipeline.usage_log import EPOCH, SECOND_MAX, core, utc

moments = st.integers(0, SECOND_MAX).map(lambda at: EPOCH + timedelta(seconds=at)) | st.builds(
    # Around the ends of days, months and years, leap days among them.
    lambda year, month, seconds: (
        utc(year + month // 12, month % 12 + 1, 1) + timedelta(seconds=seconds)
    ),
    st.integers(1971, 2260),
    st.integers(0, 12),
    st.integers(-90_000, 90_000),
)


def nanoseconds(moment: datetime, nanos: int = 0) -> int:
    since = moment.replace(microsecond=0) - EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + nanos


@core(300)
@given(moments, st.text("0123456789", max_size=12))
@example(utc(2028, 2, 29, 23, 59, 59), "")
@example(utc(2100, 2, 28, 23, 59, 59), "999999999999")
@example(utc(1972, 12, 31, 23, 59, 59), "9")
def test_a_time_in_utc_is_what_datetime_says(moment: datetime, fraction: str) -> None:
    text = f"{moment:%Y-%m-%dT%H:%M:%S}{'.' * bool(fraction)}{fraction}Z"
    expected = nanoseconds(moment, int(fraction[:9].ljust(9, "0")))
    assert parse_instant(text) == expected
    assert parse_instants([text]).tolist() == [expected]


@core(200)
@given(
    moments, st.integers(-23 * 60 - 59, 23 * 60 + 59), st.sampled_from("Tt "), st.sampled_from("Zz")
)
def test_an_offset_is_subtracted(moment: datetime, minutes: int, between: str, zulu: str) -> None:
    written = f"{moment:%Y-%m-%d}{between}{moment:%H:%M:%S}"
    offset = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    in_utc = nanoseconds(moment) - minutes * 60 * 10**9
    expected = in_utc if 0 <= in_utc < LAST_NS else None
    assert parse_instant(written + offset) == expected
    assert parse_instant(written + zulu) == nanoseconds(moment)


FAULTS = (
    "",
    "now",
    "2026-11-20T09:30:00",
    "2026-11-20T09:30:00.Z",
    "2026-11-20T09:30Z",
    "2026-11-20",
    "2026-02-29T00:00:00Z",
    "2100-02-29T00:00:00Z",
    "2026-04-31T00:00:00Z",
    "2026-00-10T00:00:00Z",
    "2026-13-10T00:00:00Z",
    "2026-11-00T00:00:00Z",
    "2026-11-20T24:00:00Z",
    "2026-11-20T23:60:00Z",
    "2026-11-20T23:59:60Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+00:01",
    "2262-04-11T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "2026-11-20T09:30:00+24:00",
    "2026-11-20T09:30:00+01:60",
    "2026-11-20T09:30:00+0100",
    "2026-11-20T09:30:00Z\0",
    "\x002026-11-20T09:30:00Z",
    "2026-11-20T09:30:00Z ",
    "2026-11-20T09:30:0\N{ARABIC-INDIC DIGIT ONE}Z",
    "\N{FULLWIDTH DIGIT TWO}026-11-20T09:30:00Z",
    "2026/11/20T09:30:00Z",
    "+026-11-20T09:30:00Z",
    "2026-11-20T09:30:00.12a456Z",
)


@pytest.mark.parametrize("text", FAULTS)
def test_what_is_no_time_or_out_of_range_is_none_alone_and_in_a_column(text: str) -> None:
    assert parse_instant(text) is None
    assert parse_instants([text, "2026-11-20T09:30:00Z"]).tolist() == [
        INVALID,
        nanoseconds(utc(2026, 11, 20, 9, 30)),
    ]


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:00Z", "2262-04-10T23:59:59.999999999Z", "1970-01-01T01:00:00+01:00"]
)
def test_the_first_and_the_last_instant_are_in_range(text: str) -> None:
    assert parse_instants([text]).tolist() == [parse_instant(text)]
    assert parse_instant(text) in (0, LAST_NS - 1)


alphabet = st.sampled_from("0123456789-:T.Z+ az\0é")
shapes = st.one_of(
    st.sampled_from(FAULTS),
    moments.map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}Z"),
    moments.map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}.{moment:%f}Z"),
    moments.map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}.{moment:%f}987654Z"),
    moments.map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}+05:30"),
    st.text(alphabet, min_size=18, max_size=32),
    st.builds(
        # One character of a good time replaced by another.
        lambda at, character: (t := "2026-11-20T09:30:00.125Z")[:at] + character + t[at + 1 :],
        st.integers(0, 23),
        alphabet,
    ),
)


@core(200)
@given(st.lists(shapes, min_size=1, max_size=20))
def test_a_column_says_the_same_as_each_time_alone(texts: list[str]) -> None:
    alone = [parse_instant(text) for text in texts]
    expected = [INVALID if instant is None else instant for instant in alone]
    assert parse_instants(texts).tolist() == expected


def test_one_long_text_does_not_widen_the_column() -> None:
    texts = ["2026-11-20T09:30:00Z"] * 50_000 + ["9" * 1_000_000]
    instants = parse_instants(texts)
    assert instants[-1] == INVALID
    assert set(instants[:-1].tolist()) == {nanoseconds(utc(2026, 11, 20, 9, 30))}


def test_an_empty_column_is_empty() -> None:
    assert parse_instants([]).tolist() == []


def test_days_count_like_the_calendar_over_four_centuries() -> None:
    dates = np.arange(np.datetime64("1970-01-01"), np.datetime64("2370-01-01"))
    months = dates.astype("datetime64[M]")
    year = months.astype("datetime64[Y]").astype(np.int64) + 1970
    month = months.astype(np.int64) % 12 + 1
    day = (dates - months).astype(np.int64) + 1
    assert (days_from_civil(year, month, day) == dates.astype(np.int64)).all()
