"""Replay of intake: what it made of every usage event, beside what it would make of it again.

The packs on the shard log name the position of each of their events in usage.events, and the
definitions they were cut with. So each event is taken in again by those definitions, which travel
on the log, and compared with its row in the pack: none lost, doubled, changed, or in the wrong
shard. The order of the log is taken as it is: it depends on when several intake processes and
partitions came to their turn, and `latest`, conflicts and the event that crosses a threshold
follow it. Equal rows in the same order count alike, so together with the replay of the log this
rebuilds totals and alerts from usage.events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash

from pipeline.announced import UNANNOUNCED
from pipeline.difference import Difference, Differences
from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.noted import Noted, Notes, Range
from pipeline.pack import Pack, source_indices
from pipeline.place import index_of, numbers_of, offset_of
from pipeline.record import Outgoing, Record, Records
from pipeline.reject import Position, position_of
from pipeline.unpack import unpacked
from schemas import rejection, topics
from schemas.definitions import Definitions
from schemas.frame import unseal
from schemas.pack import SCALE, dimension_column, is_value_column
from schemas.quantity import NANOS, from_plain

_BATCH = 4_096
_BATCH_BYTES = 4 * 1024 * 1024
_msgpack = msgspec.msgpack.Encoder().encode

_COLUMNS = ("received_at", "time", "id_high", "id_low", "fingerprint")
_TEXTS = ("type", "customer", "original")


@dataclass
class EventsCompared:
    """How many events were taken in again, and how many could not be found any more."""

    events: int = 0
    uncompared: int = 0


class Taken:
    """Which events the shard logs have, and what they say."""

    def __init__(self, ranges: Sequence[Range], differences: Differences) -> None:
        self._notes = [Notes(extent) for extent in ranges]
        self._versions: dict[str, int] = {}
        self._differences = differences
        #: (shard, source partition) → the first event that its log still has.
        self._first: dict[tuple[int, int], Position] = {}

    @property
    def versions(self) -> list[str]:
        """The versions of definitions that packs name, in their order of appearance."""
        return list(self._versions)

    def note(self, shard: int, offset: int, pack: Pack) -> None:
        """Note the events of a pack."""
        version = self._versions.setdefault(pack.definitions_version, len(self._versions))
        count = len(pack)
        partitions = pack.numbers("source_partition")
        offsets, indices = pack.numbers("source_offset"), source_indices(pack.batch).to_numpy()
        noted = Noted(
            numbers_of(offsets, indices),
            np.fromiter(_digests(pack), np.uint64, count),
            np.full(count, version, np.int16),
            np.full(count, shard, np.uint16),
            np.full(count, offset, np.int64),
        )
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            first = Position(partition, int(offsets[rows[0]]), int(indices[rows[0]]))
            self._first.setdefault((shard, partition), first)
            if 0 <= partition < len(self._notes):
                self._notes[partition].add(noted.at(rows))
                continue
            fault = f"comes from partition {partition} of usage.events, which does not exist"
            for _ in rows:
                self._add(fault, shard, offset)

    def compare(
        self,
        partition: int,
        records: Iterable[Record],
        rejections: Mapping[Position, Sequence[Rejected]],
        definitions: Mapping[str, Definitions],
        shards: int,
        is_log_whole: Callable[[int], bool],
    ) -> EventsCompared:
        """Take in `records` of one partition again and compare.

        `rejections` are by position; `definitions` are those that the logs announced, by version;
        `is_log_whole` says of a shard that nothing of its log was deleted.

        Raises:
            Stop: a pack names definitions that the log never announced.
        """
        unknown = self._versions.keys() - definitions.keys()
        if unknown:
            raise Stop(
                f"A pack was cut with definitions {min(unknown)!r:.100}, which the log never "
                "announced.",
                remedy=UNANNOUNCED,
            )
        intakes = {version: Intake(known, shards) for version, known in definitions.items()}
        # Of logs that were deleted to their ends, neither packs nor definitions are left to ask.
        is_known = bool(intakes) or any(map(is_log_whole, range(shards)))
        compared = EventsCompared()
        noted, again = self._notes[partition].settle()
        before = noted.shards[noted.rows_of(again.numbers)]
        for row in range(len(again)):
            fault = (
                f"{_at(partition, again.numbers[row])} was packed before, in shard {before[row]}"
            )
            self._add(fault, int(again.shards[row]), int(again.offsets[row]))
        is_there = np.zeros(len(noted), np.bool_)
        for events in _events(records):
            compared.events += len(events)
            if not is_known:
                compared.uncompared += len(events)
                continue
            rows = noted.rows_of(numbers_of(events.offsets, events.indices))
            is_there[rows[rows >= 0]] = True
            versions = np.full(len(events), -1)
            versions[rows >= 0] = noted.versions[rows[rows >= 0]]
            for code, version in enumerate(self._versions):
                packed = events.picked(np.flatnonzero(versions == code).tolist())
                self._compare_packed(partition, packed, noted, intakes[version], rejections)
            for event in events.picked(np.flatnonzero(versions < 0).tolist()):
                outcomes = [_again(intake, event) for intake in intakes.values()]
                found = rejections.get(position_of(event), ())
                self._compare_rejected(partition, event, outcomes, found, is_log_whole, compared)
        for row in np.flatnonzero(~is_there).tolist():
            fault = f"{_at(partition, noted.numbers[row])} is packed, but not on usage.events"
            self._add(fault, int(noted.shards[row]))
        return compared

    def _compare_packed(
        self,
        partition: int,
        events: Records,
        noted: Noted,
        intake: Intake,
        rejections: Mapping[Position, Sequence[Rejected]],
    ) -> None:
        if not events:
            return
        for outgoing in intake.step(events):
            if outgoing.topic == topics.REJECTED.name:
                again = read_rejection(outgoing)
                if again is not None:
                    fault = f"is packed, though intake rejects it: {again.reason}"
                    self._add(f"{again.position.in_words} {fault}")
                continue
            pack = Pack(unseal(outgoing.value or b""))
            customers = pack.batch.column("customer").to_pylist()
            numbers = numbers_of(
                pack.numbers("source_offset"), source_indices(pack.batch).to_numpy()
            )
            rows = noted.rows_of(numbers)
            shards, digests = noted.shards[rows].tolist(), noted.digests[rows].tolist()
            said = zip(numbers, shards, digests, _digests(pack), customers, strict=True)
            for number, shard, before, digest, customer in said:
                if shard != outgoing.partition:
                    fault = f"is packed in shard {shard}, and belongs to {outgoing.partition}"
                    self._add(f"{_at(partition, number)} {fault}", customer=customer)
                elif before != digest:
                    fault = "is packed with other content than it has on usage.events"
                    self._add(f"{_at(partition, number)} {fault}", shard, customer=customer)
        for offset, index in zip(events.offsets.tolist(), events.indices.tolist(), strict=True):
            position = Position(partition, offset, index)
            if position in rejections:
                self._add(f"{position.in_words} is packed and rejected")

    def _compare_rejected(
        self,
        partition: int,
        event: Record,
        outcomes: Sequence[Outgoing],
        found: Sequence[Rejected],
        is_log_whole: Callable[[int], bool],
        compared: EventsCompared,
    ) -> None:
        position = position_of(event)
        place = position.in_words
        # A rejection does not name the definitions; any that were announced may be its cause.
        again = [rejected for each in outcomes if (rejected := read_rejection(each)) is not None]
        if len(found) > 1:
            self._add(f"{place} was rejected {len(found)} times")
        if found:
            # As it came, or without what is too large to be kept.
            contents = {_content(event.key, event.value), *(each.content for each in again)}
            if found[0].content not in contents:
                self._add(f"{place} lies on usage.rejected with other bytes")
            if found[0].reason not in {rejected.reason for rejected in again}:
                fault = f"was rejected as {found[0].reason}, which intake does not find in it"
                self._add(f"{place} {fault}")
            return
        for each in outcomes:
            if each.partition is not None and not is_log_whole(each.partition):
                first = self._first.get((each.partition, partition))
                if first is None or position < first:
                    compared.uncompared += 1
                    return
        self._add(f"{place} is lost: neither packed nor rejected")

    def _add(
        self,
        fault: str,
        shard: int | None = None,
        offset: int | None = None,
        customer: str | None = None,
    ) -> None:
        self._differences.add(
            Difference(what="event", problem=fault, shard=shard, offset=offset, customer=customer)
        )


class Rejected(NamedTuple):
    """A rejection: the position of its event, why, and a digest of its bytes."""

    position: Position
    reason: str
    content: int


def read_rejection(record: Record | Outgoing) -> Rejected | None:
    """The rejection in a record for usage.rejected; None in any other, or of another topic."""
    headers = dict(record.headers)
    try:
        if headers[rejection.HEADER_TOPIC] != topics.EVENTS.name.encode():
            return None
        return Rejected(
            Position(
                int(headers[rejection.HEADER_PARTITION]),
                int(headers[rejection.HEADER_OFFSET]),
                int(headers.get(rejection.HEADER_INDEX, b"0")),
            ),
            headers[rejection.HEADER_REASON].decode(),
            _content(record.key, record.value),
        )
    except (KeyError, ValueError):
        return None


def by_position(records: Iterable[Record]) -> dict[int, dict[Position, list[Rejected]]]:
    """The rejections on usage.rejected: source partition → position → its rejections."""
    found: dict[int, dict[Position, list[Rejected]]] = {}
    for record in records:
        rejected = read_rejection(record)
        if rejected is not None:
            of_partition = found.setdefault(rejected.position.partition, {})
            of_partition.setdefault(rejected.position, []).append(rejected)
    return found


def _events(records: Iterable[Record]) -> Iterator[Records]:
    """The events of `records`, so many that they are held at ease."""
    for batch in _batches(records):
        yield from unpacked(Records(batch), _BATCH)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """`records` in lots of so many, or so many bytes, since one may hold thousands of events."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.value or b"")
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _again(intake: Intake, record: Record) -> Outgoing:
    return intake.step([record])[0]


