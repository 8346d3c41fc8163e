"""Transactions that mean nothing, until a new broker has compiled what it needs for them.

A JVM compiles a method once it has run often. Without this, the first program that transacts would
share its processors with the broker's compiler, and those after it would not.
"""

from __future__ import annotations

import time
from dataclasses import replace

from confluent_kafka import Consumer, Producer

from benchmarks.workload import Workload
from schemas import topics
from streams.topics import create_topics

#: On two slow cores most of what a transaction needs is compiled after these. What only the first
#: program asks of the broker is still compiled beside it.
WARM_UP_SECONDS = 60.0

_TOPIC = replace(topics.METERED, name="benchmark.warm-up", retention_ms=-1)
#: What stages write: events next to each other, many of them or few.
_RECORDS = [
    b"".join(event for _, event, _ in Workload(1_000).rows(0, events)) for events in (200, 20)
]
_ANSWER_SECONDS_MAX = 15.0


def warm_up(address: str, seconds: float) -> int:
    """Read, write and commit offsets in transactions for so long; how many there were."""
    kafka = {"bootstrap.servers": address}
    create_topics(kafka, [_TOPIC])
    producer = Producer(
        kafka | {"transactional.id": "benchmark.warm-up", "linger.ms": 0, "compression.type": "lz4"}
    )
    producer.init_transactions(_ANSWER_SECONDS_MAX)
    consumer = Consumer(
        kafka
        | {
            "group.id": "benchmark.warm-up",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
        }
    )
    consumer.subscribe([_TOPIC.name])
    transactions = 0
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            consumer.consume(10_000, 0)
            producer.begin_transaction()
            for partition in range(_TOPIC.partitions):
                record = _RECORDS[transactions % len(_RECORDS)]
                producer.produce(_TOPIC.name, record, partition=partition)
            producer.flush()
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            )
            producer.commit_transaction(_ANSWER_SECONDS_MAX)
            transactions += 1
    finally:
        consumer.close()
    return transactions
