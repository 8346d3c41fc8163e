"""The transactional shell: reads a batch, calls a pure step, writes everything in one transaction.

Outputs, state segments and input offsets become visible together or not at all. A paused owner is
fenced by the consumer group's metadata: its offsets are of a generation that is over, so its whole
transaction fails. After any error the session ends: abort, drop the shards' memory, begin anew from
what is committed. This is the only place that knows transactions.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import structlog
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
from streams.failures import stop_if_hopeless
from streams.read import read_to_end, record_of

log = structlog.get_logger()

#: An unfinished transaction holds back every read_committed reader for at most this long.
TRANSACTION_TIMEOUT_MS = 10_000

#: How long the group waits for a silent member; a restart of the same instance need not wait.
SESSION_TIMEOUT_MS = 10_000

#: Lets the producer choose the partition, by the record's key.
_BY_KEY = -1

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.5


class Stage(Protocol):
    """A pure step with its topics. Partitions are shards of one input topic."""

    @property
    def name(self) -> str:
        """Names the consumer group."""

    @property
    def input_topic(self) -> str:
        """What it reads."""

    @property
    def state_topic(self) -> str | None:
        """Its changelog, co-partitioned with the input; None for a stage without memory."""

    def announce(self) -> Sequence[Outgoing]:
        """What must be written before the first step of a session."""

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        """Rebuild a partition's state; the input offset to go on from, None if it holds none."""

    def forget(self, partition: int) -> None:
        """Drop a partition's state."""

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        """What `records`, in order per partition, become."""


class Transactor:
    """Runs one stage until `stop` is set.

    A batch is at most `batch_max` records and `batch_bytes_max` bytes, gathered for at most
    `linger_ms`.
    """

    def __init__(
        self,
        stage: Stage,
        kafka: Mapping[str, str],
        *,
        instance: str,
        stop: threading.Event,
        linger_ms: int = 10,
        batch_max: int = 10_000,
        batch_bytes_max: int = 64 * 1024 * 1024,
    ) -> None:
        self._stage = stage
        self._kafka = dict(kafka)
        self._instance = instance
        self._stop = stop
        self._linger_seconds = linger_ms / 1000
        self._batch_max = batch_max
        self._batch_bytes_max = batch_bytes_max

    def run(self) -> None:
        """Work until stopped.

        Raises:
            Stop: when going on would lose or falsify something.
        """
        gc.freeze()
        while not self._stop.is_set():
            session = _Session(self._stage, self._kafka, self._instance)
            try:
                self._work(session)
            except KafkaException as error:
                stop_if_hopeless(error, f"stage {self._stage.name}")
                log.warning("session ended, starting anew", stage=self._stage.name, why=str(error))
                self._stop.wait(_PAUSE_SECONDS)
            finally:
                session.close()

    def _work(self, session: _Session) -> None:
        session.open()
        while not self._stop.is_set():
            self._gather(session)
            if session.batch:
                session.transact(self._stage.step(session.batch))

    def _gather(self, session: _Session) -> None:
        """Fill the session's batch for one linger time, counted from its first record."""
        size = 0
        deadline: float | None = None
        while not self._stop.is_set():
            now = time.monotonic()
            wait = 0.2 if deadline is None else min(deadline - now, 0.2)
            if wait <= 0:
                return
            # Without a record at hand this returns with the first few that come.
            at_once = 1 if deadline is None else self._batch_max - len(session.batch)
            size += session.read(at_once, wait)
            if session.batch and deadline is None:
                deadline = time.monotonic() + self._linger_seconds
            if len(session.batch) >= self._batch_max or size >= self._batch_bytes_max:
                return


