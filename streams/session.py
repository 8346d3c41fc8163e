"""One session of the transactional shell: a consumer and a producer, as long as both go well.

Two owners of a partition cannot both commit. A paused one is fenced three times over: its offsets
are of a generation of the group that is over, its transaction has timed out, and whoever takes over
first waits until every earlier transaction is decided.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from pipeline.errors import Stop
from pipeline.record import Outgoing, Record
from streams.read import read_to_end, record_of
from streams.stage import Stage, member_of, membership
from streams.write import WRITER, write

#: An unfinished transaction holds back every read_committed reader for at most this long.
TRANSACTION_TIMEOUT_MS = 10_000

_ANSWER_SECONDS = 30.0

#: Twice as long as the broker takes to end a transaction that hangs: its time-out, and then its
#: look around every ten seconds (transaction.abort.timed.out.transaction.cleanup.interval.ms).
_STATE_SECONDS = 40.0


class Session:
    """Reads batches of a stage's input and commits what they become; a context manager."""

    def __init__(self, stage: Stage, kafka: Mapping[str, str], instance: str) -> None:
        self._stage = stage
        self._kafka = dict(kafka)
        member = member_of(stage.name, instance)
        self._consumer = Consumer(
            self._kafka
            | membership(stage.name, instance)
            | {
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 256 * 1024,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 20,
            }
        )
        self._producer = Producer(
            self._kafka
            | WRITER
            | {
                "transactional.id": member,
                "client.id": member,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                # From 100 ms: what a commit waits when its coordinator is not ready yet.
                "retry.backoff.ms": 5,
            }
        )
        #: What the group knows of a consumer that is no member.
        self._stranger = self._consumer.consumer_group_metadata()
        #: The next offset to read of each partition that is ours.
        self._positions: dict[int, int] = {}
        #: The offset up to which each state in memory has counted, which is always committed.
        self._counted: dict[int, int] = {}
        self._anchors: dict[int, int] = {}
        self._closing = False
        self.batch: list[Record] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def open(self) -> None:
        """Fence an earlier self, write what must come first, and join the group."""
        self._producer.init_transactions(_ANSWER_SECONDS)
        self._require_topics()
        announced = self._stage.announce()
        if announced:
            self._producer.begin_transaction()
            write(self._producer, announced)
            self._producer.commit_transaction(_ANSWER_SECONDS)
        self._consumer.subscribe(
            [self._stage.input_topic],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )

    def read(self, count: int, wait_seconds: float) -> int:
        """Add up to `count` records to the batch; the bytes that were added."""
        size = 0
        for message in self._consumer.consume(count, wait_seconds):
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            size += self._keep(message)
        return size

    def transact(self, outgoing: Sequence[Outgoing]) -> None:
        """Make a step's outputs and the positions after its batch visible together."""
        # 1. Begin. From here to 5 nothing is visible to anybody.
        self._producer.begin_transaction()
        # 2. Every output and every state segment, acknowledged by the broker. Waited for here,
        #    because the flush inside the commit waits ten times as long.
        self._anchors |= write(self._producer, outgoing)
        # 3. The positions, under the group generation that owns the partitions.
        reached = {record.partition: record.offset + 1 for record in self.batch}
        offsets = [
            TopicPartition(
                self._stage.input_topic,
                partition,
                offset,
                metadata=str(self._anchors.get(partition, "")),
            )
            for partition, offset in reached.items()
        ]
        self._producer.send_offsets_to_transaction(offsets, self._owner(), _ANSWER_SECONDS)
        # 4. Commit: the one moment at which all of it happens.
        self._producer.commit_transaction(_ANSWER_SECONDS)
        # 5. Only now is the batch done.
        self._counted |= reached
        self.batch.clear()

    def _owner(self) -> object:
        """Proof that the partitions are ours.

        Whoever was thrown out of its group is a stranger to it, and strangers may commit to a group
        that is empty: another owner may have come and gone meanwhile.
        """
        metadata = self._consumer.consumer_group_metadata()
        if metadata == self._stranger:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        return metadata

    def _close(self) -> None:
        """Give up what is unfinished and leave."""
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(_ANSWER_SECONDS)
        with contextlib.suppress(KafkaException):
            # What could not be aborted in time must not be sent later.
            self._producer.purge()
            self._producer.poll(0)
        self._forget(set(self._counted))
        self._closing = True
        with contextlib.suppress(KafkaException, RuntimeError):
            self._consumer.close()
        # The consumer's callbacks hold the session; its producer's threads shall end now.
        del self._producer

    def _require_topics(self) -> None:
        known = self._producer.list_topics(timeout=_ANSWER_SECONDS).topics
        wanted = [self._stage.input_topic, self._stage.state_topic]
        counts = []
        for topic in filter(None, wanted):
            if topic not in known:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, topic))
            counts.append(len(known[topic].partitions))
        if len(set(counts)) > 1:
            raise Stop(
                f"{wanted[0]} has {counts[0]} partitions, but {wanted[1]} has {counts[1]}.",
                remedy="Both were created with one number of shards, which never changes: find "
                "out who changed it, and create the topics anew with `meterline topics`.",
            )

    def _keep(self, message: Message) -> int:
        """Add a message to the batch, unless its partition was taken from us meanwhile."""
        record = record_of(message)
        position = self._positions.get(record.partition)
        if position is None or record.offset < position:
            return 0
        self._positions[record.partition] = record.offset + 1
        self.batch.append(record)
        return len(record.value or b"")

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            # A client that is closing answers no more, and its `close` cannot pass on an error. It
            # still waits for a word on what it is given.
            consumer.unassign()
            return
        self._forget(self._counted.keys() - {partition.partition for partition in partitions})
        starts = []
        # Waits for transactions of a former owner that are still being decided.
        for committed in consumer.committed(partitions, timeout=_ANSWER_SECONDS):
            if committed.error is not None:
                raise KafkaException(committed.error)
            partition = committed.partition
            # A state that nobody has counted on since is as good as a restored one.
            if self._counted.get(partition) != committed.offset:
                self._counted[partition] = self._restore(committed)
            position = self._counted[partition]
            self._positions[partition] = max(position, 0)
            starts.append(TopicPartition(committed.topic, partition, position))
        consumer.assign(starts)

    def _restore(self, committed: TopicPartition) -> int:
        """Rebuild the state of a partition; the offset to go on from."""
        if self._stage.state_topic is None:
            return committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
        anchor = int(committed.metadata) if committed.metadata else 0
        deadline = time.monotonic() + _STATE_SECONDS
        while True:
            changelog = read_to_end(
                self._kafka, self._stage.state_topic, committed.partition, anchor, whole=True
            )
            position = self._stage.restore(committed.partition, changelog)
            # The last transaction's offsets may be readable before its state is: its markers are
            # written one partition after the other. Going on from there would count twice.
            if position is None and committed.offset < 0:
                return OFFSET_BEGINNING
            if position is not None and position >= committed.offset:
                self._anchors[committed.partition] = anchor
                return position
            if time.monotonic() > deadline:
                raise Stop(
                    f"The state of {committed.topic} {committed.partition} ends at {position}, but "
                    f"its offsets are committed up to {committed.offset}.",
                    remedy=f"Restore {self._stage.state_topic} from a backup; it lost records.",
                )
            time.sleep(0.05)

    def _revoked(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        """Everything is taken away, if only to be assigned anew; states may still be of use."""
        self._positions.clear()
        self.batch.clear()
        consumer.unassign()

    def _forget(self, partitions: set[int]) -> None:
        for partition in partitions:
            self._counted.pop(partition, None)
            self._anchors.pop(partition, None)
            self._stage.forget(partition)
