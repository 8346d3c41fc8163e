"""What tests of Kafka loops share: topics of their own, loops in threads, and waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from pipeline.record import Record
from schemas.topics import CATALOGUE
from streams import ask_leader
from streams.read import partition_count, read_to_end
from streams.stage import group_of

WAIT_SECONDS_MAX = 90.0


class Loop(Protocol):
    """A `Transactor` or a `Deliverer`."""

    def run(self) -> None:
        """Work until stopped."""


def create(address: str, partitions: int, *topics: str, **config: str) -> None:
    """Create topics and wait until they have leaders."""
    admin = AdminClient({"bootstrap.servers": address})
    new = [NewTopic(topic, partitions, 1, config=dict(config)) for topic in topics]
    for created in admin.create_topics(new).values():
        created.result(WAIT_SECONDS_MAX)
    wait_until(lambda: _led(admin, topics), f"{topics} have leaders")


def delete_catalogue(address: str) -> None:
    """Delete what there is of the catalogue's topics; the positions of groups go with them."""
    admin = AdminClient({"bootstrap.servers": address})

    def ours() -> list[str]:
        known = admin.list_topics(timeout=WAIT_SECONDS_MAX).topics
        return [topic.name for topic in CATALOGUE if topic.name in known]

    if created := ours():
        for deleted in admin.delete_topics(created).values():
            deleted.result(WAIT_SECONDS_MAX)
        wait_until(lambda: not ours(), "they are gone")


def _led(admin: AdminClient, topics: Iterable[str]) -> bool:
    known = admin.list_topics(timeout=WAIT_SECONDS_MAX).topics
    return all(
        topic in known and all(p.leader >= 0 for p in known[topic].partitions.values())
        for topic in topics
    )


def publish(address: str, topic: str, values: Iterable[tuple[int, bytes]]) -> None:
    """Write (partition, value) records and wait for the broker."""
    # Retries right after a topic came into being must not change the order. An idempotent producer
    # would see to that, too, but waits for half a second before its first record.
    producer = Producer({"bootstrap.servers": address, "max.in.flight.requests.per.connection": 1})
    for partition, value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(WAIT_SECONDS_MAX) == 0


def open_transaction(address: str, topic: str) -> Producer:
    """Writes three records to partition 0, in a transaction that is still open."""
    producer = Producer({"bootstrap.servers": address, "transactional.id": topic})
    producer.init_transactions(WAIT_SECONDS_MAX)
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, b"%d" % number, partition=0)
    assert producer.flush(WAIT_SECONDS_MAX) == 0
    return producer


def read(address: str, topic: str) -> list[Record]:
    """All committed records, partition by partition."""
    kafka = {"bootstrap.servers": address}
    return [
        record
        for partition in range(partition_count(kafka, topic))
        for record in read_to_end(kafka, topic, partition)
    ]


def committed(address: str, stage: str, topic: str) -> dict[int, tuple[int, str]]:
    """(offset, metadata) that a stage's group has committed, also while others are undecided."""
    kafka = {"bootstrap.servers": address}
    consumer = Consumer(
        kafka | {"group.id": group_of(stage), "isolation.level": "read_uncommitted"}
    )
    places = [TopicPartition(topic, number) for number in range(partition_count(kafka, topic))]
    found = ask_leader.committed(consumer, places)
    consumer.close()
    return {place.partition: (max(place.offset, 0), place.metadata or "") for place in found}


def described(admin: AdminClient, stage: str) -> ConsumerGroupDescription:
    """A stage's group as its coordinator sees it."""
    group = group_of(stage)

    def ask() -> ConsumerGroupDescription:
        found: ConsumerGroupDescription = admin.describe_consumer_groups([group])[group].result(
            WAIT_SECONDS_MAX
        )
        return found

    return ask_leader.answered(ask)


def set_position(address: str, stage: str, topic: str, offset: int, note: str = "") -> None:
    """Commit an offset of partition 0 for a stage's group, as Kafka's tool does without a note."""
    admin = AdminClient({"bootstrap.servers": address})
    reached = TopicPartition(topic, 0, offset, note)

    def is_set() -> bool:
        asked = [ConsumerGroupTopicPartitions(group_of(stage), [reached])]
        (place,) = ask_leader.answered(lambda: _altered(admin, asked))
        return place.error is None  # Static members are missed only after their session.

    wait_until(is_set, "the group has no members")


def _altered(admin: AdminClient, asked: list[ConsumerGroupTopicPartitions]) -> list[TopicPartition]:
    (altered,) = admin.alter_consumer_group_offsets(asked).values()
    return list(altered.result(WAIT_SECONDS_MAX).topic_partitions)


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Wait until `done` holds."""
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.05)


@contextmanager
def running(loop: Loop, stop: threading.Event) -> Iterator[threading.Thread]:
    """Runs a loop in a thread; what it raises is raised at the end of the block."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            loop.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(WAIT_SECONDS_MAX)
    assert not thread.is_alive()
    try:
        if raised:
            raise raised[0]
    finally:
        # An error whose frames hold it is a cycle that keeps clients and their threads.
        raised.clear()


def run_to_its_end(loop: Loop, stop: threading.Event) -> None:
    """Run a loop that ends by itself, and raise what it raises."""
    with running(loop, stop) as thread:
        thread.join(WAIT_SECONDS_MAX)
        assert not thread.is_alive(), "the loop goes on"
