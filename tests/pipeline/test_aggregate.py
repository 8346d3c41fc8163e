"""Many events become one change a total, as if they had been counted one by one."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aggregate import Changes, Tally, changes, merged, running
from pipeline.exact import exact
from pipeline.groups import Groups
from pipeline.pack import Quantities
from schemas.meter import Aggregation
from schemas.quantity import NANOS
from tests.pipeline.usage_log import core, pieces

AGGREGATIONS: tuple[Aggregation, ...] = ("count", "sum", "max", "min", "latest")

#: (group, value, time, arrival)
Event = tuple[int, int, int, int]

numbers = st.integers(-5, 5) | st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63), 2**61])
events = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 2**61]), numbers, st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=25,
)


def counted(
    aggregation: Aggregation, batch: list[Event], nanos_each: int | None
) -> tuple[Groups, Changes]:
    """The changes of a batch; values are wide where `nanos_each` is None."""
    codes, values, times, arrivals = (
        np.array(column, dtype=np.int64) for column in zip(*batch, strict=True)
    )
    quantities = None
    if aggregation != "count":
        quantities = (
            Quantities(None, 1, values.tolist())
            if nanos_each is None
            else Quantities(values, nanos_each, None)
        )
    groups = Groups(codes)
    return groups, changes(aggregation, groups, quantities, times, arrivals)


def tallies(groups: Groups, found: Changes) -> dict[int, Tally]:
    """Each group's change on its own."""
    columns = (found.nanos, found.events, found.latest_ns, found.as_of_ms)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {group: Tally(*row) for group, row in zip(groups.distinct.tolist(), rows, strict=True)}


def joined(aggregation: Aggregation, before: Tally, later: Tally) -> Tally:
    """A total with what came later in the log."""
    value = {
        "count": before.value + later.value,
        "sum": before.value + later.value,
        "max": max(before.value, later.value),
        "min": min(before.value, later.value),
        "latest": later.value if later.latest_ns >= before.latest_ns else before.value,
    }[aggregation]
    return Tally(
        value,
        before.events + later.events,
        max(before.latest_ns, later.latest_ns),
        max(before.as_of_ms, later.as_of_ms),
    )


def one_by_one(aggregation: Aggregation, batch: list[Event], each: int) -> dict[int, list[Tally]]:
    """Each group's total after every one of its events."""
    found: dict[int, list[Tally]] = {}
    for group, number, time, arrival in batch:
        value = NANOS if aggregation == "count" else number * each
        so_far = found.setdefault(group, [])
        if not so_far:
            so_far.append(Tally(value, 1, time, arrival))
            continue
        so_far.append(joined(aggregation, so_far[-1], Tally(value, 1, time, arrival)))
    return found


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(80)
@given(batch=events, nanos_each=st.sampled_from([1, NANOS, None]))
def test_a_change_is_what_its_events_come_to_one_by_one(
    aggregation: Aggregation, batch: list[Event], nanos_each: int | None
) -> None:
    expected = one_by_one(aggregation, batch, nanos_each or 1)
    groups, found = counted(aggregation, batch, nanos_each)
    assert tallies(groups, found) == {group: expected[group][-1] for group in sorted(expected)}
    assert groups.distinct.tolist() == sorted(expected)
    for number, group in enumerate(groups.distinct.tolist()):
        rows = groups.order[groups.begins[number] : groups.ends[number]].tolist()
        assert rows == [row for row, event in enumerate(batch) if event[0] == group]
        peak = max(tally.value for tally in expected[group])
        assert found.peak_nanos[number] >= peak


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(batch=events, cut=st.integers(0, 25))
def test_running_values_are_those_after_each_event(
    aggregation: Aggregation, batch: list[Event], cut: int
) -> None:
    tallies_so_far = one_by_one(aggregation, [(0, *event[1:]) for event in batch], 1)[0]
    values = [NANOS if aggregation == "count" else value for _, value, *_ in batch]
    times = [time for _, _, time, _ in batch]
    before = tallies_so_far[cut - 1] if 0 < cut < len(batch) else None
    begin = cut if before else 0
    found = list(running(aggregation, before, values[begin:], times[begin:]))
    assert found == [tally.value for tally in tallies_so_far[begin:]]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(batch=events, before=st.integers(-(10**12), 10**12), at=st.integers(0, 5))
def test_no_running_value_is_above_the_peak_and_the_value_before(
    aggregation: Aggregation, batch: list[Event], before: int, at: int
) -> None:
    group = batch[0][0]
    groups, found = counted(aggregation, batch, 1)
    peak = found.peak_nanos[groups.distinct.tolist().index(group)]
    tally = Tally(before, 1, at, 0)
    added = before if aggregation in ("count", "sum") else 0
    for _, number, time, arrival in (event for event in batch if event[0] == group):
        value = NANOS if aggregation == "count" else number
        tally = joined(aggregation, tally, Tally(value, 1, time, arrival))
        assert tally.value <= max(before, peak + added)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(batch=events, cuts=st.lists(st.integers(0, 25), max_size=4))
def test_merging_in_the_order_of_the_log_is_associative(
    aggregation: Aggregation, batch: list[Event], cuts: list[int]
) -> None:
    whole = tallies(*counted(aggregation, batch, 1))
    parts = [tallies(*counted(aggregation, batch[piece], 1)) for piece in pieces(len(batch), cuts)]

    def merged_in(left: dict[int, Tally], right: dict[int, Tally]) -> dict[int, Tally]:
        both = left | right
        for group in left.keys() & right.keys():
            both[group] = joined(aggregation, left[group], right[group])
        return both

    assert reduce(merged_in, parts) == whole
    assert reduce(lambda right, left: merged_in(left, right), reversed(parts)) == whole


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(
    pairs=st.lists(st.tuples(*[numbers, st.integers(0, 3)] * 2, st.booleans()), min_size=1),
)
def test_many_totals_are_merged_like_each_of_them(
    aggregation: Aggregation, pairs: list[tuple[int, int, int, int, bool]]
) -> None:
    before, before_at, later, later_at, is_new = zip(*pairs, strict=True)
    expected = []
    for value, at, next_value, next_at, none_before in pairs:
        both = joined(aggregation, Tally(value, 1, at, 0), Tally(next_value, 1, next_at, 0))
        expected.append(next_value if none_before else both.value)
    found = merged(
        aggregation,
        exact([0 if none else value for value, none in zip(before, is_new, strict=True)]),
        exact(later),
        is_new=np.array(is_new),
        is_later=np.array(is_new) | (np.array(later_at) >= np.array(before_at)),
    )
    assert found.tolist() == expected


def test_of_equal_times_the_last_one_of_the_log_holds() -> None:
    batch = [(0, 1, 7, 0), (0, 2, 9, 0), (0, 3, 9, 0), (0, 4, 8, 0)]
    change = tallies(*counted("latest", batch, 1))[0]
    assert (change.value, change.latest_ns) == (3, 9)
    for later_ns, expected in ((8, [3]), (9, [5])):
        assert list(running("latest", change, [5], [later_ns])) == expected


def test_sums_leave_64_bits_without_losing_a_digit() -> None:
    most = 2**63 - 1
    _, found = counted("sum", [(0, most, 0, 0)] * 5, NANOS)
    assert found.nanos.tolist() == [5 * most * NANOS]
