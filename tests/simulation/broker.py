"""Kafka as far as the loops can tell: logs, transactions, and what readers of committed see.

Modelled on Kafka 4's protocol: a transaction is decided when its coordinator says so, and visible
in a partition only when that partition has its marker, one partition after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException

from pipeline.record import Outgoing, Record
from streams.clients import Committed, Place
from tests.simulation.groups import Group
from tests.simulation.world import World

#: How long a transaction may stay open, and how often the coordinator looks, in seconds.
_TRANSACTION_SECONDS = 10.0
_LOOK_SECONDS = 5.0


def refusal(code: int) -> KafkaException:
    """What the client library raises for a code."""
    return KafkaException(KafkaError(code))


@dataclass(eq=False)
class Transaction:
    """One transaction: where it wrote, and which positions it carries."""

    began: float
    state: str = "open"
    #: Partitions without a marker yet; a dict keeps their order.
    places: dict[Place, None] = field(default_factory=dict)
    #: Groups without a marker yet, and the positions that each gets.
    positions: dict[str, dict[Place, Committed]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether every marker is written."""
        return self.state != "open" and not self.places and not self.positions


@dataclass
class Entry:
    """One offset of a log: a record, or a marker, which has none."""

    record: Record | None
    transaction: Transaction | None = None


@dataclass
class Log:
    """One partition."""

    entries: list[Entry] = field(default_factory=list)
    #: Offsets below this were deleted by retention.
    start: int = 0
    #: Undecided transactions and the offset at which each begins here.
    undecided: dict[Transaction, int] = field(default_factory=dict)

    @property
    def stable_end(self) -> int:
        """Readers of committed see nothing from here on."""
        return min(self.undecided.values(), default=len(self.entries))

    def committed(self, begin: int, end: int) -> Iterator[Record]:
        """Committed records from `begin` to `end`."""
        for entry in self.entries[begin:end]:
            aborted = entry.transaction is not None and entry.transaction.state == "aborted"
            if entry.record is not None and not aborted:
                yield entry.record


@dataclass
class _Holder:
    """Who holds a transactional id."""

    epoch: int = -1
    transaction: Transaction | None = None


