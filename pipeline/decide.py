"""Decisions: what became of each event, as a frame for each pack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.part import Part
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS
from schemas.frame import Kind, seal

_NONE_LATE = pa.RecordBatch.from_pylist([], schema=LATE_COLUMNS)


def decisions(
    part: Part,
    status: NDArray[np.uint8],
    late_for: Sequence[tuple[str, NDArray[np.int64]]],
) -> Iterator[tuple[int, bytes]]:
    """The decisions on each pack of a part: (shard, frame).

    `status`, shape (n,), is of all its events; `late_for` are those that a meter does not count.
    """
    begin = 0
    for (shard, offset, _), length in zip(part.packs, part.lengths, strict=True):
        end = begin + length
        statuses = pa.RecordBatch.from_arrays([pa.array(status[begin:end])], schema=STATUS_COLUMNS)
        late = _late_rows(begin, end, late_for) if late_for else _NONE_LATE
        yield shard, seal(Kind.DECISIONS, {"pack_offset": offset}, [statuses, late])
        begin = end


def _late_rows(
    begin: int, end: int, late_for: Sequence[tuple[str, NDArray[np.int64]]]
) -> pa.RecordBatch:
    late = [
        (row - begin, slug)
        for slug, rows in late_for
        for row in rows[(rows >= begin) & (rows < end)].tolist()
    ]
    columns = [
        pa.array([index for index, _ in late], pa.int32()),
        pa.array([slug for _, slug in late], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LATE_COLUMNS)
