"""What the loops need of Kafka, and of time: a handful of narrow protocols.

`streams.confluent` has the real clients. The simulation has its own, and one contract test holds
both to the same words (`tests/streams/test_clients.py`). Every method may raise `KafkaException`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import Stop
from pipeline.record import Outgoing, Record, Records

#: A topic and a partition of it.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Committed:
    """What a group has committed of a partition: the next offset to read, and a note of ours.

    `offset` is None where nothing was ever committed.
    """

    offset: int | None
    note: str = ""


def unreadable_note(place: Place, note: str) -> Stop:
    """What to raise for a note that is none of ours."""
    return Stop(
        f"The note beside the committed offset of {place[0]}-{place[1]} cannot be read: {note!r}.",
        remedy="Find what else commits to this consumer group, or upgrade this program; then set "
        "the group's offset again, with the note that it had.",
    )


def count_of(topic: str, known: Mapping[str, int]) -> int:
    """How many partitions a topic has, by what `Clients.partition_counts` says.

    Raises:
        KafkaException: it does not exist.
    """
    if topic not in known:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, topic))
    return known[topic]


#: Called with the places that were given, or taken away, within `GroupConsumer.read`.
Rebalanced = Callable[[Sequence[Place]], None]


class GroupConsumer(Protocol):
    """A static member of a stage's group; reads committed records only."""

    def subscribe(
        self, topics: Sequence[str], on_assign: Rebalanced, on_revoke: Rebalanced
    ) -> None:
        """Join. `on_assign` must call `assign` or `unassign`, `on_revoke` must call `unassign`."""

    def read(self, count: int, wait_seconds: float) -> Records:
        """At most `count` records, in order per place; waits for the first, and serves the group.

        Raises:
            KafkaException: also for a position that is not there.
        """

    def committed(self, places: Sequence[Place]) -> Mapping[Place, Committed]:
        """What the group has committed, once transactions that touch it are decided."""

    def assign(self, starts: Mapping[Place, int | None]) -> None:
        """Read on from these offsets; None is the beginning."""

    def unassign(self) -> None:
        """Read nothing."""

    def pause(self, places: Sequence[Place]) -> None:
        """Fetch nothing of these places, but stay their owner."""

    def resume(self, places: Sequence[Place]) -> None:
        """Fetch them again."""

    def commit(self, reached: Mapping[Place, Committed]) -> None:
        """Commit positions as the member that owns them."""

    def membership(self) -> object:
        """Proof of membership, for a transaction; None while there is none."""

    def close(self) -> None:
        """Leave off; a static member is missed only after its session time-out."""


class Writer(Protocol):
    """Publishes what a sink says."""

    def write(self, outgoing: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        """Publish in order and wait; where each record came to lie: (partition, offset).

        Raises:
            KafkaException: not all of it was acknowledged.
        """


class TransactionalWriter(Protocol):
    """A producer of one transactional id."""

    def fence(self) -> None:
        """Claim the id: end what an earlier holder left open, and shut out that holder."""

    def begin(self) -> None:
        """Begin a transaction."""

    def write(self, outgoing: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        """As `Writer.write`, within the transaction."""

    def send_offsets(self, reached: Mapping[Place, Committed], membership: object) -> None:
        """Make positions part of the transaction, under the generation that `membership` proves."""

    def commit(self) -> None:
        """Make all of it visible."""

    def abort(self) -> None:
        """Give up whatever is open; never raises."""


class Clock(Protocol):
    """The time, which the pure core never asks for."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class DeliveryClients(Protocol):
    """Where the delivery loop gets its clients from."""

    def next_records(self, positions: Mapping[Place, int | None]) -> Mapping[Place, int]:
        """The offset of the first committed record from each position on, or where its partition
        ends: what lies before is no record, and never will be one. None is the beginning.

        Raises:
            KafkaException: a position is not there, or nothing answers.
        """

    @property
    def clock(self) -> Clock:
        """The time."""

    def consumer(self, stage: str, instance: str) -> GroupConsumer:
        """A member of the stage's group."""

    def writer(self, stage: str, instance: str) -> Writer:
        """A producer without transactions."""


class Clients(DeliveryClients, Protocol):
    """Where both loops get their clients from."""

    def transactional_writer(self, stage: str, instance: str) -> TransactionalWriter:
        """A producer of this instance's transactional id."""

    def partition_counts(self) -> Mapping[str, int]:
        """The topics that exist, and how many partitions each has."""

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records from offset `begin` to where the partition ends now.

        Raises:
            KafkaException: `begin` is not there, or nothing answers.
        """

    def end_of(self, topic: str, partition: int) -> int:
        """The offset behind the last committed record of a partition.

        Raises:
            KafkaException: nothing answers.
        """

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records of all partitions, in order per place: all that is left of them.

        Raises:
            KafkaException: nothing answers.
        """

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first of them of each partition that has one.

        Raises:
            KafkaException: nothing answers.
        """


class StopSignal(Protocol):
    """Says when to end; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to end."""

    def wait(self, timeout: float) -> bool:
        """Wait that many seconds, or until it is set; whether it is."""
