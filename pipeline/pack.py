"""Columns of events become packs, one or more a shard, and packs become columns again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.gather import renumber
from pipeline.periods import DAY_MS
from schemas.frame import Frame, Kind, seal
from schemas.pack import FIXED, SCALE, TEXT_CODES, dimension_column, value_column
from schemas.quantity import NANOS, PLACES, from_plain, nanos, plain

#: A pack stays below both, so that a reader's memory and the broker's record limit hold.
EVENTS_MAX = 4_096
BYTES_MAX = 4 * 1024 * 1024


class Scaled(NamedTuple):
    """Quantities as an int64 array of integers over so many decimal places."""

    integers: pa.Array
    places: int

    def over(self, places: int) -> Scaled | None:
        """The same over at least as many places; None if 64 bits are not enough."""
        if places == self.places:
            return self
        try:
            more = pa.scalar(10 ** (places - self.places), pa.int64())
            return Scaled(pc.multiply_checked(self.integers, more), places)
        except pa.ArrowInvalid:
            return None


#: Quantities at one path, in either way; null or None where an event's type has no meter that reads
#: them.
Values: TypeAlias = Scaled | list[int | Decimal | None]


@dataclass(frozen=True)
class EventColumns:
    """Events of many shards as columns of equal length.

    `rows` are their places in the order in which they were read. `types`, `customers` and
    `dimensions` are arrays of strings, with or without a dictionary, `originals` of bytes. `values`
    and `dimensions` are by path; null where an event's type has no meter that reads it.
    """

    rows: NDArray[np.int64]
    source_partitions: NDArray[np.int32]
    source_offsets: NDArray[np.int64]
    source_indices: NDArray[np.int32]
    received_ms: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    id_high: NDArray[np.uint64]
    id_low: NDArray[np.uint64]
    fingerprints: NDArray[np.uint32]
    types: pa.Array
    customers: pa.Array
    originals: pa.Array
    values: dict[str, Values]
    dimensions: dict[str, pa.Array]

    @classmethod
    def joined(cls, parts: Sequence[EventColumns]) -> EventColumns:
        """The events of `parts`, which read the same paths."""
        if len(parts) == 1:
            return parts[0]
        columns: dict[str, Any] = {}
        for field in fields(cls):
            pieces = [getattr(part, field.name) for part in parts]
            if isinstance(pieces[0], np.ndarray):
                columns[field.name] = np.concatenate(pieces)
            elif isinstance(pieces[0], dict):
                columns[field.name] = {
                    path: _joined([piece[path] for piece in pieces]) for path in pieces[0]
                }
            else:
                columns[field.name] = pa.concat_arrays(pieces)
        return cls(**columns)


def _joined(pieces: Sequence[Any]) -> Any:
    if all(isinstance(piece, pa.Array) for piece in pieces):
        return pa.concat_arrays(pieces)
    scaled = [_scaled(piece) for piece in pieces]
    places = max((each.places for each in scaled if each is not None), default=0)
    same = [each.over(places) if each is not None else None for each in scaled]
    arrays = [each.integers for each in same if each is not None]
    if len(arrays) == len(pieces):
        return Scaled(pa.concat_arrays(arrays), places)
    return [value for piece in pieces for value in _listed(piece)]


def _scaled(values: Values) -> Scaled | None:
    """The values as 64-bit integers, if all of them fit."""
    if isinstance(values, Scaled):
        return values
    # Looked at first, because pyarrow would cut off a decimal's places without a word.
    if Decimal not in set(map(type, values)):
        with contextlib.suppress(pa.ArrowInvalid, OverflowError):
            return Scaled(pa.array(values, pa.int64()), 0)
    units = [None if value is None else nanos(Decimal(value)) for value in values]
    with contextlib.suppress(pa.ArrowInvalid, OverflowError):
        return Scaled(pa.array(units, pa.int64()), PLACES)
    return None


def _listed(values: Values) -> list[int | Decimal | None]:
    if not isinstance(values, Scaled):
        return values
    integers, places = values
    return [
        None if integer is None else Decimal(integer).scaleb(-places)
        for integer in integers.to_pylist()
    ]


def cut(
    columns: EventColumns, shards: NDArray[np.int64], definitions_version: str
) -> Iterator[tuple[int, bytes]]:
    """Packs of `columns`: (shard, frame), each shard's events in their order of arrival."""
    order = _order_of_arrival(columns)
    # What has few bits is sorted in no time.
    few_bits = np.min_scalar_type(int(shards.max(initial=0)))
    order = order[np.argsort(shards[order].astype(few_bits), kind="stable")]
    packs = list(_packs(shards[order], columns.originals, order))
    bounds = np.array([0, *(end for _, _, end in packs)])
    made = [_Column(field, array, order, bounds) for field, array in _fields(columns)]
    schema = pa.schema([column.field for column in made])
    header = {"definitions": definitions_version}
    for number, (shard, begin, end) in enumerate(packs):
        arrays = [column.part(number, begin, end) for column in made]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        yield shard, seal(Kind.PACK, header, [batch])


