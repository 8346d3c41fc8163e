"""Totals as the columns of frames, cut into runs that fit in one record each, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.exact import from_columns, plain_texts, to_columns
from pipeline.groups import Groups
from pipeline.periods import period_end_ms
from pipeline.totals import UNKNOWN, Rows, Totals
from schemas import segment, total
from schemas.meter import Meter

#: Rows of one frame, and bytes of its texts, so that a record stays well below the broker's limit.
_ROWS_MAX = 65_536
_TEXT_MAX = 4 * 1024 * 1024

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("ms", "UTC")

_LABELS = ("meter", "begin", "end", "group")
_NO_NAMES = [pa.nulls(0, kind) for kind in (pa.string(), pa.string(), pa.int64(), _TEXTS)]

_json = msgspec.json.Encoder(order="sorted")


class _Labels:
    """What rows have in common: their meters, periods and groups, each combination once."""

    def __init__(self, totals: Totals, rows: Rows) -> None:
        both = totals["sheet"][rows].astype(np.int64) << 32 | totals["group"][rows]
        combinations = Groups(both)
        self._of_row = combinations.numbers
        distinct = combinations.distinct.tolist()
        sheets = [totals.sheets[number >> 32] for number in distinct]
        self.meters = [meter for meter, _ in sheets]
        self.starts_ms = [start_ms for _, start_ms in sheets]
        self.groups = [totals.groups[number & 0xFFFFFFFF] for number in distinct]

    def columns(self, run: slice, labels: list[pa.Array]) -> list[pa.Array]:
        """Columns of some rows; `labels` have a value for each combination."""
        named = pa.RecordBatch.from_arrays(labels, names=_LABELS[: len(labels)])
        columns: list[pa.Array] = named.take(pa.array(self._of_row[run])).columns
        return columns

    def sizes(self) -> NDArray[np.int64]:
        """About how many bytes the texts of each row have."""
        sizes = [
            len(meter) + sum(map(len, group or ()))
            for meter, group in zip(self.meters, self.groups, strict=True)
        ]
        of_row: NDArray[np.int64] = np.array(sizes, dtype=np.int64)[self._of_row]
        return of_row


def kept(totals: Totals, rows: Rows, known: int = 0) -> Iterator[pa.RecordBatch]:
    """What must be remembered of the totals in `rows`, ascending, at least one batch.

    Whoever remembers has the first `known` rows already, and knows whose totals these are.
    """
    begin = int(np.searchsorted(rows, known))
    new = rows[begin:]
    labels = _Labels(totals, new)
    customers = totals["customer"][new]
    sizes = np.zeros(len(rows), dtype=np.int64)
    sizes[begin:] = labels.sizes() + totals.customers.sizes(customers)
    named = [
        pa.array(labels.meters, pa.string()),
        pa.array(labels.starts_ms, pa.int64()),
        pa.array(labels.groups, _TEXTS),
    ]
    for run in _runs(sizes):
        part = rows[run]
        of_new = slice(max(run.start - begin, 0), max(run.stop - begin, 0))
        names = _NO_NAMES
        if of_new.start < of_new.stop:
            names = [totals.customers.column(customers[of_new]), *labels.columns(of_new, named)]
        unnamed = len(part) - len(names[0])
        if unnamed:
            nulls = [pa.nulls(unnamed, each.type) for each in names]
            names = [pa.concat_arrays(pair) for pair in zip(nulls, names, strict=True)]
        arrays = [
            pa.array(part, pa.int32()),
            *names,
            *to_columns(totals.nanos.read(part)),
            pa.array(totals["events"][part]),
            pa.array(totals["latest_ns"][part]),
            pa.array(totals["as_of_ms"][part]),
            _fired(totals, part),
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=segment.TOTAL_COLUMNS)


def keep(totals: Totals, batch: pa.RecordBatch) -> None:
    """The inverse of `kept`: every total in `batch` stands as it says there.

    Once all is kept, `totals.connect` makes them be found.
    """
    rows, customers, meters, starts_ms, groups, nanos, wide, events, latest_ns, as_of_ms, fired = (
        batch.columns
    )
    places = rows.to_numpy().astype(np.int64)
    totals.hold(places)
    begin = customers.null_count
    if begin < len(places):
        named = places[begin:]
        totals["sheet"][named] = totals.sheets.numbers(
            zip(meters[begin:].to_pylist(), starts_ms[begin:].to_pylist(), strict=True)
        )
        totals["customer"][named] = totals.customers.numbers(customers[begin:])
        totals["group"][named] = totals.groups.numbers(
            None if group is None else tuple(group) for group in groups[begin:].to_pylist()
        )
    totals.nanos.write(places, from_columns(nanos, wide))
    totals["events"][places] = events.to_numpy()
    totals["latest_ns"][places] = latest_ns.to_numpy()
    totals["as_of_ms"][places] = as_of_ms.to_numpy()
    crossed = (tuple(each or ()) for each in fired.to_pylist())
    totals["fired"][places] = totals.crossed.numbers(crossed)
    totals["watch"][places] = UNKNOWN


def published(
    totals: Totals, rows: Rows, meters_by_slug: Mapping[str, Meter]
) -> Iterator[pa.RecordBatch]:
    """What readers are told of the totals in `rows`, at least one batch."""
    labels = _Labels(totals, rows)
    sheets = [
        (meters_by_slug[meter], start_ms)
        for meter, start_ms in zip(labels.meters, labels.starts_ms, strict=True)
    ]
    ends_ms = [period_end_ms(start_ms, meter.period) for meter, start_ms in sheets]
    groups = [
        _group_text(meter, group) for (meter, _), group in zip(sheets, labels.groups, strict=True)
    ]
    named = [
        pa.array(labels.meters, pa.string()),
        pa.array(labels.starts_ms, _TIME),
        pa.array(ends_ms, _TIME),
        pa.array(groups, pa.string()),
    ]
    customers = totals["customer"][rows]
    for run in _runs(labels.sizes() + totals.customers.sizes(customers)):
        part = rows[run]
        usage_rows = totals["usage"][part]
        values = usages = plain_texts(totals.nanos.read(part))
        if not np.array_equal(usage_rows, part):
            usages = plain_texts(totals.nanos.read(usage_rows))
        arrays = [
            totals.customers.column(customers[run]),
            *labels.columns(run, named),
            values,
            usages,
            pa.array(totals["events"][part]),
            pa.array(totals["as_of_ms"][part], _TIME),
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=total.TOTAL_COLUMNS)


def _fired(totals: Totals, rows: Rows) -> pa.Array:
    """The thresholds that each usage has crossed, null for none."""
    numbers = totals["fired"][rows].astype(np.int64)
    if not numbers.any():
        return pa.nulls(len(rows), _TEXTS)
    combinations = Groups(numbers)
    crossed = [totals.crossed[number] or None for number in combinations.distinct.tolist()]
    return pa.array(crossed, _TEXTS).take(pa.array(combinations.numbers))


def _group_text(meter: Meter, group: tuple[str, ...] | None) -> str:
    """A group as a JSON object, by the dimensions of its meter."""
    return _json.encode(dict(zip(meter.group_by, group or (), strict=True))).decode()


def _runs(sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of rows that fit in one record, by their bytes; one of no rows if there are none."""
    ends = np.cumsum(sizes)
    begin = 0
    while True:
        before = int(ends[begin - 1]) if begin else 0
        fits = int(np.searchsorted(ends, before + _TEXT_MAX, side="right"))
        stop = min(len(ends), begin + _ROWS_MAX, max(fits, begin + 1))
        yield slice(begin, stop)
        begin = stop
        if begin >= len(ends):
            return
