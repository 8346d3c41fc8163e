"""The simulated clients: the protocols of `streams.clients` on a simulated broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from confluent_kafka import KafkaError, KafkaException

from pipeline.record import Outgoing, Record, Records
from streams.clients import Committed, Place, Rebalanced, count_of
from streams.stage import group_of, member_of
from tests.simulation.broker import Broker, Transaction, refusal
from tests.simulation.groups import Membership
from tests.simulation.world import World

_ANSWER_SECONDS = 30.0
_POLL_SECONDS = 0.05
_IDLE_SECONDS = 0.2
_READ_AT_ONCE = 20


def _unanswered() -> KafkaException:
    return refusal(KafkaError._TIMED_OUT)


class SimulatedClients:
    """Makes clients for the process that is running."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @property
    def clock(self) -> World:
        """The world's time."""
        return self._broker.world

    def consumer(self, stage: str, instance: str) -> SimulatedConsumer:
        """A member of the stage's group."""
        return SimulatedConsumer(self._broker, stage, instance)

    def transactional_writer(self, stage: str, instance: str) -> SimulatedTransactions:
        """A producer of this instance's transactional id."""
        return SimulatedTransactions(self._broker, stage, instance)

    def writer(self, stage: str, instance: str) -> SimulatedWriter:
        """A producer without transactions."""
        del stage, instance
        return SimulatedWriter(self._broker)

    def partition_counts(self) -> dict[str, int]:
        """The topics that exist."""
        return self.clock.effect("topics", lambda: dict(self._broker.topics), _unanswered)

    def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
        """Committed records from `begin` to where the partition ends now."""
        log = self._broker.logs[topic, partition]

        def end() -> int:
            if begin < log.start:
                raise refusal(KafkaError._AUTO_OFFSET_RESET)
            return log.stable_end

        last = self.clock.effect("end of a log", end, _unanswered)
        for first in range(begin, last, _READ_AT_ONCE):
            part = partial(log.committed, first, min(first + _READ_AT_ONCE, last))
            yield from self.clock.effect("part of a log", part, _unanswered)

    def end_of(self, topic: str, partition: int) -> int:
        """The offset behind the last committed record of a partition."""
        log = self._broker.logs[topic, partition]
        return self.clock.effect("end of a log", lambda: log.stable_end, _unanswered)

    def next_records(self, positions: Mapping[Place, int | None]) -> dict[Place, int]:
        """The offset of the first committed record from each position on."""

        def following(place: Place, position: int | None) -> int:
            log = self._broker.logs[place]
            begin = log.start if position is None else position
            if begin < log.start:
                raise refusal(KafkaError._AUTO_OFFSET_RESET)
            end = log.stable_end
            return next((record.offset for record in log.committed(begin, end)), end)

        return self.clock.effect(
            "next records",
            lambda: {place: following(place, at) for place, at in positions.items()},
            _unanswered,
        )

    def read_all(self, topic: str) -> Iterator[Record]:
        """Committed records of all partitions."""
        for partition in range(count_of(topic, self._broker.topics)):
            yield from self.read_to_end(topic, partition, self._broker.logs[topic, partition].start)

    def firsts(self, topic: str) -> Iterator[Record]:
        """The first committed record of each partition that has one."""
        for partition in range(count_of(topic, self._broker.topics)):
            start = self._broker.logs[topic, partition].start
            yield from islice(self.read_to_end(topic, partition, start), 1)


class SimulatedWriter:
    """A `Writer`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish in order."""
        if not outgoing:
            return []

        def append(count: int) -> list[tuple[int, int]]:
            return [self._broker.append(record) for record in outgoing[:count]]

        world = self._broker.world
        return world.effect(
            "publish",
            lambda: append(len(outgoing)),
            _unanswered,
            partly=lambda: append(world.rng.randint(0, len(outgoing))),
        )


