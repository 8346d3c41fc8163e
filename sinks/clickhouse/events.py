"""Packs and what was decided about them become rows, column by column. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.pack import source_indices
from schemas.decisions import Status
from sinks.clickhouse.pair import Decided
from sinks.clickhouse.said import said

#: Few distinct texts, as in ClickHouse's LowCardinality.
_CODES = pa.dictionary(pa.int32(), pa.string())

_EVENT = pa.schema(
    [
        pa.field("customer", pa.string()),
        pa.field("type", _CODES),
        pa.field("time", pa.timestamp("ns", "UTC")),
        pa.field("source", _CODES),
        pa.field("id", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("received_at", pa.timestamp("ms", "UTC")),
        pa.field("source_partition", pa.int32()),
        pa.field("source_offset", pa.int64()),
        pa.field("source_index", pa.int32()),
    ]
)
EVENTS = pa.schema(
    [
        *_EVENT,
        pa.field("late_for", pa.list_(pa.string())),
        pa.field("version", pa.int64()),
        pa.field("definitions", _CODES),
    ]
)
SET_ASIDE = pa.schema([*_EVENT, pa.field("status", pa.string())])

_STATUS_NAMES = pa.array([status.name.lower() for status in Status])

#: Original events of more than 2 GiB do not fit into one Arrow array; what is looked at several
#: times should not be much larger than the processor's cache.
_BYTES_AT_ONCE = 16 * 1024 * 1024


def event_rows(decided: Sequence[Decided]) -> tuple[pa.Table, pa.Table]:
    """Rows of `events` (accepted) and of `set_aside` (all others), in the order of their packs."""
    parts = [_rows(part) for part in _parts(decided)]
    return (
        pa.concat_tables([EVENTS.empty_table(), *(events for events, _ in parts)]),
        pa.concat_tables([SET_ASIDE.empty_table(), *(set_aside for _, set_aside in parts)]),
    )


def _parts(decided: Sequence[Decided]) -> Iterator[Sequence[Decided]]:
    """Consecutive packs that are converted together."""
    begin = size = 0
    for at, (pack, _) in enumerate(decided):
        size += pack.parts[0].column("original").nbytes
        if size > _BYTES_AT_ONCE:
            yield decided[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(decided):
        yield decided[begin:]


def _rows(decided: Sequence[Decided]) -> tuple[pa.Table, pa.Table]:
    packs = [pack.parts[0] for pack, _ in decided]
    lengths = np.array([len(pack) for pack in packs])
    statuses = np.concatenate(
        [decisions.parts[0].column("status").to_numpy() for _, decisions in decided]
    )

    def joined(column: str) -> pa.Array:
        return pa.concat_arrays([pack.column(column) for pack in packs])

    sources, ids, data = said([pack.column("original") for pack in packs])
    columns = [
        joined("customer").dictionary_decode(),
        joined("type"),
        joined("time").cast(_EVENT.field("time").type),
        sources.dictionary_encode(),
        ids,
        data,
        joined("received_at").cast(_EVENT.field("received_at").type),
        joined("source_partition"),
        joined("source_offset"),
        pa.concat_arrays(list(map(source_indices, packs))),
    ]
    counted = [
        _late_for(decided, lengths),
        pa.array(np.repeat([each.decisions.header["pack_offset"] for each in decided], lengths)),
        _repeated([each.pack.header["definitions"] for each in decided], lengths),
    ]
    events = pa.Table.from_arrays([*columns, *counted], schema=EVENTS)
    accepted = statuses == Status.ACCEPTED
    if accepted.all():
        return events, SET_ASIDE.empty_table()
    others = pa.array(np.flatnonzero(~accepted))
    names = _STATUS_NAMES.take(pa.array(statuses[~accepted]))
    set_aside = [column.take(others) for column in columns]
    return (
        events.filter(pa.array(accepted)),
        pa.Table.from_arrays([*set_aside, names], schema=SET_ASIDE),
    )


def _late_for(decided: Sequence[Decided], lengths: NDArray[np.int64]) -> pa.ListArray:
    """Per event, the meters for which it came too late."""
    late = [decisions.parts[1] for _, decisions in decided]
    begins = np.repeat(np.cumsum(lengths) - lengths, [len(rows) for rows in late])
    indices = np.concatenate([rows.column("index").to_numpy() for rows in late]) + begins
    ends = np.cumsum(np.bincount(indices, minlength=lengths.sum()), dtype=np.int32)
    meters = pa.concat_arrays([rows.column("meter") for rows in late])
    meters = meters.take(pa.array(np.argsort(indices, kind="stable")))
    return pa.ListArray.from_arrays(pa.array(np.insert(ends, 0, np.int32(0))), meters)


def _repeated(texts: Sequence[str], counts: NDArray[np.int64]) -> pa.DictionaryArray:
    rows = np.repeat(np.arange(len(texts)), counts)
    return pa.array(texts, pa.string()).dictionary_encode().take(pa.array(rows))
