"""Intake: records of usage.events in, packs and rejections out. Stateless and pure.

A record that holds many events is taken apart first, by `pipeline.unpack`. What is usual goes
through `pipeline.scan`, many events at a time; whatever else there may be goes through
`pipeline.decode`, one by one. Both become the same columns; each event keeps its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import structs
from numpy.typing import NDArray

from pipeline.decode import decode_data, decode_event
from pipeline.errors import Reject
from pipeline.identify import fingerprints, hashes
from pipeline.instant import INVALID, LAST_NS, parse_instants
from pipeline.measure import Reading, readings
from pipeline.pack import EventColumns, Scaled, cut
from pipeline.record import Outgoing, Record, Records
from pipeline.reject import rejected
from pipeline.restructure import restructured
from pipeline.route import Router
from pipeline.scan import Scanned, Scanner
from pipeline.scan_event import DATA, ID, SOURCE, SUBJECT, TYPE
from pipeline.unpack import unpacked
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Kind, seal

_READS_NOTHING = Reading((), ())
_LAST_MS = LAST_NS // 10**6
#: A packed record of some kilobytes may be thousands of rejections, 10 us each.
_EVENTS_AT_ONCE = 100_000
_EXAMPLE = Record(
    topics.EVENTS.name,
    partition=0,
    offset=0,
    timestamp_ms=0,
    key=None,
    value=b'{"specversion":"1.0","id":"1","source":"/","type":"t","subject":"s",'
    b'"time":"2026-11-20T09:30:00Z","data":{}}',
)
_BINARY_EXAMPLE = structs.replace(_EXAMPLE, value=b"{}", headers=(("ce_id", b"1"),))


class _Row(NamedTuple):
    """What was read of one event that is not usual; `time_ns` comes when all times are parsed."""

    place: int
    record: Record
    time: str
    time_ns: int
    source: str
    event_id: str
    event_type: str
    customer: str
    data: bytes
    original: bytes
    quantities: list[int | Decimal]
    texts: list[str]


class Intake:
    """Decodes, validates, routes and packs by one version of the definitions."""

    def __init__(self, definitions: Definitions, shards: int = topics.SHARDS) -> None:
        self._definitions = definitions
        self._readings = readings(definitions)
        self._value_paths = {kind: read.values for kind, read in self._readings.items()}
        self._dimension_paths = {kind: read.dimensions for kind, read in self._readings.items()}
        self._scanner = Scanner(self._readings)
        self._router = Router(shards)
        # Machine code is made now, and not within the first transaction.
        self.step([_EXAMPLE, _BINARY_EXAMPLE])

    def announce(self) -> list[Outgoing]:
        """The definitions, for every shard; must be written before the first pack cut by them."""
        frame = seal(
            Kind.DEFINITIONS,
            {
                "version": self._definitions.version,
                "document": self._definitions.model_dump(mode="json"),
            },
        )
        return [
            Outgoing(topics.METERED.name, frame, partition=shard)
            for shard in range(self._router.shards)
        ]

    def step(self, records: Sequence[Record]) -> list[Outgoing]:
        """What `records` become: each event of them is in one pack or is one rejection."""
        arrived = records if isinstance(records, Records) else Records(records)
        return [outgoing for part in parts(arrived) for outgoing in self._take_in(part)]

    def _take_in(self, arrived: Records) -> list[Outgoing]:
        """What events become."""
        usual, others = self._scan(arrived)
        rows, outgoing = self._read(arrived, others)
        read = []
        if len(usual.rows):
            read.append(self._columns_of_usual(arrived, usual))
        if rows:
            read.append(self._columns_of_others(rows))
        if not read:
            return outgoing
        columns = EventColumns.joined(read)
        customers = columns.customers.dictionary_encode()
        columns = replace(columns, customers=customers)
        version = self._definitions.version
        shards = self._router.of_each(customers.dictionary)[customers.indices.to_numpy()]
        for shard, frame in cut(columns, shards, version):
            outgoing.append(Outgoing(topics.METERED.name, frame, partition=shard))
        return outgoing

    def _scan(self, arrived: Records) -> tuple[Scanned, list[int]]:
        """What is usual, and the places of what is not."""
        received = arrived.timestamps_ms
        in_range = (received >= 0) & (received < _LAST_MS)
        texts, usual = restructured(arrived)
        scanned = self._scanner.scan(texts, usual & in_range)
        if len(scanned.rows) == len(arrived):
            return scanned, []
        is_other = np.ones(len(arrived), dtype=np.bool_)
        is_other[scanned.rows] = False
        return scanned, np.flatnonzero(is_other).tolist()

    def _columns_of_usual(self, arrived: Records, scanned: Scanned) -> EventColumns:
        rows = scanned.rows
        id_high, id_low = scanned.hashes(SOURCE, ID)
        said, _ = scanned.hashes(TYPE, SUBJECT, DATA)
        types = scanned.types
        return EventColumns(
            rows=rows,
            source_partitions=arrived.partitions[rows],
            source_offsets=arrived.offsets[rows],
            source_indices=arrived.indices[rows],
            received_ms=arrived.timestamps_ms[rows],
            times_ns=scanned.times_ns,
            id_high=id_high,
            id_low=id_low,
            fingerprints=fingerprints(said, scanned.times_ns),
            types=types.dictionary_decode(),
            customers=scanned.strings(SUBJECT),
            originals=scanned.originals(),
            values={
                path: _masked(*scanned.quantities(path), _is_of_others(types, readers))
                for path, readers in _readers(self._value_paths).items()
            },
            dimensions={
                path: _blanked(scanned.texts(path), _is_of_others(types, readers))
                for path, readers in _readers(self._dimension_paths).items()
            },
        )

    def _read(self, arrived: Records, places: Sequence[int]) -> tuple[list[_Row], list[Outgoing]]:
        """The events among the records at `places`, and the rejections of the rest."""
        rows: list[_Row] = []
        outgoing: list[Outgoing] = []
        for place in places:
            record = arrived[place]
            try:
                rows.append(self._row(place, record))
            except Reject as reason:
                outgoing.append(rejected(record, reason))
        kept = []
        times_ns = parse_instants([row.time for row in rows]).tolist()
        for row, time_ns in zip(rows, times_ns, strict=True):
            if time_ns == INVALID:
                outgoing.append(rejected(row.record, _invalid_time(row.time)))
            else:
                kept.append(row._replace(time_ns=time_ns))
        return kept, outgoing

    def _row(self, place: int, record: Record) -> _Row:
        if not 0 <= record.timestamp_ms < _LAST_MS:
            raise _invalid_arrival(record.timestamp_ms)
        envelope, original = decode_event(record)
        reading = self._readings.get(envelope.type, _READS_NOTHING)
        data, sent = decode_data(envelope, reading.names, is_read=reading.has_paths)
        return _Row(
            place,
            record,
            envelope.time,
            INVALID,
            envelope.source,
            envelope.id,
            envelope.type,
            envelope.subject,
            sent,
            original,
            reading.quantities(data),
            reading.texts(data),
        )

    def _columns_of_others(self, rows: Sequence[_Row]) -> EventColumns:
        times_ns = np.array([row.time_ns for row in rows], dtype=np.int64)
        types = [row.event_type for row in rows]
        id_high, id_low = hashes(
            [row.source.encode() for row in rows], [row.event_id.encode() for row in rows]
        )
        said, _ = hashes(
            [event_type.encode() for event_type in types],
            [row.customer.encode() for row in rows],
            [row.data for row in rows],
        )
        texts = _spread(types, [row.texts for row in rows], self._dimension_paths)
        return EventColumns(
            rows=np.array([row.place for row in rows], dtype=np.int64),
            source_partitions=np.array([row.record.partition for row in rows], dtype=np.int32),
            source_offsets=np.array([row.record.offset for row in rows], dtype=np.int64),
            source_indices=np.array([row.record.index for row in rows], dtype=np.int32),
            received_ms=np.array([row.record.timestamp_ms for row in rows], dtype=np.int64),
            times_ns=times_ns,
            id_high=id_high,
            id_low=id_low,
            fingerprints=fingerprints(said, times_ns),
            types=pa.array(types, pa.string()),
            customers=pa.array([row.customer for row in rows], pa.string()),
            originals=pa.array([row.original for row in rows], pa.binary()),
            values=dict(_spread(types, [row.quantities for row in rows], self._value_paths)),
            dimensions={path: pa.array(column, pa.string()) for path, column in texts.items()},
        )


def parts(records: Records) -> Iterator[Records]:
    """The events of `records`, so many at a time that taking them in takes seconds at most."""
    return iter([records]) if records.are_plain else unpacked(records, _EVENTS_AT_ONCE)


def _readers(paths: Mapping[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """Path to the event types that read it, in the order of `_spread`."""
    readers: dict[str, set[str]] = {}
    for event_type, type_paths in paths.items():
        for path in type_paths:
            readers.setdefault(path, set()).add(event_type)
    return readers


def _is_of_others(types: pa.Array, wanted: Set[str]) -> NDArray[np.bool_]:
    """Which events are of none of the `wanted` types, shape (n,)."""
    is_other = np.array([name not in wanted for name in types.dictionary.to_pylist()], np.bool_)
    of_events: NDArray[np.bool_] = is_other[types.indices.to_numpy()]
    return of_events


def _masked(integers: NDArray[np.int64], places: int, mask: NDArray[np.bool_]) -> Scaled:
    """Quantities, null where the mask is true."""
    return Scaled(pa.array(integers, mask=mask), places)


def _blanked(texts: pa.Array, mask: NDArray[np.bool_]) -> pa.Array:
    """`texts`, null where the mask is true."""
    return pc.if_else(pa.array(mask), None, texts) if mask.any() else texts


Cell = TypeVar("Cell")


def _spread(
    types: Sequence[str], rows: Sequence[list[Cell]], paths: dict[str, tuple[str, ...]]
) -> dict[str, list[Cell | None]]:
    """Rows as columns by path: `rows[i][k]` was read at `paths[types[i]][k]`."""
    columns: dict[str, list[Cell | None]] = {}
    only_type = types[0] if types.count(types[0]) == len(types) else None
    for event_type, type_paths in paths.items():
        for position, path in enumerate(type_paths):
            if event_type == only_type:
                columns[path] = [row[position] for row in rows]
                continue
            column = columns.setdefault(path, [None] * len(types))
            for index, row_type in enumerate(types):
                if row_type == event_type:
                    column[index] = rows[index][position]
    return columns


def _invalid_arrival(timestamp_ms: int) -> Reject:
    return Reject(
        "invalid_arrival",
        f"The Kafka record's timestamp, {timestamp_ms} ms, is not between 1970 and 2262.",
        remedy="Let the Kafka client set the timestamp, or set it in milliseconds since 1970.",
    )


def _invalid_time(text: str) -> Reject:
    return Reject(
        "invalid_time",
        f"The time {text[:100]!r} is not RFC 3339 with an offset, between 1970 and 2262.",
        remedy="Send time as 2026-11-20T09:30:00Z or 2026-11-20T10:30:00+01:00.",
    )
