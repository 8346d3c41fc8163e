"""Totals as the columns of frames, cut into runs that fit in one record each, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.exact import from_plain_texts, plain_texts
from pipeline.groups import Groups
from pipeline.numbering import Picked, sizes
from pipeline.periods import period_end_ms
from pipeline.totals import UNKNOWN, Rows, Sheet, Totals
from schemas import segment, total
from schemas.meter import Meter

#: Rows of one frame, and characters of its texts, so that a record stays well below the broker's
#: limit.
_ROWS_MAX = 65_536
_TEXT_MAX = 4 * 1024 * 1024

_json = msgspec.json.Encoder(order="sorted")


def kept(totals: Totals, rows: Rows) -> Iterator[pa.RecordBatch]:
    """What must be remembered of the totals in `rows`, at least one batch."""
    sheets, customers, groups = _names(totals, rows)
    crossed = totals.crossed.picked(totals["fired"][rows])
    for run in _runs(sheets, customers, groups):
        part = rows[run]
        yield _batch(
            segment.TOTAL_COLUMNS,
            customers[run],
            sheets[run].mapped(_meter),
            sheets[run].mapped(_start_ms),
            groups[run],
            plain_texts(totals.nanos.read(part)),
            totals["events"][part],
            totals["latest_ns"][part],
            totals["as_of_ms"][part],
            crossed[run],
        )


def keep(totals: Totals, batch: pa.RecordBatch) -> None:
    """The inverse of `kept`: every total in `batch` stands as it says there."""
    if not batch.num_rows:
        return
    customers, meters, starts_ms, groups, nanos, events, latest_ns, as_of_ms, fired = batch.columns
    rows = totals.rows(
        totals.sheets.numbers(zip(meters.to_pylist(), starts_ms.to_pylist(), strict=True)),
        totals.customers.numbers(customers.to_pylist()),
        totals.groups.numbers(
            None if group is None else tuple(group) for group in groups.to_pylist()
        ),
    )
    totals.nanos.write(rows, from_plain_texts(nanos))
    totals["events"][rows] = events.to_numpy()
    totals["latest_ns"][rows] = latest_ns.to_numpy()
    totals["as_of_ms"][rows] = as_of_ms.to_numpy()
    totals["fired"][rows] = totals.crossed.numbers(map(tuple, fired.to_pylist()))
    totals["watch"][rows] = UNKNOWN


def published(
    totals: Totals, rows: Rows, meters_by_slug: Mapping[str, Meter]
) -> Iterator[pa.RecordBatch]:
    """What readers are told of the totals in `rows`, at least one batch."""
    sheets, customers, groups = _names(totals, rows)
    ends_ms = sheets.mapped(lambda sheet: period_end_ms(sheet[1], meters_by_slug[sheet[0]].period))
    texts = _group_texts(totals, rows, meters_by_slug)
    for run in _runs(sheets, customers, groups):
        part = rows[run]
        usage_rows = totals["usage"][part]
        values = usages = plain_texts(totals.nanos.read(part))
        if not np.array_equal(usage_rows, part):
            usages = plain_texts(totals.nanos.read(usage_rows))
        yield _batch(
            total.TOTAL_COLUMNS,
            customers[run],
            sheets[run].mapped(_meter),
            sheets[run].mapped(_start_ms),
            ends_ms[run],
            texts[run],
            values,
            usages,
            totals["events"][part],
            totals["as_of_ms"][part],
        )


def _names(
    totals: Totals, rows: Rows
) -> tuple[Picked[Sheet], Picked[str], Picked[tuple[str, ...] | None]]:
    return (
        totals.sheets.picked(totals["sheet"][rows]),
        totals.customers.picked(totals["customer"][rows]),
        totals.groups.picked(totals["group"][rows]),
    )


def _group_texts(totals: Totals, rows: Rows, meters_by_slug: Mapping[str, Meter]) -> Picked[str]:
    """Each group as a JSON object, by the dimensions of its meter."""
    both = totals["sheet"][rows].astype(np.int64) << 32 | totals["group"][rows]
    pairs = Groups(both)
    texts = []
    for number in pairs.distinct.tolist():
        meter, _ = totals.sheets[number >> 32]
        group = totals.groups[number & 0xFFFFFFFF]
        named = dict(zip(meters_by_slug[meter].group_by, group or (), strict=True))
        texts.append(_json.encode(named).decode())
    return Picked(texts, pairs.numbers)


def _runs(
    sheets: Picked[Sheet], customers: Picked[str], groups: Picked[tuple[str, ...] | None]
) -> Iterator[slice]:
    """Runs of rows that fit in one record; one of no rows if there are none."""
    ends = np.cumsum(
        sizes(sheets.mapped(lambda sheet: len(sheet[0])))
        + sizes(customers.mapped(len))
        + sizes(groups.mapped(lambda group: sum(map(len, group or ()))))
    )
    begin = 0
    while True:
        before = int(ends[begin - 1]) if begin else 0
        fits = int(np.searchsorted(ends, before + _TEXT_MAX, side="right"))
        stop = min(len(ends), begin + _ROWS_MAX, max(fits, begin + 1))
        yield slice(begin, stop)
        begin = stop
        if begin >= len(ends):
            return


def _batch(schema: pa.Schema, *columns: Picked[Any] | NDArray[Any] | pa.Array) -> pa.RecordBatch:
    arrays: Sequence[pa.Array] = [
        column.column(kind) if isinstance(column, Picked) else pa.array(column, kind)
        for column, kind in zip(columns, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _meter(sheet: Sheet) -> str:
    return sheet[0]


def _start_ms(sheet: Sheet) -> int:
    return sheet[1]
