"""The delivery loop: feeds a sink at least once, and commits only what the sink made durable.

Before a sink that cannot take a thing back gets a batch, the loop notes in the group's offsets that
it is about to: a process that comes later then knows what may have been sent, and since when.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Set

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from pipeline.errors import Retry
from pipeline.record import Attempt, Record, Sink
from streams.failures import stop_if_hopeless
from streams.read import record_of
from streams.stage import member_of, membership
from streams.write import WRITER, write

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
        self._owned: set[tuple[str, int]] = set()
        #: What may have been sent, by us or by an earlier process, and is not confirmed yet.
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._batch: list[Record] = []
        #: Partitions that are not read on until the sink has caught up elsewhere.
        self._held: Set[tuple[str, int]] = frozenset()
        self._closing = False

    def run(self) -> None:
        """Work until stopped.

        Raises:
            Stop: when going on would lose or falsify something.
        """
        while not self._stop.is_set():
            try:
                self._work()
            except KafkaException as error:
                stop_if_hopeless(error, f"sink {self._name}")
                log.warning("session ended, starting anew", sink=self._name, why=str(error))
                self._stop.wait(_PAUSE_SECONDS)

    def _work(self) -> None:
        consumer, producer = self._clients()
        self._closing = False
        try:
            consumer.subscribe(
                list(self._sink.topics), on_assign=self._assigned, on_revoke=self._revoked
            )
            while not self._stop.is_set():
                self._gather(consumer)
                if self._batch:
                    self._deliver(consumer, producer)
        finally:
            self._closing = True
            with contextlib.suppress(KafkaException, RuntimeError):
                consumer.close()
            self._drop(self._owned)

    def _gather(self, consumer: Consumer) -> None:
        size = 0
        deadline = time.monotonic() + self._linger_seconds
        while len(self._batch) < self._batch_max and size < self._batch_bytes_max:
            wait = min(deadline - time.monotonic(), 0.2)
            if wait <= 0 or self._stop.is_set():
                return
            for message in consumer.consume(self._batch_max - len(self._batch), wait):
                size += self._keep(message)

    def _deliver(self, consumer: Consumer, producer: Producer) -> None:
        # 1. Note what is about to be sent, where it cannot be taken back.
        due, later = self._note_attempts(consumer) if self._notes_attempts else (self._batch, [])
        # 2. Hand it over, again and again while the outside does not answer.
        pause = _PAUSE_SECONDS
        while True:
            try:
                written = self._sink.write(due, time.time_ns() // 1_000_000)
                break
            except Retry as refusal:
                wait = pause if refusal.after_seconds is None else refusal.after_seconds
                log.warning("will try again", sink=self._name, why=str(refusal), after_seconds=wait)
                pause = min(pause * 2, _PAUSE_SECONDS_MAX)
                if not self._wait_in_group(consumer, wait):
                    return
        # 3. Tell other readers what became of it.
        write(producer, written.outgoing)
        # 4. Only now move on.
        offsets = [self._confirmation(place, offset) for place, offset in written.positions.items()]
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=False)
        self._batch = later
        self._hold_back(consumer, self._sink.ahead())

    def _hold_back(self, consumer: Consumer, ahead: Set[tuple[str, int]]) -> None:
        """Read on only where the sink does not wait for another topic."""
        held = ahead & self._owned
        if held != self._held:
            consumer.resume([TopicPartition(*place) for place in self._held & self._owned])
            consumer.pause([TopicPartition(*place) for place in held])
            self._held = held

    def _note_attempts(self, consumer: Consumer) -> tuple[list[Record], list[Record]]:
        """Commit what is about to be sent; the records to send now, and those for later.

        An attempt that was not confirmed is repeated as it was, without a record more: it may be
        too old to send, and what joined it would be held with it.
        """
        logs: dict[tuple[str, int], list[Record]] = {}
        for record in self._batch:
            logs.setdefault((record.topic, record.partition), []).append(record)
        due: list[Record] = []
        later: list[Record] = []
        notes = []
        for place, records in logs.items():
            attempt = self._attempts.get(place)
            if attempt is None or attempt.through_offset < records[0].offset:
                attempt = Attempt(records[-1].offset, time.time_ns() // 1_000_000)
                self._attempts[place] = attempt
                notes.append(TopicPartition(*place, records[0].offset, metadata=_note(attempt)))
            for record in records:
                (due if record.offset <= attempt.through_offset else later).append(record)
        if notes:
            consumer.commit(offsets=notes, asynchronous=False)
        return due, later

    def _confirmation(self, place: tuple[str, int], offset: int) -> TopicPartition:
        attempt = self._attempts.get(place)
        if attempt is None:
            return TopicPartition(*place, offset)
        if attempt.through_offset < offset:
            del self._attempts[place]
            return TopicPartition(*place, offset)
        return TopicPartition(*place, offset, metadata=_note(attempt))

    def _wait_in_group(self, consumer: Consumer, seconds: float) -> bool:
        """Wait, but stay a member: nothing is fetched, the group is still served.

        Returns whether the batch is still to be delivered.
        """
        consumer.pause(consumer.assignment())
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self._batch:
            if self._stop.is_set():
                return False
            message = consumer.poll(min(left, 0.2))
            if message is not None:
                # Only after a rebalance, and that takes everything away: the batch is read again.
                self._keep(message)
                return False
        consumer.resume(
            [p for p in consumer.assignment() if (p.topic, p.partition) not in self._held]
        )
        return bool(self._batch)

    def _keep(self, message: Message) -> int:
        """Add a message to the batch; its bytes."""
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        record = record_of(message)
        if (record.topic, record.partition) not in self._owned:
            return 0
        self._batch.append(record)
        return len(record.value or b"")

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            # A client that is closing answers no more, and its `close` cannot pass on an error. It
            # still waits for a word on what it is given.
            consumer.unassign()
            return
        starts = []
        for committed in consumer.committed(partitions, timeout=_ANSWER_SECONDS):
            if committed.error is not None:
                raise KafkaException(committed.error)
            place = (committed.topic, committed.partition)
            attempt = _noted(committed.metadata) if committed.metadata else None
            if attempt is not None:
                self._attempts[place] = attempt
            self._sink.resume(*place, attempt)
            self._owned.add(place)
            start = committed.offset if committed.offset >= 0 else OFFSET_BEGINNING
            starts.append(TopicPartition(*place, start))
        consumer.assign(starts)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop({(partition.topic, partition.partition) for partition in partitions})
        self._held = frozenset()
        consumer.unassign()

    def _drop(self, places: set[tuple[str, int]]) -> None:
        """Forget places; whoever has them next reads them again from what is committed."""
        for place in list(places):
            self._owned.discard(place)
            self._held -= {place}
            self._attempts.pop(place, None)
            self._sink.forget(*place)
        self._batch = [r for r in self._batch if (r.topic, r.partition) in self._owned]

    def _clients(self) -> tuple[Consumer, Producer]:
        consumer = Consumer(
            self._kafka
            | membership(self._name, self._instance)
            | {
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 128 * 1024,
            }
        )
        producer = Producer(
            self._kafka
            | WRITER
            | {
                "client.id": member_of(self._name, self._instance),
                "enable.idempotence": True,
                "linger.ms": 5,
            }
        )
        return consumer, producer


def _note(attempt: Attempt) -> str:
    return json.dumps({"through": attempt.through_offset, "since_ms": attempt.since_ms})


def _noted(note: str) -> Attempt:
    fields = json.loads(note)
    return Attempt(fields["through"], fields["since_ms"])
