"""Totals: how the events of a batch become one change a total, and how changes are merged.

A `Tally` is the value of one total in nanos with what its aggregation needs to go on. Merging is
associative in the order of the log, so batches may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.pack import Quantities
from schemas.meter import Aggregation
from schemas.quantity import NANOS

_INT64_SAFE = 2**62


@dataclass(slots=True)
class Tally:
    """One total so far. `latest_ns` is the time of the event that holds a `latest` value."""

    value: int
    events: int
    latest_ns: int
    as_of_ms: int

    def merge(self, later: Tally, aggregation: Aggregation) -> None:
        """Add what came later in the log."""
        if aggregation in ("count", "sum"):
            self.value += later.value
        elif aggregation == "max":
            self.value = max(self.value, later.value)
        elif aggregation == "min":
            self.value = min(self.value, later.value)
        elif later.latest_ns >= self.latest_ns:
            self.value = later.value
        self.latest_ns = max(self.latest_ns, later.latest_ns)
        self.events += later.events
        self.as_of_ms = max(self.as_of_ms, later.as_of_ms)


@dataclass(slots=True)
class Change:
    """What a batch adds to one total: the `rows` (in order) of the group, and their tally."""

    group: int
    rows: NDArray[np.int64]
    tally: Tally
    #: No running value of the total within the batch is above this, nor above the value before.
    peak_nanos: int


def changes(
    aggregation: Aggregation,
    groups: NDArray[np.int64],
    quantities: Quantities | None,
    times_ns: NDArray[np.int64],
    received_ms: NDArray[np.int64],
) -> Iterator[Change]:
    """One change for each distinct number in `groups`; all arrays have shape (n,), n > 0.

    `quantities` is None for `count`. For sums `peak_nanos` is the sum of the positive values, to
    be added to the value before.
    """
    order = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
    ends = np.append(begins[1:], len(order))
    values, peaks = _reduce(aggregation, order, begins, ends, quantities, times_ns)
    latest = np.maximum.reduceat(times_ns[order], begins).tolist()
    as_of = np.maximum.reduceat(received_ms[order], begins).tolist()
    for position, (group, begin, end) in enumerate(
        zip(groups[order[begins]].tolist(), begins.tolist(), ends.tolist(), strict=True)
    ):
        tally = Tally(values[position], end - begin, latest[position], as_of[position])
        yield Change(group, order[begin:end], tally, peaks[position])


def _reduce(
    aggregation: Aggregation,
    order: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    quantities: Quantities | None,
    times_ns: NDArray[np.int64],
) -> tuple[list[int], list[int]]:
    """The value and the peak of each group, in nanos."""
    if quantities is None:
        counts = [count * NANOS for count in (ends - begins).tolist()]
        return counts, counts
    if aggregation == "latest":
        # Within each group by time, on equal times in the order of the log: the last one holds.
        group_number = np.repeat(np.arange(len(begins)), ends - begins)
        by_time = order[np.lexsort((times_ns[order], group_number))]
        picked = quantities.take(by_time[ends - 1]).nanos()
        return picked, _reduce("max", order, begins, ends, quantities, times_ns)[0]
    column = quantities.integers
    if column is None or _may_overflow(column):
        return _reduce_wide(aggregation, order, begins, ends, quantities)
    ordered = column[order]
    each = quantities.nanos_each
    if aggregation == "sum":
        sums = [value * each for value in np.add.reduceat(ordered, begins).tolist()]
        if int(ordered.min()) >= 0:
            return sums, sums
        positive = np.add.reduceat(np.maximum(ordered, 0), begins).tolist()
        return sums, [value * each for value in positive]
    highest = [value * each for value in np.maximum.reduceat(ordered, begins).tolist()]
    if aggregation == "max":
        return highest, highest
    return [value * each for value in np.minimum.reduceat(ordered, begins).tolist()], highest


def _may_overflow(column: NDArray[np.int64]) -> bool:
    return max(abs(int(column.min())), abs(int(column.max()))) * len(column) >= _INT64_SAFE


def _reduce_wide(
    aggregation: Aggregation,
    order: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    quantities: Quantities,
) -> tuple[list[int], list[int]]:
    """The same in Python's integers, which have no limit."""
    nanos = quantities.take(order).nanos()
    parts = [nanos[b:e] for b, e in zip(begins.tolist(), ends.tolist(), strict=True)]
    if aggregation == "sum":
        return [sum(part) for part in parts], [
            sum(value for value in part if value > 0) for part in parts
        ]
    highest = [max(part) for part in parts]
    return (highest if aggregation == "max" else [min(part) for part in parts]), highest