def _digests(pack: Pack) -> Iterator[int]:
    """A digest of all that each row says, however its quantities are written."""
    columns: list[Sequence[Any]] = [pack.numbers(name).tolist() for name in _COLUMNS]
    columns += [pack.batch.column(name).to_pylist() for name in _TEXTS]
    for field in sorted(pack.batch.schema, key=lambda field: field.name):
        values = pack.batch.column(field.name).to_pylist()
        if field.name.startswith(dimension_column("")):
            columns.append(values)
        elif is_value_column(field.name):
            columns.append([_quantity(value, field.metadata) for value in values])
    return (xxhash.xxh3_64_intdigest(_msgpack(row)) for row in zip(*columns, strict=True))


def _quantity(value: int | str | None, metadata: Mapping[bytes, bytes] | None) -> str | None:
    """In nanos, as a text, since they may need more than 64 bits."""
    if value is None:
        return None
    if isinstance(value, str):
        return str(from_plain(value))
    return str(value * (NANOS // 10 ** int((metadata or {})[SCALE])))


def _content(key: bytes | None, value: bytes | None) -> int:
    return xxhash.xxh3_64_intdigest(_msgpack((key, value)))


def _at(partition: int, number: np.int64) -> str:
    return Position(partition, int(offset_of(number)), int(index_of(number))).in_words
