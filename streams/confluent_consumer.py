"""The real member of a group: confluent-kafka behind `streams.clients.GroupConsumer`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.record import Records
from streams import confluent_calls as calls
from streams.client_log import ClientLog
from streams.clients import Committed, Place, Rebalanced
from streams.failures import untangled
from streams.fetch import Fetcher
from streams.read import UNPACKS_ALL

log = structlog.get_logger()

#: A consumer that closes while the group is giving it partitions may wait for ever. What stays
#: behind is shut out by the next one, which has its name.
_CLOSE_SECONDS = 10.0
_LAST_LOOK_SECONDS = 0.1

#: So often whoever waits for records looks what the group says.
_LOOK_UP_SECONDS = 0.05

#: A partition that is unknown yet may be dropped, and its way with it, before it is assigned anew.
_UNDIVERTED = KafkaError(KafkaError._STATE, "a record came by another way than those after it")


class ConfluentConsumer:
    """A `GroupConsumer`."""

    def __init__(self, settings: Mapping[str, str | int | bool]) -> None:
        self._consumer = Consumer(
            dict(settings)
            | calls.patience()
            | UNPACKS_ALL
            | ClientLog().settings()
            | {
                "queued.min.messages": 100_000,
                "queued.max.messages.kbytes": 256 * 1024,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 20,
                # From 5 minutes: how long partitions that were added go without a reader.
                "topic.metadata.refresh.interval.ms": 10_000,
            }
        )
        self._log = log.bind(group=settings["group.id"])
        self._fetcher = Fetcher(self._consumer)
        self._is_assigned = False
        self._has_lost = False
        self._times_assigned = 0
        #: What the group knows of a consumer that is no member.
        self._stranger = self._consumer.consumer_group_metadata()
        self._on_assign: Rebalanced = _ignored
        self._on_revoke: Rebalanced = _ignored
        self._closing = False
        #: What a listener raised: the client library's C code mangles what passes through it.
        self._raised: BaseException | None = None

    def subscribe(
        self, topics: Sequence[str], on_assign: Rebalanced, on_revoke: Rebalanced
    ) -> None:
        """Join the group."""
        self._on_assign, self._on_revoke = on_assign, on_revoke
        self._consumer.subscribe(
            list(topics),
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def read(self, count: int, wait_seconds: float) -> Records:
        """At most `count` records."""
        deadline = time.monotonic() + wait_seconds
        while True:
            left = min(max(deadline - time.monotonic(), 0), _LOOK_UP_SECONDS)
            self._serve(0 if self._is_assigned else left)
            records = self._fetch(count, left if self._is_assigned else 0)
            if records or time.monotonic() >= deadline:
                return records

    def _fetch(self, count: int, wait_seconds: float) -> Records:
        """What was diverted. Whatever was not, and comes before it, is an error by now."""
        times_assigned = self._times_assigned
        records = self._fetcher.read(count, wait_seconds)
        if records:
            self._serve(0)
        # What was read before the group gave out its partitions anew is read again, by whomever.
        return records if self._times_assigned == times_assigned else Records([])

    def _serve(self, wait_seconds: float) -> None:
        """Take part in the group, whose word comes apart from the records."""
        with untangled():
            told = self._consumer.poll(wait_seconds)
        if self._raised is not None:
            raised, self._raised = self._raised, None
            try:
                raise raised
            finally:
                # An error whose frames hold it is a cycle that keeps clients and their threads.
                del raised
        if told is not None:
            raise KafkaException(told.error() or _UNDIVERTED)

    def committed(self, places: Sequence[Place]) -> dict[Place, Committed]:
        """What the group has committed, once it is decided."""
        wanted = [TopicPartition(*place) for place in places]
        found = {}
        for committed in self._consumer.committed(wanted, timeout=calls.ANSWER_SECONDS):
            if committed.error is not None:
                raise KafkaException(committed.error)
            offset = committed.offset if committed.offset >= 0 else None
            place = (committed.topic, committed.partition)
            found[place] = Committed(offset, committed.metadata or "")
        return found

    def assign(self, starts: Mapping[Place, int | None]) -> None:
        """Read on from these offsets."""
        self._fetcher.divert(starts)
        self._is_assigned = bool(starts)
        self._times_assigned += 1
        self._consumer.assign(
            [
                TopicPartition(*place, OFFSET_BEGINNING if offset is None else offset)
                for place, offset in starts.items()
            ]
        )

    def unassign(self) -> None:
        """Read nothing."""
        self._is_assigned = False
        self._times_assigned += 1
        self._consumer.unassign()

    def pause(self, places: Sequence[Place]) -> None:
        """Fetch nothing of these places."""
        self._consumer.pause([TopicPartition(*place) for place in places])

    def resume(self, places: Sequence[Place]) -> None:
        """Fetch them again."""
        self._consumer.resume([TopicPartition(*place) for place in places])

    def commit(self, reached: Mapping[Place, Committed]) -> None:
        """Commit positions."""
        self._consumer.commit(offsets=calls.positions(reached), asynchronous=False)

    def membership(self) -> object:
        """Proof of membership.

        Whoever was thrown out of its group is a stranger to it, and strangers may commit to a group
        that is empty: another owner may have come and gone meanwhile.
        """
        metadata = self._consumer.consumer_group_metadata()
        return None if metadata == self._stranger else metadata

    def close(self) -> None:
        """Leave off."""
        self._closing = True
        with contextlib.suppress(KafkaException, RuntimeError):
            # What the group is giving it is refused here, while the client still answers. Inside
            # `close` that may wait for ever, and with the interpreter's lock in its hands.
            self._consumer.consume(1, _LAST_LOOK_SECONDS)
        self._fetcher.close()
        with contextlib.suppress(KafkaException, RuntimeError):
            calls.within(_CLOSE_SECONDS, self._consumer.close)
        # They hold whoever subscribed, and with it a producer, whose threads shall end now.
        self._on_assign = self._on_revoke = _ignored

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            # A client that is closing answers no more, and its `close` cannot pass on an error. It
            # still waits for a word on what it is given.
            consumer.unassign()
            return
        if self._has_lost:
            self._has_lost = False
            self._log.warning("partitions assigned again", count=len(partitions))
        self._tell(self._on_assign, partitions)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._tell(self._on_revoke, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_lost = True
        self._log.warning("partitions lost, as Kafka and this process do not hear of each other")
        self._revoked(consumer, partitions)

    def _tell(self, listener: Rebalanced, partitions: list[TopicPartition]) -> None:
        try:
            listener([(partition.topic, partition.partition) for partition in partitions])
        except BaseException as error:
            self._raised = error
            self.unassign()


def _ignored(_: Sequence[Place]) -> None:
    """Nobody listens."""
