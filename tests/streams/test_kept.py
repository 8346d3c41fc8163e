"""Counting begins where Kafka still has everything, whatever retention has deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.intake import Intake
from pipeline.record import Record
from schemas import topics
from schemas.definitions import Definitions
from schemas.usage_event import STRUCTURED
from streams.kept import Kept, kept_from
from streams.local_kafka import LocalKafka
from streams.topics import create_topics

SHARDS = 2
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: When the log begins.
BEGIN_MS = time.time_ns() // 1_000_000 - 60 * DAY_MS


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalKafka() as broker:
        catalogue = topics.sized(shards=SHARDS, event_partitions=3)
        create_topics({"bootstrap.servers": broker.address}, catalogue, keep_for_ever=True)
        _fill(broker.address)
        yield broker.address


def _fill(address: str) -> None:
    """One event every six hours for 60 days, in turn to partitions 0 and 1, each packed alone."""
    # Retries right after the topics came into being must not change the order.
    order = {"enable.idempotence": True}
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5} | order)
    intake = Intake(Definitions(), SHARDS)
    for number in range(240):
        partition, offset = number % 2, number // 2
        at_ms = BEGIN_MS + number * 6 * HOUR_MS
        event = json.dumps(
            {
                "specversion": "1.0",
                "id": str(number),
                "source": "/s",
                "type": "t",
                "subject": f"cus_{number % 7}",
                "time": "2026-11-20T09:30:00Z",
            }
        ).encode()
        producer.produce(topics.EVENTS.name, event, partition=partition, timestamp=at_ms)
        headers = (("content-type", STRUCTURED.encode()),)
        record = Record(topics.EVENTS.name, partition, offset, at_ms, None, event, headers)
        for outgoing in intake.step([record]):
            assert outgoing.partition is not None
            producer.produce(
                outgoing.topic, outgoing.value, partition=outgoing.partition, timestamp=at_ms
            )
    assert producer.flush(60) == 0


def delete(address: str, topic: str, partition: int, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for deleted in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        deleted.result(60)


def test_it_begins_at_the_beginning_and_after_what_was_deleted(address: str) -> None:
    kafka = {"bootstrap.servers": address}
    assert kept_from(kafka) == Kept({0: 0, 1: 0, 2: 0}, {0: 0, 1: 0})

    # Input alone is no loss to what is still to be counted.
    delete(address, topics.EVENTS.name, 1, 7)
    assert kept_from(kafka) == Kept({0: 0, 1: 7, 2: 0}, {0: 0, 1: 0})

    # Of one shard. Both partitions begin later, as some of their positions were packed there.
    delete(address, topics.METERED.name, 1, 40)
    kept = kept_from(kafka)
    assert kept.packs[1] > 40, "a day is left to tell what had been taken in"
    assert kept.packs[0] > 0
    assert kept.first[2] is None, "nothing tells of a partition that has no events"
    first = [kept.first[0], kept.first[1]]
    assert all(position is not None and 20 < position < 120 for position in first)
    assert abs((first[0] or 0) - (first[1] or 0)) <= 1, "they were taken in at the same pace"