def _order_of_arrival(columns: EventColumns) -> NDArray[np.int64]:
    """The places of events in the order in which they arrived, as far as they were read at once.

    Of a backlog months are read at once, one partition after the other, and whoever counts them
    remembers less. The events of a partition stay in its order, whatever their timestamps.
    """
    # What is nearly sorted is sorted in no time.
    order = np.argsort(columns.rows, kind="stable")
    newest_ms = columns.received_ms[order]
    if not len(order) or np.ptp(newest_ms) < DAY_MS:
        return order
    partitions = columns.source_partitions[order]
    for partition in np.unique(partitions):
        of_partition = partitions == partition
        newest_ms[of_partition] = np.maximum.accumulate(newest_ms[of_partition])
    in_order: NDArray[np.int64] = order[np.argsort(newest_ms, kind="stable")]
    return in_order


def _packs(
    shards: NDArray[np.int64], originals: pa.Array, order: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    """(shard, begin, end) of each pack, of events that are in the order of their shards."""
    lengths = pc.binary_length(originals).to_numpy()
    sizes = np.cumsum(lengths[order], dtype=np.int64)
    bounds = np.searchsorted(shards, np.arange(int(shards.max(initial=-1)) + 2)).tolist()
    for shard, (begin, end) in enumerate(pairwise(bounds)):
        while begin < end:
            before = int(sizes[begin - 1]) if begin else 0
            fits = int(np.searchsorted(sizes, before + BYTES_MAX, side="right"))
            stop = min(end, begin + EVENTS_MAX, max(fits, begin + 1))
            yield shard, begin, stop
            begin = stop


def _fields(columns: EventColumns) -> Iterator[tuple[pa.Field, pa.Array]]:
    """All columns with what they are called in a pack; texts as strings."""
    fixed = (
        columns.source_partitions,
        columns.source_offsets,
        columns.source_indices,
        columns.received_ms,
        columns.times_ns,
        columns.id_high,
        columns.id_low,
        columns.fingerprints,
        columns.types,
        columns.customers,
        columns.originals,
    )
    for field, array in zip(FIXED, fixed, strict=True):
        yield field, pa.array(array)
    for path, values in columns.values.items():
        array, metadata = _value_array(values)
        yield pa.field(value_column(path), array.type, metadata=metadata), array
    for path, texts in columns.dimensions.items():
        yield pa.field(dimension_column(path), TEXT_CODES), texts


class _Column:
    """One column in the order of its packs; texts with dictionaries of what occurs in each pack."""

    def __init__(
        self,
        field: pa.Field,
        array: pa.Array,
        order: NDArray[np.int64],
        bounds: NDArray[np.int64],
    ) -> None:
        self.field = field
        self._bounds: NDArray[np.int64] | None = None
        if not pa.types.is_dictionary(field.type):
            self._array = array.take(pa.array(order))
            return
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()[order]
        own, occurring, self._bounds = renumber(codes, len(encoded.dictionary), bounds)
        self._array = pa.array(own, mask=own < 0 if array.null_count else None)
        self._texts = encoded.dictionary.take(pa.array(occurring))

    def part(self, number: int, begin: int, end: int) -> pa.Array:
        """The rows of a pack."""
        part = self._array.slice(begin, end - begin)
        if self._bounds is None:
            return part
        first, last = self._bounds[number], self._bounds[number + 1]
        texts = self._texts.slice(first, last - first)
        return pa.DictionaryArray.from_arrays(part, texts, safe=False)


def _value_array(values: Values) -> tuple[pa.Array, dict[bytes, bytes]]:
    """Scaled 64-bit integers if all values fit, else plain decimal strings."""
    scaled = _scaled(values)
    if scaled is not None:
        return scaled.integers, {SCALE: b"%d" % scaled.places}
    texts = [None if value is None else plain(nanos(Decimal(value))) for value in _listed(values)]
    return pa.array(texts, pa.string()), {}


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
        return text_codes(self.batch.column(column))

    def quantities(self, path: str) -> Quantities:
        """The values at `path`; any where the event's type has no meter that reads it."""
        return Quantities.of(self.batch.column(value_column(path)), self.scale(path))

    def scale(self, path: str) -> int:
        """How many decimal places the integers at `path` have, 0 if they are no integers."""
        metadata = self.batch.schema.field(value_column(path)).metadata or {}
        return int(metadata.get(SCALE, 0))

    @cached_property
    def originals(self) -> pa.Array:
        """The events in structured mode."""
        return self.batch.column("original")


def source_indices(batch: pa.RecordBatch) -> pa.Array:
    """The column `source_index` of a pack; zeros where the pack is older than the column."""
    if "source_index" in batch.schema.names:
        return batch.column("source_index")
    return pa.array(np.zeros(batch.num_rows, np.int32))


def text_codes(array: pa.DictionaryArray) -> tuple[NDArray[np.int32], list[str]]:
    """Dictionary-encoded text as codes, shape (n,), and their texts; null is the code of ''."""
    texts: list[str] = array.dictionary.to_pylist()
    indices = array.indices
    if indices.null_count:
        if "" not in texts:
            texts.append("")
        indices = indices.fill_null(texts.index(""))
    return indices.to_numpy(zero_copy_only=True), texts


@dataclass(frozen=True)
class Quantities:
    """One column: `integers` times `nanos_each`, or `wide` nanos where 64 bits fail."""

    integers: NDArray[np.int64] | None
    nanos_each: int
    wide: list[int] | None

    @classmethod
    def of(cls, column: pa.Array, scale: int) -> Quantities:
        """The values in a column of a pack; any where it is null."""
        if pa.types.is_string(column.type):
            texts = column.to_pylist()
            return cls(None, 1, [0 if text is None else from_plain(text) for text in texts])
        # From the buffer as it is, because filling its nulls costs more than counting its values.
        integers = np.frombuffer(column.buffers()[1], np.int64, len(column), 8 * column.offset)
        return cls(integers, NANOS // 10**scale, None)

    @classmethod
    def joined(cls, parts: Sequence[Quantities]) -> Quantities:
        """The quantities of `parts`, one after the other."""
        nanos_each = min(part.nanos_each for part in parts)
        columns = [part._in_units_of(nanos_each) for part in parts]
        integers = [column for column in columns if column is not None]
        if len(integers) == len(parts):
            return cls(np.concatenate(integers), nanos_each, None)
        return cls(None, 1, [nanos for part in parts for nanos in part.nanos()])

    def _in_units_of(self, nanos_each: int) -> NDArray[np.int64] | None:
        """The integers in units that are no larger; None where 64 bits fail."""
        more = self.nanos_each // nanos_each
        if self.integers is None or more == 1:
            return self.integers
        limit = np.iinfo(np.int64).max // more
        fits = -limit <= self.integers.min(initial=0) and self.integers.max(initial=0) <= limit
        return self.integers * more if fits else None

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