class Broker:
    """All topics, groups and transactional ids."""

    def __init__(self, world: World, topics: Mapping[str, int]) -> None:
        self.world = world
        self.topics: dict[str, int] = {}
        #: Grows whenever readers may see more than before.
        self.changes = 0
        self.logs: dict[Place, Log] = {}
        self._groups: dict[str, Group] = {}
        self._holders: dict[str, _Holder] = {}
        for topic, count in topics.items():
            self.create(topic, count)
        world.at(_LOOK_SECONDS, self._look_for_hanging_transactions)

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic."""
        self.topics[topic] = partitions
        self.logs |= {(topic, number): Log() for number in range(partitions)}

    def begin_late(self, topic: str) -> None:
        """Let partitions begin behind what retention deleted before anybody read it."""
        for partition in range(self.topics[topic]):
            log = self.logs[topic, partition]
            log.start = self.world.rng.choice((0, 0, 3))
            log.entries = [Entry(None)] * log.start

    def group(self, name: str) -> Group:
        """A consumer group."""
        if name not in self._groups:
            self._groups[name] = Group(self.world, self.topics)
        return self._groups[name]

    def read(self, topic: str) -> list[Record]:
        """All committed records of a topic, partition by partition."""
        return [
            record
            for partition in range(self.topics[topic])
            for record in self.committed((topic, partition))
        ]

    def committed(self, place: Place) -> Iterator[Record]:
        """All committed records of a partition."""
        log = self.logs[place]
        return log.committed(log.start, log.stable_end)

    def compact(self, topic: str) -> None:
        """Drop committed records that a later one of the same key has replaced."""
        for partition in range(self.topics[topic]):
            log = self.logs[topic, partition]
            newest = {record.key: record.offset for record in self.committed((topic, partition))}
            for offset, entry in enumerate(log.entries[: log.stable_end]):
                record = entry.record
                if record is not None and newest.get(record.key, offset) != offset:
                    entry.record = None

    # Writing ------------------------------------------------------------------------------------

    def append(
        self,
        outgoing: Outgoing,
        transaction: Transaction | None = None,
        timestamp_ms: int | None = None,
    ) -> tuple[int, int]:
        """Write one record; where it came to lie: (partition, offset)."""
        if outgoing.topic not in self.topics:
            raise refusal(KafkaError.UNKNOWN_TOPIC_OR_PART)
        partition = outgoing.partition
        if partition is None:
            partition = crc32(outgoing.key or b"") % self.topics[outgoing.topic]
        place = (outgoing.topic, partition)
        log = self.logs[place]
        offset = len(log.entries)
        record = Record(
            outgoing.topic,
            partition,
            offset,
            self.world.now_ms() if timestamp_ms is None else timestamp_ms,
            outgoing.key,
            outgoing.value,
            outgoing.headers,
        )
        log.entries.append(Entry(record, transaction))
        self.changes += 1
        if transaction is not None:
            log.undecided.setdefault(transaction, offset)
            transaction.places[place] = None
        return partition, offset

    # Transactions -------------------------------------------------------------------------------

    def claim(self, transactional_id: str) -> int | None:
        """Fence earlier holders; the new epoch, or None while an earlier transaction is ending."""
        holder = self._holders.setdefault(transactional_id, _Holder())
        if holder.transaction is not None and not holder.transaction.is_over:
            if holder.transaction.state == "open":
                holder.epoch += 1
                self._decide(holder.transaction, "aborted")
            return None
        holder.epoch += 1
        holder.transaction = None
        return holder.epoch

    def transaction(self, transactional_id: str, epoch: int) -> Transaction | None:
        """The holder's open transaction, begun if need be; None while its last one is ending."""
        holder = self._held(transactional_id, epoch)
        current = holder.transaction
        if current is None or current.is_over:
            holder.transaction = Transaction(self.world.now)
        return self.ongoing(transactional_id, epoch)

    def ongoing(self, transactional_id: str, epoch: int) -> Transaction | None:
        """The holder's open transaction, if it has begun one."""
        current = self._held(transactional_id, epoch).transaction
        return current if current is not None and current.state == "open" else None

    def end(self, transactional_id: str, epoch: int, state: str) -> None:
        """Decide the holder's transaction: "committed" or "aborted"."""
        current = self._held(transactional_id, epoch).transaction
        if current is None or current.is_over:
            return  # nothing was written
        if current.state == "open":
            self._decide(current, state)
        elif current.state != state:
            raise refusal(KafkaError.INVALID_TXN_STATE)

    def add_positions(
        self, transaction: Transaction, group: str, reached: Mapping[Place, Committed]
    ) -> None:
        """Make positions part of a transaction."""
        self.group(group).pending.append(transaction)
        transaction.positions.setdefault(group, {}).update(reached)

    def _held(self, transactional_id: str, epoch: int) -> _Holder:
        holder = self._holders[transactional_id]
        if holder.epoch != epoch:
            raise refusal(KafkaError._FENCED)
        return holder

    def _decide(self, transaction: Transaction, state: str) -> None:
        transaction.state = state
        self.world.note(f"transaction {state}")
        markers: list[Place | str] = [*transaction.places, *transaction.positions]
        self.world.rng.shuffle(markers)
        delay = 0.0
        for marker in markers:
            delay += self.world.rng.choice((0.0, 0.001, 0.01, 0.3))
            self.world.at(delay, partial(self._mark, transaction, marker))

    def _mark(self, transaction: Transaction, marker: Place | str) -> None:
        if isinstance(marker, str):
            positions = transaction.positions.pop(marker)
            group = self.group(marker)
            group.pending = [other for other in group.pending if other is not transaction]
            if transaction.state == "committed":
                group.committed.update(positions)
            return
        self.changes += 1
        del transaction.places[marker]
        log = self.logs[marker]
        del log.undecided[transaction]
        log.entries.append(Entry(None))

    def _look_for_hanging_transactions(self) -> None:
        for holder in self._holders.values():
            current = holder.transaction
            if (
                current is not None
                and current.state == "open"
                and self.world.now - current.began > _TRANSACTION_SECONDS
            ):
                holder.epoch += 1
                self._decide(current, "aborted")
        self.world.at(_LOOK_SECONDS, self._look_for_hanging_transactions)
