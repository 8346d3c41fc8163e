"""Totals as the columns of frames, cut into runs that fit in one record each, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.exact import from_columns, plain_texts, to_columns
from pipeline.groups import Groups
from pipeline.numbering import Numbering
from pipeline.periods import period_end_ms
from pipeline.totals import UNKNOWN, Rows, Totals
from schemas import segment, total
from schemas.meter import Meter

#: Rows of one frame, and bytes of its texts, so that a record stays well below the broker's limit.
_ROWS_MAX = 32_768
_TEXT_MAX = 4 * 1024 * 1024
#: About what the name of a threshold takes, and its place in a list.
_THRESHOLD_BYTES = 32

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("ms", "UTC")

_LABELS = ("meter", "begin", "end", "group")
_NAMES = ("customer", "meter", "begin", "group")

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

    def columns(self, labels: list[pa.Array]) -> list[pa.Array]:
        """Columns of the rows; `labels` have a value for each combination."""
        named = pa.RecordBatch.from_arrays(labels, names=_LABELS[: len(labels)])
        columns: list[pa.Array] = named.take(pa.array(self._of_row)).columns
        return columns

    def sizes(self, groups: Iterable[Sequence[str]]) -> NDArray[np.int64]:
        """How many bytes the meter of each row has, and its group, given as texts."""
        sizes = [
            len(meter) + sum(len(text.encode()) for text in group)
            for meter, group in zip(self.meters, groups, strict=True)
        ]
        of_row: NDArray[np.int64] = np.array(sizes, dtype=np.int64)[self._of_row]
        return of_row


@dataclass(frozen=True)
class Columns:
    """Totals as columns of a frame; `sizes`, shape (n,), are the bytes of most of their texts."""

    sizes: NDArray[np.int64]
    batch: pa.RecordBatch

    def parts(self, begin: int = 0, end: int | None = None) -> Iterator[pa.RecordBatch]:
        """Some of the rows, in parts that fit in one record each; one part if there are none."""
        for run in _runs(self.sizes[begin:end]):
            yield self.batch.slice(begin + run.start, run.stop - run.start)


def kept(totals: Totals, rows: Rows, known: int = 0) -> Columns:
    """What must be remembered of the totals in `rows`.

    Whoever remembers has the rows before `known` already, and knows whose totals these are.
    """
    is_new = rows >= known
    new = rows[is_new]
    labels = _Labels(totals, new)
    customers = totals["customer"][new]
    sizes = np.zeros(len(rows), dtype=np.int64)
    groups = [group or () for group in labels.groups]
    sizes[is_new] = labels.sizes(groups) + totals.customers.sizes(customers)
    named = pa.RecordBatch.from_arrays(
        [
            totals.customers.column(customers),
            *labels.columns(
                [
                    pa.array(labels.meters, pa.string()),
                    pa.array(labels.starts_ms, pa.int64()),
                    pa.array(labels.groups, _TEXTS),
                ]
            ),
        ],
        names=_NAMES,
    )
    if len(new) < len(rows):
        named = named.take(pa.array(np.cumsum(is_new) - 1, mask=~is_new))
    fired = _fired(totals, rows)
    if fired.null_count < len(fired):
        sizes += pc.list_value_length(fired).fill_null(0).to_numpy() * _THRESHOLD_BYTES
    arrays = [
        pa.array(totals["place"][rows]),
        *named.columns,
        *to_columns(totals.nanos.read(rows)),
        pa.array(totals["events"][rows]),
        pa.array(totals["latest_ns"][rows]),
        pa.array(totals["as_of_ms"][rows]),
        fired,
    ]
    return Columns(sizes, pa.RecordBatch.from_arrays(arrays, schema=segment.TOTAL_COLUMNS))


def keep(totals: Totals, batch: pa.RecordBatch) -> None:
    """The inverse of `kept`, for a table of one share: every total stands as `batch` says.

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
        totals["sheet"][named] = _sheets(totals, meters[begin:], starts_ms[begin:])
        totals["customer"][named] = totals.enter(customers[begin:], 0)
        totals["group"][named] = _numbers(totals.groups, groups[begin:], None)
    totals.nanos.write(places, from_columns(nanos, wide))
    totals["events"][places] = events.to_numpy()
    totals["latest_ns"][places] = latest_ns.to_numpy()
    totals["as_of_ms"][places] = as_of_ms.to_numpy()
    totals["fired"][places] = _numbers(totals.crossed, fired, ())
    totals["watch"][places] = UNKNOWN


def _sheets(totals: Totals, meters: pa.Array, starts_ms: pa.Array) -> Rows:
    """The sheets of rows by number; each is looked up once."""
    encoded = meters.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    begins, numbers = np.unique(starts_ms.to_numpy(), return_inverse=True)
    both = Groups(numbers * len(names) + encoded.indices.to_numpy())
    begin, name = np.divmod(both.distinct, len(names))
    sheets = zip((names[code] for code in name.tolist()), begins[begin].tolist(), strict=True)
    return totals.sheets.numbers(sheets)[both.numbers]


def _numbers(numbering: Numbering[Any], lists: pa.Array, none: tuple[str, ...] | None) -> Rows:
    """The numbers of lists of texts; `none` stands for null, and has the number 0."""
    if lists.null_count == len(lists):
        return np.zeros(len(lists), dtype=np.int64)
    return numbering.numbers(none if each is None else tuple(each) for each in lists.to_pylist())


def published(totals: Totals, rows: Rows, meters_by_slug: Mapping[str, Meter]) -> Columns:
    """What readers are told of the totals in `rows`."""
    labels = _Labels(totals, rows)
    sheets = [
        (meters_by_slug[meter], start_ms)
        for meter, start_ms in zip(labels.meters, labels.starts_ms, strict=True)
    ]
    ends_ms = [period_end_ms(start_ms, meter.period) for meter, start_ms in sheets]
    groups = [
        _group_text(meter, group) for (meter, _), group in zip(sheets, labels.groups, strict=True)
    ]
    customers = totals["customer"][rows]
    usage_rows = totals["usage"][rows]
    values = usages = plain_texts(totals.nanos.read(rows))
    if not np.array_equal(usage_rows, rows):
        usages = plain_texts(totals.nanos.read(usage_rows))
    arrays = [
        totals.customers.column(customers),
        *labels.columns(
            [
                pa.array(labels.meters, pa.string()),
                pa.array(labels.starts_ms, _TIME),
                pa.array(ends_ms, _TIME),
                pa.array(groups, pa.string()),
            ]
        ),
        values,
        usages,
        pa.array(totals["events"][rows]),
        pa.array(totals["as_of_ms"][rows], _TIME),
    ]
    return Columns(
        labels.sizes([text] for text in groups) + totals.customers.sizes(customers),
        pa.RecordBatch.from_arrays(arrays, schema=total.TOTAL_COLUMNS),
    )


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
