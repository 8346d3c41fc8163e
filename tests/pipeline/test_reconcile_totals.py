"""A reader's value is right if the total had it at the confirmed position or later."""

from __future__ import annotations

from fractions import Fraction

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reconcile_totals import (
    History,
    Key,
    Selection,
    Totals,
    Value,
    matches,
    rounding_nanos,
)
from schemas.frame import Frame, Kind, seal, unseal
from schemas.quantity import NANOS
from schemas.total import TOTAL_COLUMNS

KEY = Key("cus", "tokens", 0)


def frame(version: int, *rows: tuple[str, str, str, str]) -> Frame:
    """A totals frame of (customer, group, value, usage)."""
    columns = [
        pa.array(column, field.type)
        for column, field in zip(
            zip(*[(c, "tokens", 0, 86_400_000, g, v, u, 1, 0) for c, g, v, u in rows], strict=True),
            TOTAL_COLUMNS,
            strict=True,
        )
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=TOTAL_COLUMNS)
    return unseal(seal(Kind.TOTALS, {"version": version}, [batch]))


def counted(*usages: int) -> Totals:
    """A total that was each of `usages`, at offsets and versions 0, 10, 20, …"""
    totals = Totals(Selection())
    for number, usage in enumerate(usages):
        totals.take(0, number * 10, frame(number * 10, ("cus", "{}", str(usage), str(usage))))
    return totals


@settings(deadline=None)
@given(
    usages=st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True),
    confirmed=st.integers(0, 90),
    found=st.integers(0, 60),
)
def test_right_is_what_it_was_at_the_position_and_whatever_it_became(
    usages: list[int], confirmed: int, found: int
) -> None:
    history = counted(*usages).usages[KEY]
    at_position = [n for n in range(len(usages)) if n * 10 < confirmed]
    allowed = set(usages[at_position[-1] if at_position else 0 :])
    right, expected = matches(history, confirmed, found * NANOS)
    assert right == (found in allowed)
    assert right or expected == usages[at_position[-1] if at_position else 0] * NANOS
    history.prune(confirmed)
    assert matches(history, confirmed, found * NANOS) == (right, expected)


def test_a_value_must_be_the_one_of_its_version() -> None:
    history = counted(5, 7, 5).usages[KEY]
    assert matches(history, 1, 5 * NANOS, 20)[0]
    assert not matches(history, 1, 5 * NANOS, 10)[0]


def test_what_was_never_counted_is_nothing() -> None:
    assert matches(None, 5, 0) == (False, 0)
    assert not History(0).had(5)


def test_groups_are_kept_apart_and_their_usage_is_one() -> None:
    totals = Totals(Selection())
    totals.take(0, 3, frame(9, ("cus", '{"m":"a"}', "1", "3"), ("cus", '{"m":"b"}', "2", "3")))
    assert totals.usages[KEY].values == [Value(3, 9, 3 * NANOS)]
    assert [history.values[0].units for history in totals.groups.values()] == [NANOS, 2 * NANOS]


def test_only_what_is_selected_is_kept() -> None:
    totals = Totals(Selection(customer="other"))
    totals.take(0, 0, frame(0, ("cus", "{}", "1", "1")))
    assert not totals.usages
    totals = Totals(Selection(from_ms=1))
    totals.take(0, 0, frame(0, ("cus", "{}", "1", "1")))
    assert not totals.usages


def test_a_selection_that_moves_on_drops_what_it_leaves_behind() -> None:
    totals = counted(5, 7)
    totals.select(Selection(from_ms=KEY.start_ms))
    assert set(totals.usages) == {KEY}
    totals.select(Selection(from_ms=KEY.start_ms + 1))
    totals.take(0, 2, frame(30, ("cus", "{}", "9", "9")))
    assert (totals.usages, totals.groups, totals.ends_ms) == ({}, {}, {})


@settings(deadline=None)
@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=200))
def test_a_sum_in_binary_floats_is_within_the_tolerance(nanos: list[int]) -> None:
    total = 0.0
    for value in nanos:
        total += value / NANOS
    off = abs(Fraction(total) - Fraction(sum(nanos), NANOS)) * NANOS
    assert off <= rounding_nanos(len(nanos), sum(map(abs, nanos)))


def test_the_tolerance_is_far_below_what_is_billed() -> None:
    # 10,000 deltas that add up to a billion: less than a hundredth of a unit.
    assert rounding_nanos(10_000, 10**9 * NANOS) < NANOS // 100
