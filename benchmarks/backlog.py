"""A backlog of events, how fast stages work it off, and what an event costs them meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

from benchmarks.usage import Usage
from benchmarks.workload import Workload
from pipeline.open_frame import open_frame
from schemas import topics
from schemas.topics import Topic
from streams.ask_leader import committed
from streams.producer import Producer
from streams.read import reader, record_of
from streams.stage import group_of

_TICK_SECONDS = 0.02
_SILENCE_SECONDS_MAX = 120.0
#: The most that the local broker allows.
_HELD_MS_MAX = 900_000


@dataclass(frozen=True)
class Drained:
    """Events per second of wall time, and microseconds of processor time an event, by process."""

    per_second: float
    cpu_us: dict[str, float]


def send_all(address: str, workload: Workload) -> None:
    """All events, in the order of their arrival."""
    with Producer(address, linger_ms=50, kafka={"log_level": "2"}) as producer:
        for batch in workload.batches():
            for customer, event, arrival_ms in batch:
                producer.send_raw(event, key=customer, timestamp_ms=arrival_ms)


@contextmanager
def held_back(kafka: Mapping[str, str], topic: Topic) -> Iterator[None]:
    """Within this, who reads committed records sees nothing new on `topic`; then all at once.

    A transaction is open on each of its partitions, and aborted in the end. So the processes that
    are to be measured have started, and know their partitions, before their first event comes.
    """
    producer = confluent_kafka.Producer(
        {
            **kafka,
            "transactional.id": f"benchmark.{topic.name}",
            "transaction.timeout.ms": _HELD_MS_MAX,
            "log_level": 2,
        }
    )
    producer.init_transactions()
    producer.begin_transaction()
    for partition in range(topic.partitions):
        producer.produce(topic.name, value=b"", partition=partition)
    producer.flush()
    try:
        yield
    finally:
        producer.abort_transaction()


def drain(done: Callable[[], int], events: int, usages: Mapping[str, Usage]) -> Drained:
    """Wait until `done` says `events`; what happens from now until then.

    Raises:
        TimeoutError: nothing moves any more.
    """
    begin = moved_at = time.monotonic()
    cpu_before = {name: usage.cpu_seconds() for name, usage in usages.items()}
    before = 0
    while (now := done()) < events:
        if now > before:
            before, moved_at = now, time.monotonic()
        if time.monotonic() > moved_at + _SILENCE_SECONDS_MAX:
            raise TimeoutError(f"of {events:,} events only {now:,} are done")
    return Drained(
        events / (time.monotonic() - begin),
        {
            name: (usage.cpu_seconds() - cpu_before[name]) / events * 1e6
            for name, usage in usages.items()
        },
    )


def taken_in(kafka: Mapping[str, str]) -> Callable[[], int]:
    """How many events intake has committed."""
    consumer = Consumer({**kafka, "group.id": group_of("intake"), "log_level": 2})
    places = [
        TopicPartition(topics.EVENTS.name, partition)
        for partition in range(topics.EVENTS.partitions)
    ]

    def done() -> int:
        time.sleep(_TICK_SECONDS)
        return sum(max(place.offset, 0) for place in committed(consumer, places))

    return done


def decided(kafka: Mapping[str, str], shards: int) -> Callable[[], int]:
    """How many events have a decision that is readable."""
    consumer = reader(kafka)
    consumer.assign([TopicPartition(topics.DECISIONS.name, shard, 0) for shard in range(shards)])
    count = 0

    def done() -> int:
        nonlocal count
        for message in consumer.consume(1, _TICK_SECONDS) + consumer.consume(1_000, 0):
            if message.error() is None:
                count += open_frame(record_of(message)).parts[0].num_rows
        return count

    return done
