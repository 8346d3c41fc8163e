"""The delivery loop: feeds a sink at least once, and commits only what the sink made durable.

Before a sink that cannot take a thing back gets a batch, the loop notes in the group's offsets that
it is about to: a process that comes later then knows what may have been sent, and since when.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from pipeline.errors import Retry
from pipeline.record import Attempt, Outgoing, Record, Sink
from streams.failures import stop_if_hopeless
from streams.read import record_of
from streams.transact import SESSION_TIMEOUT_MS, group_of

log = structlog.get_logger()

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 30.0


class Deliverer:
    """Runs one sink until `stop` is set.

    Records are gathered for `linger_ms`, at most `batch_bytes_max` bytes of them. With
    `notes_attempts` the intent is committed before each batch.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        kafka: Mapping[str, str],
        *,
        instance: str,
        stop: threading.Event,
        linger_ms: int,
        notes_attempts: bool = False,
        batch_max: int = 2_000,
        batch_bytes_max: int = 32 * 1024 * 1024,
    ) -> None:
        self._name = name
        self._sink = sink
        self._kafka = dict(kafka)
        self._instance = instance
        self._stop = stop
        self._linger_seconds = linger_ms / 1000
        self._notes_attempts = notes_attempts
        self._batch_max = batch_max
        self._batch_bytes_max = batch_bytes_max
        self._positions: dict[tuple[str, int], int] = {}

    def run(self) -> None:
        """Work until stopped.

        Raises:
            Stop: when going on would lose or falsify something.
        """
        while not self._stop.is_set():
            consumer, producer = self._clients()
            try:
                consumer.subscribe(
                    list(self._sink.topics), on_assign=self._assigned, on_revoke=self._revoked
                )
                while not self._stop.is_set():
                    self._deliver(consumer, producer, self._gather(consumer))
            except KafkaException as error:
                stop_if_hopeless(error, f"sink {self._name}")
                log.warning("session ended, starting anew", sink=self._name, why=str(error))
                self._stop.wait(_PAUSE_SECONDS)
            finally:
                with contextlib.suppress(KafkaException, RuntimeError):
                    consumer.close()
                for topic, partition in list(self._positions):
                    self._sink.forget(topic, partition)
                self._positions.clear()

    def _gather(self, consumer: Consumer) -> list[Record]:
        batch: list[Record] = []
        size = 0
        deadline = time.monotonic() + self._linger_seconds
        while len(batch) < self._batch_max and size < self._batch_bytes_max:
            wait = min(deadline - time.monotonic(), 0.2)
            if wait <= 0 or self._stop.is_set():
                break
            for message in consumer.consume(self._batch_max - len(batch), wait):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                record = record_of(message)
                size += len(record.value or b"")
                batch.append(record)
        return [record for record in batch if (record.topic, record.partition) in self._positions]

    def _deliver(self, consumer: Consumer, producer: Producer, batch: list[Record]) -> None:
        if not batch:
            return
        # 1. Note what is about to be sent, where it cannot be taken back.
        if self._notes_attempts:
            self._note_attempt(consumer, batch)
        # 2. Hand it over, again and again while the outside does not answer.
        pause = _PAUSE_SECONDS
        while True:
            try:
                written = self._sink.write(batch, time.time_ns() // 1_000_000)
                break
            except Retry as refusal:
                wait = pause if refusal.after_seconds is None else refusal.after_seconds
                log.warning("will try again", sink=self._name, why=str(refusal), after_seconds=wait)
                pause = min(pause * 2, _PAUSE_SECONDS_MAX)
                self._wait_in_group(consumer, wait)
                if self._stop.is_set():
                    return
        # 3. Tell other readers what became of it.
        self._publish(producer, written.outgoing)
        # 4. Only now move on.
        offsets = [
            TopicPartition(topic, partition, offset)
            for (topic, partition), offset in written.positions.items()
            if (topic, partition) in self._positions
        ]
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=False)
            self._positions.update({(o.topic, o.partition): o.offset for o in offsets})

    def _note_attempt(self, consumer: Consumer, batch: Sequence[Record]) -> None:
        through = {(record.topic, record.partition): record.offset for record in batch}
        since_ms = time.time_ns() // 1_000_000
        offsets = []
        for (topic, partition), offset in through.items():
            first = next(r.offset for r in batch if (r.topic, r.partition) == (topic, partition))
            note = json.dumps({"through": offset, "since_ms": since_ms})
            offsets.append(TopicPartition(topic, partition, first, metadata=note))
        consumer.commit(offsets=offsets, asynchronous=False)

    def _wait_in_group(self, consumer: Consumer, seconds: float) -> None:
        """Wait, but stay a member: nothing is fetched, the group is still served."""
        assigned = consumer.assignment()
        consumer.pause(assigned)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            message = consumer.poll(min(left, 0.2))
            if message is not None and message.error() is None:
                # A partition came to us meanwhile; its records wait until this batch is done.
                record = record_of(message)
                consumer.seek(TopicPartition(record.topic, record.partition, record.offset))
                consumer.pause(consumer.assignment())
        consumer.resume(consumer.assignment())

    def _publish(self, producer: Producer, outgoing: Sequence[Outgoing]) -> None:
        failures = []
        for record in outgoing:
            producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        unanswered = producer.flush(_ANSWER_SECONDS)
        if failures:
            raise KafkaException(failures[0])
        if unanswered:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = []
        for committed in consumer.committed(partitions, timeout=_ANSWER_SECONDS):
            if committed.error is not None:
                raise KafkaException(committed.error)
            attempt = None
            if committed.metadata:
                note = json.loads(committed.metadata)
                attempt = Attempt(note["through"], note["since_ms"])
            self._sink.resume(committed.topic, committed.partition, attempt)
            start = committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
            self._positions[(committed.topic, committed.partition)] = start
            starts.append(TopicPartition(committed.topic, committed.partition, start))
        consumer.assign(starts)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop((partition.topic, partition.partition), None)
            self._sink.forget(partition.topic, partition.partition)
        consumer.unassign()

    def _clients(self) -> tuple[Consumer, Producer]:
        member = f"meterline.{self._name}.{self._instance}"
        consumer = Consumer(
            self._kafka
            | {
                "group.id": group_of(self._name),
                "group.instance.id": member,
                "client.id": member,
                # Gives co-partitioned topics to one member, so they can be read side by side.
                "partition.assignment.strategy": "range",
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 4,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 16 * 1024 * 1024,
                "queued.max.messages.kbytes": 128 * 1024,
            }
        )
        producer = Producer(
            self._kafka | {"client.id": member, "enable.idempotence": True, "linger.ms": 5}
        )
        return consumer, producer
