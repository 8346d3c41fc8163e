"""Clients whose changelog is read from local disk as far as it is there, and else from Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
from confluent_kafka import KafkaError, KafkaException

from pipeline.record import Outgoing, Record
from streams.clients import (
    Clients,
    Clock,
    Committed,
    GroupConsumer,
    Place,
    TransactionalWriter,
    Writer,
)
from streams.mirror import Entry, Head, Mirror

log = structlog.get_logger()

#: Kafka's word for a record without a timestamp; no state is made of timestamps.
_NO_TIMESTAMP = -1


class MirroredClients:
    """`clients` for one process, which keeps a `Mirror` of each partition of `topic` that it reads.

    The topic must not be compacted: a mirror grows until the next snapshot is complete.

    A mirror gets only what is committed: what was read back, and what this process wrote once its
    commit was answered. After a commit whose answer was lost, after another owner, after a crash it
    is merely behind; every session and every new owner begins with reading a partition to its end,
    which fetches the rest. Whether Kafka still has what the mirror has is seen from the topic's id
    (`log_id` asks for it) and from the last record, which is read again and compared.
    """

    def __init__(
        self, clients: Clients, directory: Path, topic: str, log_id: Callable[[], str]
    ) -> None:
        self._clients = clients
        self._directory = directory
        self._topic = topic
        self._ask_for_log_id = log_id
        #: Asked for once a session.
        self._log_id = ""
        self._mirrors: dict[int, Mirror] = {}
        #: Copies from the begin of a snapshot on that is being written; complete, they take over.
        self._following: dict[int, Mirror] = {}
        #: Partitions whose mirror has all that is committed.
        self._complete: set[int] = set()
        self._warned = False

    @property
    def clock(self) -> Clock:
        """The time."""
        return self._clients.clock

    def consumer(self, stage: str, instance: str) -> GroupConsumer:
        """A member of the stage's group."""
        return self._clients.consumer(stage, instance)

    def transactional_writer(self, stage: str, instance: str) -> TransactionalWriter:
        """A producer of this instance's transactional id."""
        writer = self._clients.transactional_writer(stage, instance)
        return _MirroringWriter(writer, self._topic, self._take, self._close)

    def writer(self, stage: str, instance: str) -> Writer:
        """A producer without transactions."""
        return self._clients.writer(stage, instance)

    def partition_counts(self) -> Mapping[str, int]:
        """The topics that exist, and how many partitions each has."""
        return self._clients.partition_counts()

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records from offset `begin` to where the partition ends now.

        Raises:
            KafkaException: `begin` is not there, nothing answers, or the disk fails meanwhile.
        """
        if topic != self._topic:
            yield from self._clients.read_to_end(topic, partition, begin)
            return
        self._complete.discard(partition)
        self._give_up_following(partition)
        mirror = self._mirror(partition)
        self._log_id = self._log_id or self._ask_for_log_id()
        mirror.open(Head(self._log_id, partition, begin))
        rest = self._after(partition, mirror.last)
        if rest is None:
            mirror.begin(begin, ())
            rest = self._clients.read_to_end(topic, partition, begin)
        try:
            for entry in mirror.entries():
                yield Record(
                    topic,
                    partition,
                    entry.offset,
                    _NO_TIMESTAMP,
                    entry.key,
                    entry.value,
                    entry.headers,
                )
        except OSError as error:
            raise KafkaException(KafkaError(KafkaError._FS, str(error))) from error
        for record in rest:
            mirror.append([_entry(record.offset, record)])
            yield record
        self._complete.add(partition)

    def next_records(self, positions: Mapping[Place, int | None]) -> Mapping[Place, int]:
        """The offset of the first committed record from each position on."""
        return self._clients.next_records(positions)

    def end_of(self, topic: str, partition: int) -> int:
        """The offset behind the last committed record of a partition."""
        return self._clients.end_of(topic, partition)

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records of all partitions."""
        return self._clients.read_all(topic)

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first of each partition that has one."""
        return self._clients.firsts(topic)

    def _mirror(self, partition: int) -> Mirror:
        if partition not in self._mirrors:
            self._mirrors[partition] = Mirror(self._path(partition), self._refused)
        return self._mirrors[partition]

    def _path(self, partition: int) -> Path:
        return self._directory / f"{self._topic}-{partition}"

    def _after(self, partition: int, last: Entry | None) -> Iterator[Record] | None:
        """What Kafka has after the record `last`; None unless it has that very record."""
        if last is None:
            return None
        records = self._clients.read_to_end(self._topic, partition, last.offset)
        try:
            first = next(records, None)
        except KafkaException as exception:
            if exception.args[0].code() != KafkaError._AUTO_OFFSET_RESET:
                raise
            # The log ends before that offset, or begins after it.
            return None
        return records if first is not None and _entry(first.offset, first) == last else None

    def _take(self, written: Sequence[tuple[Outgoing, int, int]]) -> None:
        """What was written and is committed now: record, partition and offset."""
        for partition in self._complete & {partition for _, partition, _ in written}:
            records = [(record, offset) for record, at, offset in written if at == partition]
            entries = [_entry(offset, record) for record, offset in records]
            self._mirror(partition).append(entries)
            begins = [number for number, (record, _) in enumerate(records) if record.begins]
            if begins:
                self._follow(partition, entries[begins[-1] :])
            elif partition in self._following:
                self._following[partition].append(entries)
            if any(record.completes for record, _ in records) and partition in self._following:
                self._mirror(partition).close()
                self._mirrors[partition] = self._following.pop(partition)
                self._mirrors[partition].move_to(self._path(partition))

    def _follow(self, partition: int, entries: Sequence[Entry]) -> None:
        """Begin another copy, which becomes the mirror when its snapshot is complete."""
        self._give_up_following(partition)
        path = self._path(partition)
        following = Mirror(path.with_name(f"{path.name}.next"), self._refused)
        following.open(Head(self._log_id, partition, entries[0].offset))
        following.append(entries)
        self._following[partition] = following

    def _give_up_following(self, partition: int) -> None:
        following = self._following.pop(partition, None)
        if following is not None:
            following.discard()

    def _close(self) -> None:
        """The session is over; the next one reads anew what it gets."""
        self._log_id = ""
        self._complete.clear()
        for mirror in self._mirrors.values():
            mirror.close()
        for partition in list(self._following):
            self._give_up_following(partition)

    def _refused(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "no local copy of the state: a restart will read all of it from Kafka",
                why=str(error),
                remedy="make room, or point METERLINE_STATE_DIRECTORY elsewhere",
            )


class _MirroringWriter:
    """A `TransactionalWriter` that passes on what it wrote to `topic`, once that is committed."""

    def __init__(
        self,
        writer: TransactionalWriter,
        topic: str,
        take: Callable[[Sequence[tuple[Outgoing, int, int]]], None],
        close: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._topic = topic
        self._take, self._close = take, close
        self._written: list[tuple[Outgoing, int, int]] = []

    def fence(self) -> None:
        """Claim the id."""
        self._writer.fence()

    def begin(self) -> None:
        """Begin a transaction."""
        self._written = []
        self._writer.begin()

    def write(self, outgoing: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        """Publish within the transaction."""
        places = self._writer.write(outgoing)
        self._written += [
            (record, *place)
            for record, place in zip(outgoing, places, strict=True)
            if record.topic == self._topic
        ]
        return places

    def send_offsets(self, reached: Mapping[Place, Committed], membership: object) -> None:
        """Make positions part of the transaction."""
        self._writer.send_offsets(reached, membership)

    def commit(self) -> None:
        """Make all of it visible; whoever cannot say that it is visible takes nothing."""
        self._writer.commit()
        self._take(self._written)

    def abort(self) -> None:
        """Give up whatever is open, the mirrors, too."""
        self._writer.abort()
        self._close()


def _entry(offset: int, record: Record | Outgoing) -> Entry:
    return Entry(offset, record.key, record.value, record.headers)
