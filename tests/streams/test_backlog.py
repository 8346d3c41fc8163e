"""The backlog of a stage: records it has not confirmed, not offsets."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition

from streams.backlog import backlog
from streams.stage import group_of
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create


def test_the_backlog_counts_records_and_not_the_markers_of_transactions(kafka: str) -> None:
    topic = "backlog.transactions"
    create(kafka, 1, topic)
    settings = {"bootstrap.servers": kafka}
    producer = Producer(settings | {"transactional.id": topic})
    producer.init_transactions(WAIT_SECONDS_MAX)
    for _ in range(3):
        producer.begin_transaction()
        producer.produce(topic, b"x")
        producer.flush()
        producer.commit_transaction()
    assert backlog(settings, "backlogged", [topic]) == 3

    consumer = Consumer(settings | {"group.id": group_of("backlogged")})
    consumer.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    assert backlog(settings, "backlogged", [topic]) == 1
    consumer.commit(offsets=[TopicPartition(topic, 0, 5)], asynchronous=False)
    consumer.close()
    assert backlog(settings, "backlogged", [topic]) == 0, "only a marker is left"
