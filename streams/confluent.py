"""The real clients: confluent-kafka behind the protocols of `streams.clients`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from pipeline.record import Outgoing, Record, Records
from streams.client_log import ClientLog
from streams.clients import Committed, Place, Rebalanced, count_of
from streams.cluster import ask_for_topics
from streams.connection_log import ConnectionLog
from streams.failures import untangled
from streams.fetch import Fetcher
from streams.read import UNPACKS_ALL, end_of, next_records, read_all, read_to_end
from streams.stage import member_of, membership
from streams.write import WRITER, write

log = structlog.get_logger()

#: An unfinished transaction holds back every read_committed reader for at most this long.
TRANSACTION_TIMEOUT_MS = 10_000

_ANSWER_SECONDS = 30.0

#: A consumer that closes while the group is giving it partitions may wait for ever. What stays
#: behind is shut out by the next one, which has its name.
_CLOSE_SECONDS = 10.0
_LAST_LOOK_SECONDS = 0.1

#: So often whoever waits for records looks what the group says.
_LOOK_UP_SECONDS = 0.05

#: A partition that is unknown yet may be dropped, and its way with it, before it is assigned anew.
_UNDIVERTED = KafkaError(KafkaError._STATE, "a record came by another way than those after it")


class RealClock:
    """This machine's time."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ConfluentClients:
    """Makes clients of one Kafka; `kafka` is a librdkafka configuration."""

    clock = RealClock()

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = dict(kafka)

    def consumer(self, stage: str, instance: str) -> ConfluentConsumer:
        """A member of the stage's group."""
        return ConfluentConsumer(self._kafka | membership(stage, instance))

    def transactional_writer(self, stage: str, instance: str) -> ConfluentTransactions:
        """A producer of this instance's transactional id."""
        member = member_of(stage, instance)
        return ConfluentTransactions(self._kafka, member)

    def writer(self, stage: str, instance: str) -> ConfluentWriter:
        """A producer without transactions."""
        return ConfluentWriter(self._kafka, member_of(stage, instance))

    def partition_counts(self) -> dict[str, int]:
        """The topics that exist, and how many partitions each has."""
        topics = ask_for_topics(self._kafka, _ANSWER_SECONDS).topics
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records from offset `begin` to where the partition ends now."""
        return read_to_end(self._kafka, topic, partition, begin, whole=True)

    def end_of(self, topic: str, partition: int) -> int:
        """The offset behind the last committed record of a partition."""
        return end_of(self._kafka, topic, partition)

    def next_records(self, positions: Mapping[Place, int | None]) -> dict[Place, int]:
        """The offset of the first committed record from each position on."""
        return next_records(self._kafka, positions)

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records of all partitions."""
        return read_all(self._kafka, topic, count_of(topic, self.partition_counts()))

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first committed record of each partition that has one."""
        count = count_of(topic, self.partition_counts())
        return read_all(self._kafka, topic, count, only_firsts=True)


class ConfluentConsumer:
    """A `GroupConsumer`."""

    def __init__(self, settings: Mapping[str, str | int | bool]) -> None:
        self._consumer = Consumer(
            dict(settings)
            | _patience()
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
        for committed in self._consumer.committed(wanted, timeout=_ANSWER_SECONDS):
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
        self._consumer.commit(offsets=_positions(reached), asynchronous=False)

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
            _within(_CLOSE_SECONDS, self._consumer.close)
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


class ConfluentWriter:
    """A `Writer`. Whoever has nothing to write needs no right to: the producer asks for one."""

    def __init__(self, kafka: Mapping[str, str], client_id: str) -> None:
        self._settings = (
            # As long as nothing is written, nobody polls for what it logs; what matters is raised.
            {"log_level": 2}
            | dict(kafka)
            | WRITER
            | _patience()
            | {"client.id": client_id, "enable.idempotence": True, "linger.ms": 5}
        )

    @cached_property
    def _producer(self) -> Producer:
        return Producer(self._settings)

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish in order and wait."""
        return write(self._producer, outgoing) if outgoing else []


class ConfluentTransactions:
    """A `TransactionalWriter`.

    When a connection breaks, the client library sends again what was not answered. The first copy
    may reach the broker all the same, and late: within the next transaction, which it would end too
    early, or give positions of the one before. A broker that knows transactions apart turns it away
    (KIP-890), but not with this library. So after a connection broke, the id is claimed anew by
    another client before the next transaction: what comes late is then of an epoch that is over.
    """

    def __init__(self, kafka: Mapping[str, str], transactional_id: str) -> None:
        self._log = ConnectionLog(kafka)
        self._settings = (
            dict(kafka)
            | WRITER
            | _patience()
            | self._log.settings()
            | {
                "transactional.id": transactional_id,
                "client.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                # From 100 ms: what a commit waits when its coordinator is not ready yet.
                "retry.backoff.ms": 1,
            }
        )
        self._producer = Producer(self._settings)
        self._ended_at = time.monotonic()

    def fence(self) -> None:
        """Claim the id."""
        # Of a client that knows no broker yet, one in three would ask half a second later.
        self._producer.list_topics(timeout=_ANSWER_SECONDS)
        self._producer.init_transactions(_ANSWER_SECONDS)

    def begin(self) -> None:
        """Begin a transaction."""
        self._producer.poll(0)
        rested_seconds = time.monotonic() - self._ended_at
        # A client that rested may have left a break unsaid, and would then leave out the next one.
        if self._log.has_break or rested_seconds > ConnectionLog.REST_SECONDS:
            self._log.has_break = False
            self._producer = Producer(self._settings)
            self.fence()
            self._producer.poll(0)
            if self._log.has_break:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT, "a connection broke again"))
        self._producer.begin_transaction()

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish and wait, because the flush inside the commit waits ten times as long."""
        return write(self._producer, outgoing)

    def send_offsets(self, reached: Mapping[Place, Committed], membership: object) -> None:
        """Make positions part of the transaction."""
        if membership is None:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        seconds = TRANSACTION_TIMEOUT_MS / 1000
        _within(
            seconds,
            lambda: self._producer.send_offsets_to_transaction(
                _positions(reached), membership, seconds
            ),
        )

    def commit(self) -> None:
        """Make all of it visible."""
        self._producer.commit_transaction(_ANSWER_SECONDS)
        self._ended_at = time.monotonic()

    def abort(self) -> None:
        """Give up whatever is open."""
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(_ANSWER_SECONDS)
        with contextlib.suppress(KafkaException):
            # What could not be aborted in time must not be sent later.
            self._producer.purge()
            self._producer.poll(0)


def _patience() -> dict[str, int]:
    """How long a connection may be silent: one whose other end is gone must not outlive the
    transaction, and the default is a minute.
    """
    return {"socket.timeout.ms": TRANSACTION_TIMEOUT_MS * 9 // 10}


def _ignored(_: Sequence[Place]) -> None:
    """Nobody listens."""


def _positions(reached: Mapping[Place, Committed]) -> list[TopicPartition]:
    return [
        TopicPartition(*place, -1 if committed.offset is None else committed.offset, committed.note)
        for place, committed in reached.items()
    ]


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call of the client library that may hang, whatever time-out it is given.

    Sending offsets does so when a broker came back under the eyes of a producer that knew it as the
    coordinator of the group: https://github.com/confluentinc/librdkafka/issues/5456 and 5511. What
    hangs stays behind with its client, which the next session fences.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if thread.is_alive():
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the client does not answer"))
    try:
        if raised:
            raise raised[0]
    finally:
        # An error whose frames hold it is a cycle that keeps clients and their threads.
        raised.clear()
