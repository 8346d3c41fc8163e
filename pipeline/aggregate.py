"""How the events of a batch become one change a total, and how changes are merged.

Merging is associative in the order of the log, so batches may be cut anywhere. Quantities are in
nanos, as `pipeline.exact` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.exact import Exact, exact, fits, times
from pipeline.groups import Groups
from pipeline.pack import Quantities
from schemas.meter import Aggregation
from schemas.quantity import NANOS

#: How a value goes on with the next one; `latest` needs their times.
_MERGE: dict[Aggregation, Callable[[int, int], int]] = {
    "count": add,
    "sum": add,
    "max": max,
    "min": min,
}


class Tally(NamedTuple):
    """One total so far. `latest_ns` is the time of the event that holds a `latest` value."""

    value: int
    events: int
    latest_ns: int
    as_of_ms: int


def running(
    aggregation: Aggregation, before: Tally | None, values: Sequence[int], times_ns: Sequence[int]
) -> Iterator[int]:
    """The value of one total after each of several events, in the order of the log."""
    if aggregation == "latest":
        return _running_latest(before, values, times_ns)
    merge = _MERGE[aggregation]
    if before is None:
        return accumulate(values, merge)
    return islice(accumulate(values, merge, initial=before.value), 1, None)


def _running_latest(
    before: Tally | None, values: Sequence[int], times_ns: Sequence[int]
) -> Iterator[int]:
    value, newest_ns = (before.value, before.latest_ns) if before else (values[0], times_ns[0])
    for later, time_ns in zip(values, times_ns, strict=True):
        if time_ns >= newest_ns:
            value, newest_ns = later, time_ns
        yield value


def merged(
    aggregation: Aggregation,
    before: Exact,
    later: Exact,
    *,
    is_new: NDArray[np.bool_],
    is_later: NDArray[np.bool_],
) -> Exact:
    """The values of many totals with what came `later` in the log. Shape (g,).

    A total that `is_new` has no value before; `later` has the newer event where it `is_later`.
    """
    if aggregation in ("count", "sum"):
        return before + later
    if aggregation == "latest":
        return np.where(is_later, later, before)
    highest_or_lowest = np.maximum if aggregation == "max" else np.minimum
    return np.where(is_new, later, highest_or_lowest(before, later))


@dataclass(frozen=True)
class Changes:
    """What the events of a batch add to totals; one change a group. Shape (g,) each."""

    nanos: Exact
    events: NDArray[np.int64]
    latest_ns: NDArray[np.int64]
    as_of_ms: NDArray[np.int64]
    #: For sums, the sum of the positive values: added to the value before, no running value of the
    #: total within the batch is above it. Otherwise none is above this and the value before.
    peak_nanos: Exact


def changes(
    aggregation: Aggregation,
    groups: Groups,
    quantities: Quantities | None,
    times_ns: NDArray[np.int64],
    received_ms: NDArray[np.int64],
) -> Changes:
    """The change of each group; all columns have shape (n,).

    `quantities` is None for `count`.
    """
    order, begins = groups.order, groups.begins
    events = groups.sizes
    if quantities is None:
        nanos = peaks = times(events, NANOS)
    else:
        nanos, peaks = _reduce(aggregation, groups, quantities, times_ns)
    return Changes(
        nanos,
        events,
        np.maximum.reduceat(times_ns[order], begins),
        np.maximum.reduceat(received_ms[order], begins),
        peaks,
    )


def _reduce(
    aggregation: Aggregation, groups: Groups, quantities: Quantities, times_ns: NDArray[np.int64]
) -> tuple[Exact, Exact]:
    """The value and the peak of each group, in nanos."""
    order, begins = groups.order, groups.begins
    values: Exact
    if quantities.integers is None:
        values, each = exact(quantities.nanos()), 1
    else:
        values, each = quantities.integers, quantities.nanos_each
    if aggregation == "sum" and values.dtype != object and not fits(values, len(values)):
        values = values.astype(object)
    ordered = values[order]
    if aggregation == "sum":
        sums = times(np.add.reduceat(ordered, begins), each)
        if ordered.min() >= 0:
            return sums, sums
        return sums, times(np.add.reduceat(np.maximum(ordered, 0), begins), each)
    highest = times(np.maximum.reduceat(ordered, begins), each)
    if aggregation == "max":
        return highest, highest
    if aggregation == "min":
        return times(np.minimum.reduceat(ordered, begins), each), highest
    # Within each group by time, on equal times in the order of the log: the last one holds.
    group_numbers = np.repeat(np.arange(len(groups)), groups.sizes)
    by_time = order[np.lexsort((times_ns[order], group_numbers))]
    return times(values[by_time[groups.ends - 1]], each), highest
