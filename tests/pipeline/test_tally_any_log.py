"""Any log is counted like a brute force counts it, however it is cut, and whatever is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shard as shard_module
from pipeline import tally as tally_module
from pipeline import total_columns
from tests.pipeline.brute_force import Document, Outcome, Usage, expect
from tests.pipeline.shard_log import (
    DAY_MS,
    DECEMBER_MS,
    HOUR_MS,
    NOVEMBER_MS,
    Play,
    arriving,
    intake,
    meter,
)
from tests.pipeline.usage_log import core, pieces

MODEL = {"model": "$.model"}
METERS = [
    meter("sum", "sum", group_by=MODEL),
    meter("sum_daily", "sum", "day", grace_hours=24),
    meter("count", "count", "day", grace_hours=0, group_by={"b": "$.region", "a": "$.model"}),
    meter("max", "max", group_by=MODEL),
    meter("min", "min", "day"),
    meter("latest", "latest", group_by=MODEL),
    meter("latest_daily", "latest", "day"),
    meter("other", "sum", event_type="other"),
]
ADDED = meter("added", "count", group_by=MODEL)


def plan(slug: str, limit: str, names: Sequence[str]) -> Document:
    limits = [{"meter": m["slug"], "limit": limit, "thresholds": list(names)} for m in METERS]
    return {"slug": slug, "limits": limits}


#: What may hold after a change of the definitions: other limits, other plans, one more meter.
BEFORE: Document = {
    "meters": METERS,
    "plans": [
        plan("free", "10", ["50%", "100%", "10", "0.000000001", "33.3%"]),
        plan("pro", "1000", ["0%", "80%", "100%", "1200", "-3"]),
    ],
    "customers": [{"id": "c1", "plan": "free"}, {"id": "c2", "plan": "pro"}, {"id": "c3"}],
}
AFTER: Document = {
    "meters": [*METERS, ADDED],
    "plans": [
        plan("free", "20", ["25%", "50%", "100%", "10"]),
        plan("pro", "5", ["20%", "80%", "100%"]),
    ],
    "customers": [{"id": "c1", "plan": "pro"}, {"id": "c2", "plan": "pro"}, {"id": "c4"}],
}


values = st.one_of(
    st.integers(-4, 12).map(str),
    st.sampled_from(["0.000000001", "-0.000000001", "0.5", "7.123456789", "3.33", "-12.5"]),
    st.sampled_from(["1e3", "99999999999999999999999999999999999999", "-9" + "0" * 37]),
    st.sampled_from(["9223372036854775807", "9223372036854775808", "-9223372036854775808"]),
    st.sampled_from(["12345678901234567890123456789.123456789", "4611686018427387904"]),
)
#: Around the end of November, of a day, and of the periods' grace.
times = st.builds(
    lambda base, off: base * 1_000 + off,
    st.sampled_from([DECEMBER_MS, DECEMBER_MS - DAY_MS, DECEMBER_MS - 5 * DAY_MS, NOVEMBER_MS]),
    st.sampled_from([-1, 0, 1, 1_000, 3_600_000_000]),
)
arrivals = st.builds(
    lambda base, off: base + off,
    st.sampled_from([DECEMBER_MS - 5 * DAY_MS, DECEMBER_MS, DECEMBER_MS + DAY_MS])
    | st.just(DECEMBER_MS + 3 * DAY_MS),
    st.sampled_from([-1, 0, 1, HOUR_MS]),
)
usages = st.builds(
    Usage,
    id=st.integers(0, 60).map(str),
    customer=st.sampled_from(["c1", "c1", "c2", "c3", "c4", "stranger"]),
    type=st.sampled_from(["llm", "llm", "llm", "other", "unmetered"]),
    time_us=times,
    received_ms=arrivals,
    data=st.fixed_dictionaries(
        {"n": values},
        optional={"model": st.sampled_from(["m", "x", ""]), "region": st.sampled_from(["m", "e"])},
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Usage]:
    """Any events, some of them sent again as they were, at another time of arrival."""
    events: list[Usage] = []
    for fresh in draw(st.lists(usages, min_size=1, max_size=30)):
        events.append(fresh)
        if draw(st.integers(0, 4)) == 0:
            copied = events[draw(st.integers(0, len(events) - 1))]
            events.append(copied._replace(received_ms=fresh.received_ms))
    return events


cuts = st.lists(st.integers(1, 60), max_size=20)


def count_all(
    phases: Sequence[tuple[Document, Sequence[Usage]]], draw: st.DataObject, crash: bool
) -> Outcome:
    """Take in and count phase by phase, cutting and crashing wherever `draw` says."""
    played = Play()
    begin = 0
    for document, events in phases:
        cutter = intake(document)
        played.append(cutter.announce())
        records = arriving(events, begin)
        begin += len(events)
        for piece in pieces(len(records), draw.draw(cuts)):
            played.append(cutter.step(records[piece]))
    for piece in pieces(len(played.log), draw.draw(cuts)):
        played.step(piece.stop - piece.start)
        if crash and draw.draw(st.booleans()):
            played.drop_memory(from_anchor=draw.draw(st.booleans()))
    return played.outcome()


@core(200)
@given(streams(), st.data())
def test_any_log_however_it_is_cut_is_counted_like_event_by_event(
    events: list[Usage], data: st.DataObject
) -> None:
    found = count_all([(BEFORE, events)], data, crash=False)
    assert found == expect([(event, BEFORE) for event in events])


@core(120)
@given(streams(), st.data())
def test_dropping_the_memory_at_any_point_changes_nothing(
    events: list[Usage], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as small:
        # Snapshots every few events, in frames of two rows.
        small.setattr(tally_module, "_SNAPSHOT_IDS", data.draw(st.integers(1, 10)))
        small.setattr(tally_module, "_SEGMENT_IDS", data.draw(st.integers(0, 5)))
        small.setattr(tally_module, "_PIECE_IDS", data.draw(st.sampled_from([1, 2, 5, 10**6])))
        small.setattr(shard_module, "_IDS_MAX", data.draw(st.sampled_from([1, 2, 100])))
        small.setattr(total_columns, "_ROWS_MAX", data.draw(st.sampled_from([1, 2, 100])))
        small.setattr(total_columns, "_TEXT_MAX", data.draw(st.sampled_from([1, 20, 10_000])))
        found = count_all([(BEFORE, events)], data, crash=True)
    assert found == expect([(event, BEFORE) for event in events])


@core(120)
@given(streams(), streams(), st.sampled_from([None, "free", "pro"]), st.data())
def test_other_definitions_in_the_middle_of_the_log_hold_from_there_on(
    first: list[Usage], second: list[Usage], default: str | None, data: st.DataObject
) -> None:
    after = AFTER | {"default_plan": default}
    found = count_all([(BEFORE, first), (after, second), (BEFORE, first)], data, crash=True)
    log = [(event, BEFORE) for event in first] + [(event, after) for event in second]
    # What was sent before, sent again.
    again = [(event._replace(), BEFORE) for event in first]
    assert found == expect(log + again)