class SimulatedTransactions:
    """A `TransactionalWriter`."""

    def __init__(self, broker: Broker, stage: str, instance: str) -> None:
        self._broker = broker
        self._world = broker.world
        self._stage = stage
        self._id = member_of(stage, instance)
        self._epoch: int | None = None
        self._has_break = False

    def fence(self) -> None:
        """Claim the id."""
        give_up = self._world.now + _ANSWER_SECONDS
        while self._epoch is None:
            self._epoch = self._world.effect(
                f"{self._stage}: fence", lambda: self._broker.claim(self._id), _unanswered
            )
            if self._epoch is None:
                self._wait(give_up)

    def begin(self) -> None:
        """Begin: nothing that the broker hears of, unless something sent again may come late."""
        if self._epoch is None:
            raise refusal(KafkaError._STATE)
        if self._has_break:
            self._has_break = False
            self._epoch = None
            self.fence()

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish within the transaction."""
        transaction = self._open()

        def append(count: int) -> list[tuple[int, int]]:
            self._require(transaction)
            return [self._broker.append(record, transaction) for record in outgoing[:count]]

        def partly() -> None:
            if transaction.state == "open":
                append(self._world.rng.randint(0, len(outgoing)))

        return self._world.effect(
            f"{self._stage}: write", lambda: append(len(outgoing)), _unanswered, partly=partly
        )

    def send_offsets(self, reached: Mapping[Place, Committed], membership: object) -> None:
        """Make positions part of the transaction."""
        if not isinstance(membership, Membership):
            raise refusal(KafkaError.UNKNOWN_MEMBER_ID)
        transaction = self._open()
        epoch = self._epoch or 0
        group = group_of(self._stage)

        def send() -> None:
            self._require(transaction)
            self._broker.group(group).require(membership)
            self._broker.add_positions(transaction, group, reached)

        def late() -> None:
            """They become part of whichever transaction goes on."""
            current = self._broker.ongoing(self._id, epoch)
            if current is not None:
                self._broker.group(group).require(membership)
                self._broker.add_positions(current, group, reached)

        self._effect("send offsets", send, late)

    def commit(self) -> None:
        """Make all of it visible."""
        epoch = self._epoch or 0

        def end() -> None:
            self._broker.end(self._id, epoch, "committed")

        self._effect("commit", end, end)

    def abort(self) -> None:
        """Give up whatever is open."""
        if self._epoch is None:
            return
        try:
            self._world.effect(
                f"{self._stage}: abort",
                lambda: self._broker.end(self._id, self._epoch or 0, "aborted"),
                _unanswered,
            )
        except KafkaException as error:
            self._world.note(f"{self._id}: {error}")

    def _effect(self, name: str, apply: Callable[[], None], late: Callable[[], None]) -> None:
        """A request that may be held up on its way, or sent again when the connection broke."""

        def arrive() -> None:
            try:
                late()
            except KafkaException:
                # Whoever fenced its sender has outrun it.
                self._world.note(f"{self._id}: {name} comes too late")

        def sent_again() -> None:
            self._has_break = True

        self._world.effect(
            f"{self._stage}: {name}", apply, _unanswered, late=arrive, resent=sent_again
        )

    def _open(self) -> Transaction:
        """The transaction, once the one before is over."""
        give_up = self._world.now + _ANSWER_SECONDS
        while True:
            transaction = self._broker.transaction(self._id, self._epoch or 0)
            if transaction is not None:
                return transaction
            self._wait(give_up)

    def _require(self, transaction: Transaction) -> None:
        if self._broker.transaction(self._id, self._epoch or 0) is not transaction:
            raise refusal(KafkaError.INVALID_TXN_STATE)

    def _wait(self, give_up: float) -> None:
        if self._world.now > give_up:
            raise _unanswered()
        self._world.sleep(_POLL_SECONDS)


class SimulatedConsumer:
    """A `GroupConsumer`."""

    def __init__(self, broker: Broker, stage: str, instance: str) -> None:
        self._broker = broker
        self._world = broker.world
        self._stage = stage
        self._instance = member_of(stage, instance)
        self._group = broker.group(group_of(stage))
        self._number: int | None = None
        self._generation = -1
        self._positions: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._topics: Sequence[str] = ()
        #: How many changes the broker had seen when there was nothing left to fetch.
        self._seen = -1

    def subscribe(
        self, topics: Sequence[str], on_assign: Rebalanced, on_revoke: Rebalanced
    ) -> None:
        """Join with the next `read`."""
        self._topics = topics
        self._on_assign, self._on_revoke = on_assign, on_revoke

    def read(self, count: int, wait_seconds: float) -> Records:
        """At most `count` records."""
        end = self._world.now + wait_seconds
        while True:
            self._serve_group()
            if self._seen != self._broker.changes:
                self._seen = self._broker.changes
                if records := self._fetch(count):
                    self._seen = -1
                    return Records(records)
            if self._world.now >= end:
                return Records([])
            self._world.sleep(max(min(_IDLE_SECONDS, end - self._world.now), 0.001))

    def committed(self, places: Sequence[Place]) -> dict[Place, Committed]:
        """What the group has committed, once it is decided."""
        give_up = self._world.now + _ANSWER_SECONDS
        while self._group.is_undecided(places):
            if self._world.now > give_up:
                raise _unanswered()
            self._world.sleep(_POLL_SECONDS)
        return self._world.effect(
            f"{self._stage}: committed",
            lambda: {place: self._group.committed.get(place, Committed(None)) for place in places},
            _unanswered,
        )

    def assign(self, starts: Mapping[Place, int | None]) -> None:
        """Read on from these offsets."""
        self._paused.clear()
        self._seen = -1
        self._positions = {
            place: self._broker.logs[place].start if offset is None else offset
            for place, offset in starts.items()
        }

    def unassign(self) -> None:
        """Read nothing."""
        self._positions = {}

    def pause(self, places: Sequence[Place]) -> None:
        """Fetch nothing of these places."""
        self._paused.update(places)

    def resume(self, places: Sequence[Place]) -> None:
        """Fetch them again."""
        self._paused.difference_update(places)
        self._seen = -1

    def commit(self, reached: Mapping[Place, Committed]) -> None:
        """Commit positions."""
        proof = self.membership()
        if not isinstance(proof, Membership):
            raise refusal(KafkaError.UNKNOWN_MEMBER_ID)

        def store() -> None:
            self._group.require(proof)
            self._group.committed.update(reached)

        self._world.effect(f"{self._stage}: commit positions", store, _unanswered)

    def membership(self) -> object:
        """Proof of membership."""
        if self._number is None:
            return None
        return Membership(self._instance, self._number, self._generation)

    def close(self) -> None:
        """Leave off."""
        if self._number is not None:
            self._group.leave_off(self._instance, self._number)
            self._number = None
        self._positions = {}

    def _serve_group(self) -> None:
        if self._number is None:
            self._join()
        else:
            state = self._group.state_of(self._instance, self._number)
            if state == "fenced":
                raise refusal(KafkaError.FENCED_INSTANCE_ID)
            if state == "lost":
                self._on_revoke(sorted(self._positions))
                self._number, self._generation = None, -1
                self._join()
            elif state == "rebalancing" and not self._group.has_joined(self._instance):
                self._on_revoke(sorted(self._positions))
                self._join()
        state = self._group.state_of(self._instance, self._number or 0)
        if state == "stable" and self._generation != self._group.generation:
            self._generation = self._group.generation
            self._on_assign(self._group.share_of(self._instance))

    def _join(self) -> None:
        self._number = self._world.effect(
            f"{self._stage}: join",
            lambda: self._group.join(self._instance, self._topics, self._number),
            _unanswered,
        )

    def _fetch(self, count: int) -> list[Record]:
        found: list[Record] = []
        places = [place for place in self._positions if place not in self._paused]
        self._world.rng.shuffle(places)
        for place in places:
            log = self._broker.logs[place]
            position = self._positions[place]
            if position < log.start:
                raise refusal(KafkaError._AUTO_OFFSET_RESET)
            end = log.stable_end
            for record in log.committed(position, end):
                if len(found) == count:
                    return found
                found.append(record)
                self._positions[place] = record.offset + 1
            if len(found) < count:
                self._positions[place] = max(end, position)
        return found
