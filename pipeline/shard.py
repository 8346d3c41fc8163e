"""What tally remembers of one shard, and how that travels through its changelog.

A shard is the fold of its log. Every transaction appends one segment with what it changed; now and
then the whole shard is written as a snapshot, which is nothing but segments, the first of which
voids what came before. A restore reads the last snapshot and what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.aggregate import Tally
from pipeline.dedupe import Columns, IdTable
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind, seal
from schemas.plan import Threshold
from schemas.quantity import from_plain, plain
from schemas.segment import ID_COLUMNS, TOTAL_COLUMNS

#: (meter, customer, period start in ms, group); group is None for the total over all groups.
TotalKey: TypeAlias = tuple[str, str, int, tuple[str, ...] | None]

#: Rows of one frame, and characters of its texts, so that a record stays well below the broker's
#: limit.
_ROWS_MAX = 65_536
_TEXT_MAX = 4 * 1024 * 1024


@dataclass
class Shard:
    """The state of one shard."""

    next_offset: int = 0
    #: The newest arrival seen, in milliseconds since 1970.
    watermark_ms: int = 0
    #: What reading the changelog after the last snapshot takes, in identities.
    since_snapshot: int = 0
    documents: dict[str, Definitions] = field(default_factory=dict)
    current: str | None = None
    ids: IdTable = field(default_factory=IdTable)
    totals: dict[TotalKey, Tally] = field(default_factory=dict)
    #: Thresholds crossed so far, of totals over all groups that crossed any.
    fired: dict[TotalKey, set[Threshold]] = field(default_factory=dict)


@dataclass
class Changed:
    """What one step changed in a shard; becomes a segment."""

    documents: list[str] = field(default_factory=list)
    ids: list[Columns] = field(default_factory=list)
    totals: set[TotalKey] = field(default_factory=set)

    @property
    def id_count(self) -> int:
        """How many identities were claimed."""
        return sum(len(columns[1]) for columns in self.ids)


def segment(shard: Shard, changed: Changed) -> Iterator[bytes]:
    """The frames that bring a shard from before the step to after it; nearly always one."""
    ids = tuple(np.concatenate(column) for column in zip(*changed.ids, strict=True))
    return _frames(shard, changed.documents, ids, changed.totals, reset=False)


def snapshot(shard: Shard) -> Iterator[bytes]:
    """The whole shard as frames; reading them in order restores it."""
    return _frames(shard, shard.documents, shard.ids.entries(), shard.totals, reset=True)


def table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows in the order of the schema's columns as a record batch.

    A third of the time that pyarrow takes for dictionaries.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def parts(keys: Iterable[TotalKey]) -> Iterator[list[TotalKey]]:
    """Totals in runs whose rows fit in one record; at least one run, in the order of `keys`."""
    part: list[TotalKey] = []
    text = 0
    for key in keys:
        meter, customer, _, group = key
        size = len(meter) + len(customer) + sum(map(len, group or ()))
        if part and (len(part) == _ROWS_MAX or text + size > _TEXT_MAX):
            yield part
            part, text = [], 0
        part.append(key)
        text += size
    yield part


def _frames(
    shard: Shard,
    documents: Iterable[str],
    ids: tuple[NDArray[Any], ...],
    keys: Iterable[TotalKey],
    *,
    reset: bool,
) -> Iterator[bytes]:
    # Sorted, so that a replay writes the same bytes.
    of_totals = parts(sorted(keys, key=_sort_key))
    of_ids = (
        tuple(column[begin : begin + _ROWS_MAX] for column in ids)
        for begin in range(0, len(ids[0]) if ids else 0, _ROWS_MAX)
    )
    for id_columns, total_keys in zip_longest(of_ids, of_totals, fillvalue=()):
        yield _seal(shard, documents, id_columns, total_keys, reset=reset)
        # Only the first one has the definitions, and voids what came before.
        documents, reset = (), False


def restore(frames: Iterable[Frame]) -> Shard:
    """The shard that `frames` of its changelog describe."""
    shard = Shard()
    for frame in frames:
        header = frame.header
        if header["reset"]:
            shard = Shard()
        shard.next_offset = header["next_offset"]
        shard.watermark_ms = header["watermark_ms"]
        shard.since_snapshot = header["since_snapshot"]
        shard.current = header["current"]
        for version, document in header["definitions"].items():
            shard.documents[version] = Definitions.model_validate(document)
        ids, totals = frame.parts
        if ids.num_rows:
            high, low, fingerprint, expires = (column.to_numpy() for column in ids.columns)
            shard.ids.insert((high, low, fingerprint, expires))
        for row in totals.to_pylist():
            _restore_total(shard, row)
    return shard


def _seal(
    shard: Shard,
    documents: Iterable[str],
    ids: tuple[Any, ...],
    keys: Iterable[TotalKey],
    *,
    reset: bool,
) -> bytes:
    header = {
        "next_offset": shard.next_offset,
        "watermark_ms": shard.watermark_ms,
        "since_snapshot": shard.since_snapshot,
        "current": shard.current,
        "definitions": {
            version: shard.documents[version].model_dump(mode="json") for version in documents
        },
        "reset": reset,
    }
    id_columns = ids or tuple(np.zeros(0, field.type.to_pandas_dtype()) for field in ID_COLUMNS)
    rows = [_total_row(shard, key) for key in keys]
    return seal(
        Kind.SEGMENT,
        header,
        [
            pa.RecordBatch.from_arrays([pa.array(c) for c in id_columns], schema=ID_COLUMNS),
            table(rows, TOTAL_COLUMNS),
        ],
    )


def _total_row(shard: Shard, key: TotalKey) -> tuple[object, ...]:
    """One row of `TOTAL_COLUMNS`."""
    meter, customer, period_start_ms, group = key
    tally = shard.totals[key]
    fired = sorted(shard.fired[key]) if key in shard.fired else ()
    return (
        customer,
        meter,
        period_start_ms,
        group,
        plain(tally.value),
        tally.events,
        tally.latest_ns,
        tally.as_of_ms,
        fired,
    )


def _restore_total(shard: Shard, row: dict[str, Any]) -> None:
    group = None if row["group"] is None else tuple(row["group"])
    key = (row["meter"], row["customer"], row["period_start_ms"], group)
    shard.totals[key] = Tally(
        from_plain(row["value"]), row["events"], row["latest_ns"], row["as_of_ms"]
    )
    if row["fired"]:
        shard.fired[key] = set(row["fired"])


def _sort_key(key: TotalKey) -> tuple[str, str, int, bool, tuple[str, ...]]:
    meter, customer, period_start_ms, group = key
    return meter, customer, period_start_ms, group is not None, group or ()