class _Session:
    """One consumer and one producer, for as long as both go well."""

    def __init__(self, stage: Stage, kafka: Mapping[str, str], instance: str) -> None:
        self._stage = stage
        self._kafka = dict(kafka)
        member = f"meterline.{stage.name}.{instance}"
        self._consumer = Consumer(
            self._kafka
            | {
                "group.id": group_of(stage.name),
                "group.instance.id": member,
                "client.id": member,
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 4,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                # A position that retention has overrun is a loss; nobody may jump over it.
                "auto.offset.reset": "error",
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 256 * 1024,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 16 * 1024 * 1024,
            }
        )
        self._producer = Producer(
            self._kafka
            | {
                "transactional.id": member,
                "client.id": member,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "compression.type": "lz4",
                "linger.ms": 0,
                "message.max.bytes": 16 * 1024 * 1024,
                # From 100 ms: what a commit waits when its coordinator is not ready yet.
                "retry.backoff.ms": 5,
            }
        )
        self._positions: dict[int, int] = {}
        self._anchors: dict[int, int] = {}
        self.batch: list[Record] = []

    def open(self) -> None:
        """Fence an earlier self, write what must come first, and join the group."""
        self._producer.init_transactions(_ANSWER_SECONDS)
        announced = self._stage.announce()
        if announced:
            self._producer.begin_transaction()
            self._write(announced)
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
        # 2. Every output and every state segment, acknowledged by the broker. Flushed here,
        #    because the flush inside the commit waits ten times as long.
        self._write(outgoing)
        # 3. The positions, under the group generation that owns the partitions.
        offsets = [
            TopicPartition(
                self._stage.input_topic,
                partition,
                self._positions[partition],
                metadata=str(self._anchors.get(partition, "")),
            )
            for partition in {record.partition for record in self.batch}
        ]
        self._producer.send_offsets_to_transaction(
            offsets, self._consumer.consumer_group_metadata(), _ANSWER_SECONDS
        )
        # 4. Commit: the one moment at which all of it happens.
        self._producer.commit_transaction(_ANSWER_SECONDS)
        # 5. Only now is the batch done.
        self.batch.clear()

    def close(self) -> None:
        """Give up what is unfinished and leave."""
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(_ANSWER_SECONDS)
        for partition in list(self._positions):
            self._stage.forget(partition)
        with contextlib.suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def _keep(self, message: Message) -> int:
        """Add a message to the batch, unless its partition was taken from us meanwhile."""
        record = record_of(message)
        position = self._positions.get(record.partition)
        if position is None or record.offset < position:
            return 0
        self._positions[record.partition] = record.offset + 1
        self.batch.append(record)
        return len(record.value or b"")

    def _write(self, outgoing: Sequence[Outgoing]) -> None:
        failures: list[KafkaError] = []
        for record in outgoing:

            def acknowledged(
                error: KafkaError | None, message: Message, record: Outgoing = record
            ) -> None:
                if error is not None:
                    failures.append(error)
                elif record.anchor:
                    self._anchors[message.partition() or 0] = message.offset() or 0

            while True:
                try:
                    self._producer.produce(
                        record.topic,
                        value=record.value,
                        key=record.key,
                        headers=list(record.headers),
                        on_delivery=acknowledged,
                        partition=_BY_KEY if record.partition is None else record.partition,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.flush(_ANSWER_SECONDS)
        if failures:
            raise KafkaException(failures[0])

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Waits for transactions of a former owner that are still being decided.
        for committed in consumer.committed(partitions, timeout=_ANSWER_SECONDS):
            if committed.error is not None:
                raise KafkaException(committed.error)
            position = self._restore(committed)
            self._positions[committed.partition] = max(position, 0)
            start = TopicPartition(committed.topic, committed.partition, position)
            consumer.incremental_assign([start])

    def _restore(self, committed: TopicPartition) -> int:
        """Rebuild the state of a partition; the offset to go on from."""
        if self._stage.state_topic is None:
            return committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
        anchor = int(committed.metadata) if committed.metadata else 0
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            changelog = read_to_end(
                self._kafka, self._stage.state_topic, committed.partition, anchor
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

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        for partition in gone:
            self._positions.pop(partition, None)
            self._anchors.pop(partition, None)
            self._stage.forget(partition)
        self.batch = [record for record in self.batch if record.partition not in gone]
        consumer.incremental_unassign(partitions)


def group_of(stage: str) -> str:
    """The consumer group that the processes of a stage share."""
    return f"meterline.{stage}"
