"""The delivery loop: feeds a sink at least once, and commits only what the sink made durable.

Before a sink that cannot take a thing back gets a batch, the loop notes in the group's offsets that
it is about to: a process that comes later then knows what may have been sent, and since when, and
from where on it was said what became of it. So what a sink cannot get rid of yet holds back the
position of its partition, but not what comes behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

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

#: So many records wait at most, before nothing more is read.
_WAITING_MAX = 20_000

#: So often whoever waits for records looks whether it is to stop.
_LOOK_UP_SECONDS = 0.2


class _Note(NamedTuple):
    """Records up to offset `through` may have been sent, since `since_ms`.

    What became of them is said from offset `answers` on; None where nobody noted it.
    """

    through: int
    since_ms: int
    answers: int | None = None


class Deliverer:
    """Runs one sink until `stop` is set.

    Records are gathered for `linger_ms`, at most `batch_max` of them and `batch_bytes_max` bytes,
    and handed over together with those that wait. With `notes_attempts` the intent is committed
    before each batch; with `answers` a partition without a position must have none.
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
        self._reached: dict[Place, Committed] = {}
        self._move_on_at = 0.0
        #: What may have been sent, by us or by an earlier process, and is not confirmed yet.
        self._notes: dict[Place, _Note] = {}
        #: The last offset that we have handed over.
        self._given: dict[Place, int] = {}
        #: Partition → where its next answer will lie, or before it.
        self._next_answers: dict[int, int] = {}
        self._pause_seconds = _PAUSE_SECONDS
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
        fresh = [record for record in self._batch if not self._was_given(record)]
        if len(self._batch) - len(fresh) >= _WAITING_MAX:
            self._wait_in_group(consumer, _LOOK_UP_SECONDS)
            return
        room, size = self._batch_max - len(fresh), sum(map(_size, fresh))
        has_read = False
        left = self._linger_seconds
        deadline = self._clock.monotonic() + left
        while room > 0 and size < self._batch_bytes_max and not self._stop.is_set():
            # However short it lingers, it waits for something to deliver.
            wait = min(max(left, 0), _LOOK_UP_SECONDS) if has_read else _LOOK_UP_SECONDS
            records = consumer.read(room, wait)
            has_read = has_read or bool(records)
            room -= len(records)
            size += sum(map(self._keep, records))
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return

    def _was_given(self, record: Record) -> bool:
        """Whether the sink had it before, and left it waiting."""
        return record.offset <= self._given.get((record.topic, record.partition), -1)

    def _deliver(self, consumer: GroupConsumer, writer: Writer) -> None:
        # 1. Note what is about to be sent, where it cannot be taken back.
        due, later = self._note_attempts(consumer) if self._notes_attempts else (self._batch, [])
        # 2. Hand it over, again and again while the outside takes nothing.
        while True:
            try:
                written = self._sink.write(due, self._clock.now_ms())
                break
            except Retry as refusal:
                if not self._wait_out(consumer, refusal):
                    return
        for record in due:
            place = (record.topic, record.partition)
            self._given[place] = max(record.offset, self._given.get(place, -1))
        # 3. Tell other readers what became of it.
        for partition, offset in writer.write(written.outgoing):
            if partition in self._next_answers:
                self._next_answers[partition] = offset + 1
        # 4. Only now move on.
        self._confirm(consumer, written.positions)
        self._batch = [*written.waiting, *later]
        self._hold_back(consumer, self._sink.ahead())
        if written.refusal is None:
            self._pause_seconds = _PAUSE_SECONDS
        else:
            self._wait_out(consumer, written.refusal)

    def _wait_out(self, consumer: GroupConsumer, refusal: Retry) -> bool:
        """Wait as long as the outside asks for, else longer each time; as `_wait_in_group`."""
        wait = refusal.after_seconds
        if wait is None:
            wait = self._pause_seconds
            self._pause_seconds = min(wait * 2, _PAUSE_SECONDS_MAX)
        log.warning("will try again", sink=self._name, why=str(refusal), after_seconds=wait)
        return self._wait_in_group(consumer, wait)

    def _move_on(self, consumer: GroupConsumer) -> None:
        """Move positions past offsets that are no records.

        What is looked for begins at what is committed, so no record can be passed over, whatever
        has been read meanwhile.
        """
        self._move_on_at = self._clock.monotonic() + MOVE_ON_SECONDS
        reached = {place: known.offset or 0 for place, known in self._reached.items()}
        found = self._clients.next_records(reached)
        self._confirm(consumer, {place: at for place, at in found.items() if at > reached[place]})

    def _confirm(self, consumer: GroupConsumer, positions: Mapping[Place, int]) -> None:
        reached = {place: self._confirmation(place, at) for place, at in positions.items()}
        changed = {p: known for p, known in reached.items() if known != self._reached.get(p)}
        self._commit(consumer, changed)

    def _commit(self, consumer: GroupConsumer, reached: Mapping[Place, Committed]) -> None:
        if reached:
            consumer.commit(reached)
            self._reached |= reached

    def _hold_back(self, consumer: GroupConsumer, ahead: Set[Place]) -> None:
        """Read on only where the sink does not wait for another topic."""
        held = ahead & self._owned
        if held != self._held:
            consumer.resume(sorted(self._held & self._owned))
            consumer.pause(sorted(held))
            self._held = held

    def _note_attempts(self, consumer: GroupConsumer) -> tuple[list[Record], list[Record]]:
        """Commit what is about to be sent; the records to send now, and those for later.

        What an earlier process began is first repeated as it was, without a record more: it may be
        too old to send, and what joined it would be held with it.
        """
        logs: dict[Place, list[Record]] = {}
        for record in self._batch:
            logs.setdefault((record.topic, record.partition), []).append(record)
        due: list[Record] = []
        later: list[Record] = []
        noted: dict[Place, Committed] = {}
        for place, records in logs.items():
            note, last = self._notes.get(place), records[-1].offset
            if note is None or note.through < records[0].offset:
                note = _Note(last, self._clock.now_ms(), self._next_answers.get(place[1]))
            elif note.through <= self._given.get(place, -1):
                note = note._replace(through=max(note.through, last))
            if note != self._notes.get(place):
                self._notes[place] = note
                noted[place] = Committed(records[0].offset, _written(note))
            for record in records:
                (due if record.offset <= note.through else later).append(record)
        self._commit(consumer, noted)
        return due, later

    def _confirmation(self, place: Place, offset: int) -> Committed:
        note = self._notes.get(place)
        if note is None:
            return Committed(offset)
        if note.through < offset:
            del self._notes[place]
            return Committed(offset)
        return Committed(offset, _written(note))

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
            if records := consumer.read(1, min(max(left, 0), _LOOK_UP_SECONDS)):
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
        return _size(record)

    def _assigned(self, places: Sequence[Place]) -> None:
        starts: dict[Place, int | None] = {}
        known = self._consumer.committed(places)
        if self._answers is not None and any(found.offset is None for found in known.values()):
            self._answers.require_positions(self._name, self._consumer)
        for place, committed in known.items():
            if self._answers is not None:
                self._next_answers[place[1]] = self._answers.end(place[1])
            self._sink.resume(*place, self._begun_before(place, committed.note))
            self._owned.add(place)
            if committed.offset is not None:
                self._reached[place] = committed
            starts[place] = committed.offset
        self._consumer.assign(starts)

    def _begun_before(self, place: Place, text: str) -> Attempt | None:
        """What an earlier process may have sent, by its note."""
        if not text:
            return None
        note = self._notes[place] = _read(place, text)
        answered: set[bytes] = set()
        if self._answers is not None and note.answers is not None:
            answered = self._answers.given(place[1], note.answers)
        return Attempt(note.through, note.since_ms, answered)

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
            self._notes.pop(place, None)
            self._given.pop(place, None)
            self._next_answers.pop(place[1], None)
            self._sink.forget(*place)
        self._batch = [r for r in self._batch if (r.topic, r.partition) in self._owned]


def _size(record: Record) -> int:
    return len(record.value or b"")


def _written(note: _Note) -> str:
    return json.dumps(note._asdict())


def _read(place: Place, text: str) -> _Note:
    try:
        fields = json.loads(text)
        note = _Note(int(fields["through"]), int(fields["since_ms"]))
        # An older program does not note them.
        answers = fields.get("answers")
        return note if answers is None else note._replace(answers=int(answers))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise unreadable_note(place, text) from None
