"""The delivery loop: feeds a sink at least once, and commits only what the sink made durable.

Before a sink that cannot take a thing back gets a batch, the loop notes in the group's offsets that
it is about to: a process that comes later then knows what may have been sent, and since when.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set

import structlog
from confluent_kafka import KafkaException

from pipeline.errors import Retry
from pipeline.record import Attempt, Record, Sink
from streams.clients import (
    Committed,
    DeliveryClients,
    GroupConsumer,
    Place,
    StopSignal,
    Writer,
    unreadable_note,
)
from streams.failures import Patience
from streams.forgotten import Answers
from streams.stage import MOVE_ON_SECONDS

log = structlog.get_logger()

_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 30.0


class Deliverer:
    """Runs one sink until `stop` is set.

    Records are gathered for `linger_ms`, at most `batch_bytes_max` bytes of them. With
    `notes_attempts` the intent is committed before each batch; with `answers` a partition without a
    position must have none.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        clients: DeliveryClients,
        *,
        instance: str,
        stop: StopSignal,
        linger_ms: int,
        notes_attempts: bool = False,
        answers: Answers | None = None,
        batch_max: int = 2_000,
        batch_bytes_max: int = 32 * 1024 * 1024,
    ) -> None:
        self._name = name
        self._sink = sink
        self._clients = clients
        self._clock = clients.clock
        self._instance = instance
        self._stop = stop
        self._linger_seconds = linger_ms / 1000
        self._notes_attempts = notes_attempts
        self._answers = answers
        self._batch_max = batch_max
        self._batch_bytes_max = batch_bytes_max
        self._owned: set[Place] = set()
        #: What is committed of the partitions that are ours and have a position.
        self._reached: dict[Place, int] = {}
        self._move_on_at = 0.0
        #: What may have been sent, by us or by an earlier process, and is not confirmed yet.
        self._attempts: dict[Place, Attempt] = {}
        self._batch: list[Record] = []
        #: Partitions that are not read on until the sink has caught up elsewhere.
        self._held: Set[Place] = frozenset()
        self._consumer: GroupConsumer

    def run(self) -> None:
        """Work until stopped.

        Raises:
            Stop: when going on would lose or falsify something.
        """
        patience = Patience(f"sink {self._name}", self._clock)
        while not self._stop.is_set():
            try:
                self._work()
            except KafkaException as error:
                patience.stop_if_hopeless(error)
                log.warning("session ended, starting anew", sink=self._name, why=str(error))
                self._stop.wait(_PAUSE_SECONDS)

    def _work(self) -> None:
        consumer = self._consumer = self._clients.consumer(self._name, self._instance)
        writer = self._clients.writer(self._name, self._instance)
        self._move_on_at = self._clock.monotonic() + MOVE_ON_SECONDS
        try:
            consumer.subscribe(self._sink.topics, self._assigned, self._revoked)
            while not self._stop.is_set():
                self._gather(consumer)
                if self._batch:
                    self._deliver(consumer, writer)
                if self._clock.monotonic() >= self._move_on_at:
                    self._move_on(consumer)
        finally:
            consumer.close()
            self._drop(self._owned)

    def _gather(self, consumer: GroupConsumer) -> None:
        size = 0
        deadline = self._clock.monotonic() + self._linger_seconds
        while len(self._batch) < self._batch_max and size < self._batch_bytes_max:
            wait = min(deadline - self._clock.monotonic(), 0.2)
            if wait <= 0 or self._stop.is_set():
                return
            room = self._batch_max - len(self._batch)
            size += sum(map(self._keep, consumer.read(room, wait)))

    def _deliver(self, consumer: GroupConsumer, writer: Writer) -> None:
        # 1. Note what is about to be sent, where it cannot be taken back.
        due, later = self._note_attempts(consumer) if self._notes_attempts else (self._batch, [])
        # 2. Hand it over, again and again while the outside does not answer.
        pause = _PAUSE_SECONDS
        while True:
            try:
                written = self._sink.write(due, self._clock.now_ms())
                break
            except Retry as refusal:
                wait = pause if refusal.after_seconds is None else refusal.after_seconds
                log.warning("will try again", sink=self._name, why=str(refusal), after_seconds=wait)
                pause = min(pause * 2, _PAUSE_SECONDS_MAX)
                if not self._wait_in_group(consumer, wait):
                    return
        # 3. Tell other readers what became of it.
        writer.write(written.outgoing)
        # 4. Only now move on.
        self._confirm(consumer, written.positions)
        self._batch = later
        self._hold_back(consumer, self._sink.ahead())

    def _move_on(self, consumer: GroupConsumer) -> None:
        """Move positions past offsets that are no records.

        What is looked for begins at what is committed, so no record can be passed over, whatever
        has been read meanwhile.
        """
        self._move_on_at = self._clock.monotonic() + MOVE_ON_SECONDS
        found = self._clients.next_records(self._reached)
        self._confirm(consumer, {p: at for p, at in found.items() if at > self._reached[p]})

    def _confirm(self, consumer: GroupConsumer, positions: Mapping[Place, int]) -> None:
        if positions:
            consumer.commit(
                {place: self._confirmation(place, offset) for place, offset in positions.items()}
            )
            self._reached |= positions

    def _hold_back(self, consumer: GroupConsumer, ahead: Set[Place]) -> None:
        """Read on only where the sink does not wait for another topic."""
        held = ahead & self._owned
        if held != self._held:
            consumer.resume(sorted(self._held & self._owned))
            consumer.pause(sorted(held))
            self._held = held

    def _note_attempts(self, consumer: GroupConsumer) -> tuple[list[Record], list[Record]]:
        """Commit what is about to be sent; the records to send now, and those for later.

        An attempt that was not confirmed is repeated as it was, without a record more: it may be
        too old to send, and what joined it would be held with it.
        """
        logs: dict[Place, list[Record]] = {}
        for record in self._batch:
            logs.setdefault((record.topic, record.partition), []).append(record)
        due: list[Record] = []
        later: list[Record] = []
        notes: dict[Place, Committed] = {}
        for place, records in logs.items():
            attempt = self._attempts.get(place)
            if attempt is None or attempt.through_offset < records[0].offset:
                attempt = Attempt(records[-1].offset, self._clock.now_ms())
                self._attempts[place] = attempt
                notes[place] = Committed(records[0].offset, _note(attempt))
            for record in records:
                (due if record.offset <= attempt.through_offset else later).append(record)
        if notes:
            consumer.commit(notes)
        return due, later

    def _confirmation(self, place: Place, offset: int) -> Committed:
        attempt = self._attempts.get(place)
        if attempt is None:
            return Committed(offset)
        if attempt.through_offset < offset:
            del self._attempts[place]
            return Committed(offset)
        return Committed(offset, _note(attempt))

    def _wait_in_group(self, consumer: GroupConsumer, seconds: float) -> bool:
        """Wait, but stay a member: nothing is fetched, the group is still served.

        At least once, however short the wait: slow deliveries may follow each other for longer than
        the group does without a member.

        Returns whether the batch is still to be delivered.
        """
        consumer.pause(sorted(self._owned))
        deadline = self._clock.monotonic() + seconds
        left = seconds
        while self._batch:
            if self._stop.is_set():
                return False
            if records := consumer.read(1, min(max(left, 0), 0.2)):
                # Only after a rebalance, and that takes everything away: the batch is read again.
                self._keep(records[0])
                return False
            left = deadline - self._clock.monotonic()
            if left <= 0:
                break
        consumer.resume(sorted(self._owned - self._held))
        return bool(self._batch)

    def _keep(self, record: Record) -> int:
        """Add a record to the batch; its bytes."""
        if (record.topic, record.partition) not in self._owned:
            return 0
        self._batch.append(record)
        return len(record.value or b"")

    def _assigned(self, places: Sequence[Place]) -> None:
        starts: dict[Place, int | None] = {}
        known = self._consumer.committed(places)
        if self._answers is not None and any(found.offset is None for found in known.values()):
            self._answers.require_positions(self._name, self._consumer)
        for place, committed in known.items():
            attempt = _noted(place, committed.note) if committed.note else None
            if attempt is not None:
                self._attempts[place] = attempt
            self._sink.resume(*place, attempt)
            self._owned.add(place)
            if committed.offset is not None:
                self._reached[place] = committed.offset
            starts[place] = committed.offset
        self._consumer.assign(starts)

    def _revoked(self, places: Sequence[Place]) -> None:
        self._drop(set(places))
        self._held = frozenset()
        self._consumer.unassign()

    def _drop(self, places: set[Place]) -> None:
        """Forget places; whoever has them next reads them again from what is committed."""
        for place in list(places):
            self._owned.discard(place)
            self._held -= {place}
            self._reached.pop(place, None)
            self._attempts.pop(place, None)
            self._sink.forget(*place)
        self._batch = [r for r in self._batch if (r.topic, r.partition) in self._owned]


def _note(attempt: Attempt) -> str:
    return json.dumps({"through": attempt.through_offset, "since_ms": attempt.since_ms})


def _noted(place: Place, note: str) -> Attempt:
    try:
        fields = json.loads(note)
        return Attempt(int(fields["through"]), int(fields["since_ms"]))
    except (ValueError, TypeError, KeyError):
        raise unreadable_note(place, note) from None
