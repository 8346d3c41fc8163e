"""Many events become one change a total, as if they had been counted one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aggregate import Change, Tally, changes
from pipeline.pack import Quantities
from schemas.meter import Aggregation
from schemas.quantity import NANOS
from tests.pipeline.usage_log import core, pieces

AGGREGATIONS: tuple[Aggregation, ...] = ("count", "sum", "max", "min", "latest")

#: (group, value, time, arrival)
Event = tuple[int, int, int, int]

numbers = st.integers(-5, 5) | st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63), 2**61])
events = st.lists(
    st.tuples(st.integers(-3, 3), numbers, st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=25,
)


def counted(aggregation: Aggregation, batch: list[Event], nanos_each: int | None) -> list[Change]:
    """The changes of a batch; values are wide where `nanos_each` is None."""
    groups, values, times, arrivals = (np.array(column) for column in zip(*batch, strict=True))
    quantities = None
    if aggregation != "count":
        quantities = (
            Quantities(None, 1, [int(value) for value in values])
            if nanos_each is None
            else Quantities(values.astype(np.int64), nanos_each, None)
        )
    return list(changes(aggregation, groups, quantities, times, arrivals))


def one_by_one(aggregation: Aggregation, batch: list[Event], each: int) -> dict[int, list[Tally]]:
    """Each group's total after every one of its events."""
    running: dict[int, list[Tally]] = {}
    for group, number, time, arrival in batch:
        value = NANOS if aggregation == "count" else number * each
        so_far = running.setdefault(group, [])
        if not so_far:
            so_far.append(Tally(value, 1, time, arrival))
            continue
        before = so_far[-1]
        after = {
            "count": before.value + value,
            "sum": before.value + value,
            "max": max(before.value, value),
            "min": min(before.value, value),
            "latest": value if time >= before.latest_ns else before.value,
        }[aggregation]
        so_far.append(
            Tally(
                after,
                before.events + 1,
                max(before.latest_ns, time),
                max(before.as_of_ms, arrival),
            )
        )
    return running


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(80)
@given(batch=events, nanos_each=st.sampled_from([1, NANOS, None]))
def test_a_change_is_what_its_events_come_to_one_by_one(
    aggregation: Aggregation, batch: list[Event], nanos_each: int | None
) -> None:
    expected = one_by_one(aggregation, batch, nanos_each or 1)
    found = counted(aggregation, batch, nanos_each)
    assert [change.group for change in found] == sorted(expected)
    for change in found:
        running = expected[change.group]
        assert change.tally == running[-1]
        assert change.rows.tolist() == [
            row for row, event in enumerate(batch) if event[0] == change.group
        ]
        assert change.peak_nanos >= max(tally.value for tally in running)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(batch=events, before=st.integers(-(10**12), 10**12), at=st.integers(0, 5))
def test_no_running_value_is_above_the_peak_and_the_value_before(
    aggregation: Aggregation, batch: list[Event], before: int, at: int
) -> None:
    group = batch[0][0]
    (change,) = (each for each in counted(aggregation, batch, 1) if each.group == group)
    tally = Tally(before, 1, at, 0)
    added = before if aggregation in ("count", "sum") else 0
    for _, number, time, arrival in (event for event in batch if event[0] == group):
        value = NANOS if aggregation == "count" else number
        tally.merge(Tally(value, 1, time, arrival), aggregation)
        assert tally.value <= max(before, change.peak_nanos + added)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@core(60)
@given(batch=events, cuts=st.lists(st.integers(0, 25), max_size=4))
def test_merging_in_the_order_of_the_log_is_associative(
    aggregation: Aggregation, batch: list[Event], cuts: list[int]
) -> None:
    whole = {change.group: change.tally for change in counted(aggregation, batch, 1)}
    parts = [batch[piece] for piece in pieces(len(batch), cuts)]
    from_left: dict[int, Tally] = {}
    for part in parts:
        for change in counted(aggregation, part, 1):
            if change.group in from_left:
                from_left[change.group].merge(change.tally, aggregation)
            else:
                from_left[change.group] = change.tally
    assert from_left == whole

    def from_right(later: Tally | None, part: list[Event], group: int) -> Tally | None:
        tallies = [each.tally for each in counted(aggregation, part, 1) if each.group == group]
        if not tallies:
            return later
        if later is not None:
            tallies[0].merge(replace(later), aggregation)
        return tallies[0]

    for group, expected in whole.items():
        merged = reduce(
            lambda later, part, group=group: from_right(later, part, group),  # type: ignore[misc]
            reversed(parts),
            None,
        )
        assert merged == expected


def test_of_equal_times_the_last_one_of_the_log_holds() -> None:
    batch = [(0, 1, 7, 0), (0, 2, 9, 0), (0, 3, 9, 0), (0, 4, 8, 0)]
    (change,) = counted("latest", batch, 1)
    assert (change.tally.value, change.tally.latest_ns) == (3, 9)
    for later_ns, expected in ((8, 3), (9, 5)):
        tally = replace(change.tally)
        tally.merge(Tally(5, 1, later_ns, 0), "latest")
        assert tally.value == expected


def test_sums_leave_64_bits_without_losing_a_digit() -> None:
    most = 2**63 - 1
    (change,) = counted("sum", [(0, most, 0, 0)] * 5, NANOS)
    assert change.tally.value == 5 * most * NANOS
