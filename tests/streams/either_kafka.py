"""The real Kafka and the simulated one behind one face, and what a contract test does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import pytest
from confluent_kafka import KafkaException

from pipeline.record import Outgoing, Record
from streams.clients import Clients, GroupConsumer, Place, TransactionalWriter
from streams.confluent import ConfluentClients
from tests.simulation.broker import Broker
from tests.simulation.clients import SimulatedClients
from tests.simulation.world import World
from tests.streams import on_kafka
from tests.streams.transacting import delete_before

_PATIENCE_SECONDS = 60.0


class Kafka(Protocol):
    """One of the two."""

    clients: Clients

    def create(self, partitions: int, *topics: str) -> None:
        """Create topics."""

    def delete_before(self, topic: str, offset: int) -> None:
        """What retention does to partition 0."""

    def run(self, scenario: Callable[[], None]) -> None:
        """Run a scenario to its end, as a process."""


class RealKafka:
    """The real broker."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.clients: Clients = ConfluentClients({"bootstrap.servers": address, "log_level": "0"})

    def create(self, partitions: int, *topics: str) -> None:
        """Create topics."""
        on_kafka.create(self._address, partitions, *topics)

    def delete_before(self, topic: str, offset: int) -> None:
        """What retention does to partition 0."""
        delete_before(self._address, topic, offset)

    def run(self, scenario: Callable[[], None]) -> None:
        """Run it here."""
        scenario()


class SimulatedKafka:
    """The simulated broker, in a world without faults."""

    def __init__(self) -> None:
        self._world = World("contract")
        self._broker = Broker(self._world, {})
        self.clients: Clients = SimulatedClients(self._broker)

    def create(self, partitions: int, *topics: str) -> None:
        """Create topics."""
        for topic in topics:
            self._broker.create(topic, partitions)

    def delete_before(self, topic: str, offset: int) -> None:
        """What retention does to partition 0."""
        self._broker.logs[topic, 0].start = offset

    def run(self, scenario: Callable[[], None]) -> None:
        """Run it as a process."""
        process = self._world.start("scenario", scenario)
        self._world.run(1_000)
        assert process.dead
        if process.failure is not None:
            raise process.failure


def records(topic: str, *values: bytes, partition: int = 0) -> list[Outgoing]:
    """Values to write to one partition."""
    return [Outgoing(topic, value, partition=partition) for value in values]


def visible(clients: Clients, topic: str, begin: int = 0) -> list[tuple[int, bytes | None]]:
    """(offset, value) of what a reader of partition 0 is shown."""
    return [(record.offset, record.value) for record in clients.read_to_end(topic, 0, begin)]


def writer(clients: Clients, name: str, instance: str = "a") -> TransactionalWriter:
    """A transactional writer that has claimed its id."""
    claimed = clients.transactional_writer(name, instance)
    claimed.fence()
    return claimed


class Member:
    """A consumer that is polled by hand, and remembers what it was given."""

    def __init__(self, clients: Clients, stage: str, instance: str, *topics: str) -> None:
        self.consumer: GroupConsumer = clients.consumer(stage, instance)
        self.share: list[Place] = []
        self.times_assigned = 0
        self.read: list[Record] = []
        self.consumer.subscribe(topics, self._assigned, self._revoked)

    def _assigned(self, places: Sequence[Place]) -> None:
        self.times_assigned += 1
        self.share = sorted(places)
        committed = self.consumer.committed(places)
        self.consumer.assign({place: committed[place].offset for place in places})

    def _revoked(self, _: Sequence[Place]) -> None:
        self.share = []
        self.consumer.unassign()

    def poll(self) -> None:
        """Read what there is, and serve the group."""
        self.read += self.consumer.read(100, 0.1)


def poll_until(clients: Clients, done: Callable[[], bool], *members: Member) -> None:
    """Serve all members in turn until something holds."""
    give_up = clients.clock.monotonic() + _PATIENCE_SECONDS
    while not done():
        assert clients.clock.monotonic() < give_up, "waited in vain"
        for member in members:
            member.poll()


def code_of(error: pytest.ExceptionInfo[KafkaException]) -> int:
    """Kafka's number of the error."""
    code: int = error.value.args[0].code()
    return code
