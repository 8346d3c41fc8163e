"""Intake: records of usage.events in, packs and rejections out. Stateless and pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pipeline.decode import decode_data, decode_event
from pipeline.errors import Reject
from pipeline.identify import content_hash, fingerprints, identity, identity_columns
from pipeline.instant import INVALID, LAST_NS, parse_instants
from pipeline.measure import Reading, readings
from pipeline.pack import EventColumns, cut
from pipeline.record import Outgoing, Record
from pipeline.reject import rejected
from pipeline.route import Router
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Kind, seal

#: 10000-01-01T00:00:00Z, in milliseconds since 1970.
_ARRIVALS_END_MS = 253_402_300_800_000

_READS_NOTHING = Reading((), ())
_LAST_MS = LAST_NS // 10**6


class Intake:
    """Decodes, validates, routes and packs by one version of the definitions."""

    def __init__(self, definitions: Definitions, shards: int = topics.SHARDS) -> None:
        self._definitions = definitions
        self._readings = readings(definitions)
        self._value_paths = {kind: read.values for kind, read in self._readings.items()}
        self._dimension_paths = {kind: read.dimensions for kind, read in self._readings.items()}
        self._router = Router(shards)

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
        """What `records` become: each of them is in exactly one pack or is one rejection."""
        outgoing: list[Outgoing] = []
        rows = []
        for record in records:
            try:
                if not 0 <= record.timestamp_ms < _LAST_MS:
                    raise _invalid_arrival(record.timestamp_ms)
                envelope, original = decode_event(record)
                reading = self._readings.get(envelope.type, _READS_NOTHING)
                data, sent = decode_data(envelope, reading.names)
                rows.append(
                    (
                        record,
                        envelope.time,
                        identity(envelope.source, envelope.id),
                        content_hash(envelope.type, envelope.subject, sent),
                        envelope.type,
                        envelope.subject,
                        original,
                        reading.quantities(data),
                        reading.texts(data),
                    )
                )
            except Reject as reason:
                outgoing.append(rejected(record, reason))
        if not rows:
            return outgoing
        times_ns = parse_instants([row[1] for row in rows])
        if (times_ns == INVALID).any():
            kept = (times_ns != INVALID).tolist()
            outgoing += [
                rejected(row[0], _invalid_time(row[1]))
                for row, keep in zip(rows, kept, strict=True)
                if not keep
            ]
            rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
            times_ns = times_ns[kept]
            if not rows:
                return outgoing
        sources, _, identities, hashes, types, customers, originals, values, texts = zip(
            *rows, strict=True
        )
        id_high, id_low = identity_columns(identities)
        columns = EventColumns(
            source_partitions=[record.partition for record in sources],
            source_offsets=[record.offset for record in sources],
            received_ms=[record.timestamp_ms for record in sources],
            times_ns=times_ns,
            id_high=id_high,
            id_low=id_low,
            fingerprints=fingerprints(hashes, times_ns),
            types=types,
            customers=customers,
            originals=originals,
            values=_spread(types, values, self._value_paths),
            dimensions=_spread(types, texts, self._dimension_paths),
        )
        shards = np.fromiter(map(self._router.__getitem__, customers), np.int64, len(customers))
        outgoing += [
            Outgoing(topics.METERED.name, frame, partition=shard)
            for shard, frame in cut(columns, shards, self._definitions.version)
        ]
        return outgoing


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
        "invalid_time",
        f"The Kafka record's timestamp, {timestamp_ms} ms since 1970, is not before 2262.",
        remedy="Let the Kafka client set the timestamp, or set it in milliseconds since 1970.",
    )


def _require_arrival(record: Record) -> None:
    """Lateness, and every reader's calendar, need an arrival between 1970 and 9999."""
    if not 0 <= record.timestamp_ms < _ARRIVALS_END_MS:
        raise Reject(
            "invalid_arrival",
            f"The record's timestamp {record.timestamp_ms} is not between 1970 and 9999.",
            remedy="Let the Kafka client set the timestamp, in milliseconds since 1970.",
        )


def _invalid_time(text: str) -> Reject:
    return Reject(
        "invalid_time",
        f"The time {text[:100]!r} is not RFC 3339 with an offset, between 1970 and 2262.",
        remedy="Send time as 2026-11-20T09:30:00Z or 2026-11-20T10:30:00+01:00.",
    )
