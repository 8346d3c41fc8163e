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
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.difference import Difference, Differences
from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Outgoing, Record
from schemas import rejection, topics
from schemas.definitions import Definitions
from schemas.frame import unseal
from schemas.pack import SCALE, dimension_column, is_value_column
from schemas.quantity import NANOS, from_plain

_BATCH = 4_096
_msgpack = msgspec.msgpack.Encoder().encode

_COLUMNS = ("received_at", "time", "id_high", "id_low", "fingerprint")
_TEXTS = ("type", "customer", "original")


class Range(NamedTuple):
    """Offsets of one partition of usage.events: what is compared."""

    begin: int
    end: int


@dataclass
class EventsCompared:
    """How many events were taken in again, and how many could not be found any more."""

    events: int = 0
    uncompared: int = 0


@dataclass
class _Column:
    """What the packs say of each event of a range, 12 bytes an event."""

    begin: int
    digests: NDArray[np.uint64]
    #: 1 + the number of the definitions that it was taken in by; 0 where no pack has it.
    versions: NDArray[np.uint16]
    shards: NDArray[np.uint16]


class Taken:
    """Which events the shard logs have, and what they say."""

    def __init__(self, ranges: Sequence[Range], differences: Differences) -> None:
        self._columns = [
            _Column(
                begin,
                np.zeros(max(end - begin, 0), np.uint64),
                np.zeros(max(end - begin, 0), np.uint16),
                np.zeros(max(end - begin, 0), np.uint16),
            )
            for begin, end in ranges
        ]
        self._versions: dict[str, int] = {}
        self._differences = differences
        #: (shard, source partition) → the first offset that its log still has.
        self._first: dict[tuple[int, int], int] = {}

    @property
    def versions(self) -> list[str]:
        """The versions of definitions that packs name, in their order of appearance."""
        return list(self._versions)

    def note(self, shard: int, offset: int, pack: Pack) -> None:
        """Note the events of a pack."""
        version = self._versions.setdefault(pack.definitions_version, len(self._versions)) + 1
        partitions = pack.numbers("source_partition").tolist()
        offsets = pack.numbers("source_offset").tolist()
        for partition, at, digest in zip(partitions, offsets, _digests(pack), strict=True):
            self._first.setdefault((shard, partition), at)
            if not 0 <= partition < len(self._columns):
                fault = f"comes from partition {partition} of usage.events, which does not exist"
                self._add(fault, shard, offset)
                continue
            column = self._columns[partition]
            row = at - column.begin
            if not 0 <= row < len(column.versions):
                continue  # deleted, or taken in after the cut
            if column.versions[row]:
                other = int(column.shards[row])
                self._add(
                    f"{_at(partition, at)} was packed before, in shard {other}", shard, offset
                )
                continue
            column.versions[row] = version
            column.digests[row] = digest
            column.shards[row] = shard

    def compare(
        self,
        partition: int,
        records: Iterable[Record],
        rejections: Mapping[int, Sequence[Rejected]],
        definitions: Mapping[str, Definitions],
        shards: int,
        is_log_whole: Callable[[int], bool],
    ) -> EventsCompared:
        """Take in `records` of one partition again and compare.

        `rejections` are by offset; `definitions` are those that the logs announced, by version;
        `is_log_whole` says of a shard that nothing of its log was deleted.

        Raises:
            Stop: a pack names definitions that the log never announced.
        """
        unknown = self._versions.keys() - definitions.keys()
        if unknown:
            raise Stop(
                f"A pack was cut with definitions {min(unknown)!r:.100}, which the log never "
                "announced.",
                remedy="Restore usage.tally.state and usage.metered from one backup.",
            )
        intakes = {version: Intake(known, shards) for version, known in definitions.items()}
        compared = EventsCompared()
        column = self._columns[partition]
        source = iter(records)
        while batch := list(islice(source, _BATCH)):
            compared.events += len(batch)
            rows = np.array([record.offset - column.begin for record in batch])
            versions = column.versions[rows]
            for number, version in enumerate(self._versions, start=1):
                packed = [batch[at] for at in np.flatnonzero(versions == number)]
                self._compare_packed(partition, packed, intakes[version], rejections)
            for record in (batch[at] for at in np.flatnonzero(versions == 0)):
                outcomes = [_again(intake, record) for intake in intakes.values()]
                found = rejections.get(record.offset, ())
                self._compare_rejected(partition, record, outcomes, found, is_log_whole, compared)
            column.versions[rows] = 0
        for row in np.flatnonzero(column.versions).tolist():
            fault = f"{_at(partition, column.begin + row)} is packed, but not on usage.events"
            self._add(fault, int(column.shards[row]))
        return compared

    def _compare_packed(
        self,
        partition: int,
        records: Sequence[Record],
        intake: Intake,
        rejections: Mapping[int, Sequence[Rejected]],
    ) -> None:
        if not records:
            return
        column = self._columns[partition]
        for outgoing in intake.step(records):
            if outgoing.topic == topics.REJECTED.name:
                again = read_rejection(outgoing)
                if again is not None:
                    fault = f"is packed, though intake rejects it: {again.reason}"
                    self._add(f"{_at(partition, again.offset)} {fault}")
                continue
            pack = Pack(unseal(outgoing.value or b""))
            customers = pack.batch.column("customer").to_pylist()
            offsets = pack.numbers("source_offset").tolist()
            for at, digest, customer in zip(offsets, _digests(pack), customers, strict=True):
                row = at - column.begin
                shard = int(column.shards[row])
                if shard != outgoing.partition:
                    fault = f"is packed in shard {shard}, and belongs to {outgoing.partition}"
                    self._add(f"{_at(partition, at)} {fault}", customer=customer)
                elif int(column.digests[row]) != digest:
                    fault = "is packed with other content than it has on usage.events"
                    self._add(f"{_at(partition, at)} {fault}", shard, customer=customer)
        for record in records:
            if record.offset in rejections:
                self._add(f"{_at(partition, record.offset)} is packed and rejected")

    def _compare_rejected(
        self,
        partition: int,
        record: Record,
        outcomes: Sequence[Outgoing],
        found: Sequence[Rejected],
        is_log_whole: Callable[[int], bool],
        compared: EventsCompared,
    ) -> None:
        place = _at(partition, record.offset)
        # A rejection does not name the definitions; any that were announced may be its cause.
        again = [rejected for each in outcomes if (rejected := read_rejection(each)) is not None]
        if len(found) > 1:
            self._add(f"{place} was rejected {len(found)} times")
        if found:
            if found[0].content != _content(record.key, record.value):
                self._add(f"{place} lies on usage.rejected with other bytes")
            if found[0].reason not in {rejected.reason for rejected in again}:
                fault = f"was rejected as {found[0].reason}, which intake does not find in it"
                self._add(f"{place} {fault}")
            return
        for each in outcomes:
            if each.partition is not None and not is_log_whole(each.partition):
                first = self._first.get((each.partition, partition))
                if first is None or record.offset < first:
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

    partition: int
    offset: int
    reason: str
    content: int


def read_rejection(record: Record | Outgoing) -> Rejected | None:
    """The rejection in a record for usage.rejected; None in any other, or of another topic."""
    headers = dict(record.headers)
    try:
        if headers[rejection.HEADER_TOPIC] != topics.EVENTS.name.encode():
            return None
        return Rejected(
            int(headers[rejection.HEADER_PARTITION]),
            int(headers[rejection.HEADER_OFFSET]),
            headers[rejection.HEADER_REASON].decode(),
            _content(record.key, record.value),
        )
    except (KeyError, ValueError):
        return None


def by_position(records: Iterable[Record]) -> dict[int, dict[int, list[Rejected]]]:
    """The rejections on usage.rejected: source partition → offset → its rejections."""
    found: dict[int, dict[int, list[Rejected]]] = {}
    for record in records:
        rejected = read_rejection(record)
        if rejected is not None:
            places = found.setdefault(rejected.partition, {})
            places.setdefault(rejected.offset, []).append(rejected)
    return found


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


def _at(partition: int, offset: int) -> str:
    return f"usage.events-{partition} at offset {offset}"
