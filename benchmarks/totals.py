"""The totals that tally published must be those that the events come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

import pyarrow as pa

from pipeline.open_frame import open_frame
from schemas import topics
from streams.chain import Tail

#: Customer, meter and group, as a `totals` frame has them.
Key = tuple[str, str, str]

#: What is needed of a `totals` frame.
COLUMNS = ("customer", "meter", "group", "period_start", "value")


def check_totals(
    published: Iterable[pa.RecordBatch], expected: Mapping[Key, int] | Mapping[Key, Decimal]
) -> None:
    """Compare the newest of each total, over all periods, with the right ones.

    Raises:
        RuntimeError: some are not the same.
    """
    newest: dict[tuple[str, str, str, int], Decimal] = {}
    for batch in published:
        customers, meters, groups, starts, values = (batch.column(name) for name in COLUMNS)
        # As numbers, for a datetime of each row would take longest of all.
        columns = (customers, meters, groups, starts.cast(pa.int64()))
        keys = zip(*(column.to_pylist() for column in columns), strict=True)
        newest.update(zip(keys, map(Decimal, values.to_pylist()), strict=True))
    found: defaultdict[Key, Decimal] = defaultdict(Decimal)
    for (customer, meter, group, _), value in newest.items():
        found[customer, meter, group] += value
    if found != expected:
        wrong = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
        raise RuntimeError(f"{len(wrong)} of {len(expected)} totals are wrong: {wrong[:3]}")


def published_totals(kafka: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """All that tally has written to Kafka."""
    # Waits for what was committed a moment ago and is not decided in every partition yet.
    for record in Tail(kafka).read(topics.TOTALS.name):
        yield open_frame(record).parts[0]
