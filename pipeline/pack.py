"""Columns of events become packs, one or more a shard, and packs become columns again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.frame import Frame, Kind, seal
from schemas.pack import FIXED, SCALE, dimension_column, value_column
from schemas.quantity import NANOS, PLACES, from_plain, nanos, plain

#: A pack stays below both, so that a reader's memory and the broker's record limit hold.
EVENTS_MAX = 4_096
BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True)
class EventColumns:
    """Events of many shards as columns of equal length, in their order of arrival.

    `values` and `dimensions` are by path; None where an event's type has no meter that reads it.
    """

    source_partitions: Sequence[int]
    source_offsets: Sequence[int]
    received_ms: Sequence[int]
    times_ns: NDArray[np.int64]
    id_high: NDArray[np.uint64]
    id_low: NDArray[np.uint64]
    fingerprints: NDArray[np.uint32]
    types: Sequence[str]
    customers: Sequence[str]
    originals: Sequence[bytes]
    values: dict[str, list[int | Decimal | None]]
    dimensions: dict[str, list[str | None]]


def cut(
    columns: EventColumns, shards: NDArray[np.int64], definitions_version: str
) -> Iterator[tuple[int, bytes]]:
    """Packs of `columns`: (shard, frame), each shard's events in their order of arrival."""
    order = np.argsort(shards, kind="stable")
    batch = _record_batch(columns).take(pa.array(order))
    lengths = np.fromiter(map(len, columns.originals), np.int64, len(columns.originals))
    sizes = np.cumsum(lengths[order])
    header = {"definitions": definitions_version}
    bounds = np.searchsorted(shards[order], np.arange(int(shards.max(initial=-1)) + 2))
    for shard, (begin, end) in enumerate(
        zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ):
        while begin < end:
            before = int(sizes[begin - 1]) if begin else 0
            fits = int(np.searchsorted(sizes, before + BYTES_MAX, side="right"))
            stop = min(end, begin + EVENTS_MAX, max(fits, begin + 1))
            yield shard, seal(Kind.PACK, header, [_with_own_dictionaries(batch, begin, stop)])
            begin = stop


def _record_batch(columns: EventColumns) -> pa.RecordBatch:
    """All events in one record batch, texts not yet dictionary-encoded."""
    arrays: list[pa.Array] = [
        pa.array(columns.source_partitions, pa.int32()),
        pa.array(columns.source_offsets, pa.int64()),
        pa.array(columns.received_ms, pa.int64()),
        pa.array(columns.times_ns),
        pa.array(columns.id_high),
        pa.array(columns.id_low),
        pa.array(columns.fingerprints),
        pa.array(columns.types, pa.string()),
        pa.array(columns.customers, pa.string()),
        pa.array(columns.originals, pa.binary()),
    ]
    fields = [
        pa.field(field.name, array.type, nullable=False)
        for field, array in zip(FIXED, arrays, strict=True)
    ]
    for path, values in columns.values.items():
        array, metadata = _value_array(values)
        arrays.append(array)
        fields.append(pa.field(value_column(path), array.type, metadata=metadata))
    for path, texts in columns.dimensions.items():
        arrays.append(pa.array(texts, pa.string()))
        fields.append(pa.field(dimension_column(path), pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _value_array(values: list[int | Decimal | None]) -> tuple[pa.Array, dict[bytes, bytes]]:
    """Scaled 64-bit integers if all values fit, else plain decimal strings."""
    # Looked at first, because pyarrow would cut off a decimal's places without a word.
    if Decimal not in set(map(type, values)):
        with contextlib.suppress(pa.ArrowInvalid, OverflowError):
            return pa.array(values, pa.int64()), {SCALE: b"0"}
    units = [None if value is None else nanos(Decimal(value)) for value in values]
    try:
        return pa.array(units, pa.int64()), {SCALE: b"%d" % PLACES}
    except (pa.ArrowInvalid, OverflowError):
        return pa.array([None if unit is None else plain(unit) for unit in units], pa.string()), {}


def _with_own_dictionaries(batch: pa.RecordBatch, begin: int, end: int) -> pa.RecordBatch:
    """The rows from `begin` to `end`, with dictionaries of only what occurs in them."""
    part = batch.slice(begin, end - begin)
    arrays = []
    fields = []
    for array, field in zip(part.columns, part.schema, strict=True):
        is_value = field.name.startswith("value:")
        encoded = (
            array.dictionary_encode() if pa.types.is_string(array.type) and not is_value else array
        )
        arrays.append(encoded)
        fields.append(pa.field(field.name, encoded.type, field.nullable, field.metadata))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


class Pack:
    """An opened pack: its columns as numpy arrays, made when first asked for."""

    def __init__(self, frame: Frame) -> None:
        self.definitions_version: str = frame.header["definitions"]
        self.batch: pa.RecordBatch = frame.parts[0]

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def numbers(self, column: str) -> NDArray[Any]:
        """One of the fixed numeric columns, shape (n,)."""
        array: NDArray[Any] = self.batch.column(column).to_numpy(zero_copy_only=True)
        return array

    def codes(self, column: str) -> tuple[NDArray[np.int32], list[str]]:
        """A text column as codes, shape (n,), and what they stand for; null is the code of ''."""
        array = self.batch.column(column)
        texts: list[str] = array.dictionary.to_pylist()
        indices = array.indices
        if indices.null_count:
            if "" not in texts:
                texts.append("")
            indices = indices.fill_null(texts.index(""))
        return indices.to_numpy(zero_copy_only=True), texts

    def quantities(self, path: str) -> Quantities:
        """The values at `path`."""
        name = value_column(path)
        array = self.batch.column(name)
        metadata = self.batch.schema.field(name).metadata or {}
        if pa.types.is_string(array.type):
            units = [0 if text is None else from_plain(text) for text in array.to_pylist()]
            return Quantities(None, 1, units)
        scale = int(metadata[SCALE])
        return Quantities(
            array.fill_null(0).to_numpy(zero_copy_only=True), NANOS // 10**scale, None
        )

    @cached_property
    def originals(self) -> pa.Array:
        """The events in structured mode."""
        return self.batch.column("original")


@dataclass(frozen=True)
class Quantities:
    """One column: `integers` times `nanos_each`, or `wide` nanos where 64 bits fail."""

    integers: NDArray[np.int64] | None
    nanos_each: int
    wide: list[int] | None

    @classmethod
    def joined(cls, parts: Sequence[Quantities]) -> Quantities:
        """The quantities of `parts`, one after the other."""
        columns = [part.integers for part in parts if part.integers is not None]
        if len(columns) == len(parts) and len({part.nanos_each for part in parts}) == 1:
            return cls(np.concatenate(columns), parts[0].nanos_each, None)
        return cls(None, 1, [nanos for part in parts for nanos in part.nanos()])

    def take(self, indices: NDArray[np.int64]) -> Quantities:
        """The quantities at `indices`."""
        if self.integers is not None:
            return Quantities(self.integers[indices], self.nanos_each, None)
        assert self.wide is not None
        return Quantities(None, 1, [self.wide[index] for index in indices.tolist()])

    def nanos(self) -> list[int]:
        """Every quantity in nanos, exact."""
        if self.integers is not None:
            return [value * self.nanos_each for value in self.integers.tolist()]
        assert self.wide is not None
        return self.wide
