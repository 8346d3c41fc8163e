"""A transactional stage run for tests, until all is done or to its own end; and what
becomes of its input: transactions, and retention.
"""

from __future__ import annotations

import threading

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.record import Outgoing
from streams.confluent import ConfluentClients
from streams.transact import Transactor
from tests.streams import on_kafka
from tests.streams.on_kafka import WAIT_SECONDS_MAX, running, wait_until
from tests.streams.summing import Numbers, Summing


def transactor(
    kafka: str, stage: Summing, stop: threading.Event, instance: str = "a"
) -> Transactor:
    """The shell around a stage."""
    return Transactor(
        stage, ConfluentClients({"bootstrap.servers": kafka}), instance=instance, stop=stop
    )


def run_until_done(kafka: str, stage: Summing, numbers: Numbers) -> None:
    """Run a stage until it has confirmed all numbers, and stop it."""
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        wait_until(numbers.done, "all numbers are confirmed")


def run_one_by_one(kafka: str, stage: Summing, numbers: Numbers, count: int) -> None:
    """Run a stage while `count` numbers come, each once the one before is confirmed."""
    stop = threading.Event()
    with running(transactor(kafka, stage, stop), stop):
        for _ in range(count):
            numbers.send(1)
            wait_until(numbers.done, "the number is confirmed")


def run_to_its_end(kafka: str, stage: Summing) -> None:
    """Run a stage that ends by itself, and raise what it raises."""
    stop = threading.Event()
    on_kafka.run_to_its_end(transactor(kafka, stage, stop), stop)


def transact(kafka: str, topic: str, *values: bytes) -> None:
    """Records with a marker each, and then one that is aborted and its marker."""
    writer = ConfluentClients({"bootstrap.servers": kafka}).transactional_writer(topic, "feed")
    writer.fence()
    for value in values:
        writer.begin()
        writer.write([Outgoing(topic, value, partition=0)])
        writer.commit()
    writer.begin()
    writer.write([Outgoing(topic, b"0", partition=0)])
    writer.abort()


def delete_before(kafka: str, topic: str, offset: int) -> None:
    """Delete what is before an offset of partition 0, as retention does."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for deleted in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        deleted.result(WAIT_SECONDS_MAX)
