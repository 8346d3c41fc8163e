"""How much a stage has still to do: committed records that its group has not confirmed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, TopicPartition

from streams.ask_leader import committed
from streams.read import partition_count, read_to_end
from streams.stage import group_of


def backlog(kafka: Mapping[str, str], stage: str, topics: Sequence[str]) -> int:
    """How many records of `topics` the stage has not confirmed yet.

    Offsets alone would not tell: transactions leave markers, which take offsets and are no records.
    """
    partitions = [
        TopicPartition(topic, partition)
        for topic in topics
        for partition in range(partition_count(kafka, topic))
    ]
    # Asks as the group, but never joins it.
    consumer = Consumer(dict(kafka) | {"group.id": group_of(stage), "enable.auto.commit": False})
    try:
        done = committed(consumer, partitions)
    finally:
        consumer.close()
    return sum(
        1
        for place in done
        for _ in read_to_end(kafka, place.topic, place.partition, max(place.offset, 0))
    )
