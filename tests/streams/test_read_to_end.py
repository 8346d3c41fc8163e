"""Reading to the end: committed records, all of them, and no waiting for what never comes."""

from __future__ import annotations

from confluent_kafka import Producer

from streams.backlog import backlog
from streams.read import partition_count, read_to_end
from streams.stage import group_of
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create, publish


def transactional(kafka: str, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": name})
    producer.init_transactions(WAIT_SECONDS_MAX)
    return producer


def values(kafka: str, topic: str, begin: int = 0) -> list[bytes | None]:
    return [record.value for record in read_to_end({"bootstrap.servers": kafka}, topic, 0, begin)]


def test_an_empty_partition_has_an_end(kafka: str) -> None:
    create(kafka, 3, "read.empty")
    assert partition_count({"bootstrap.servers": kafka}, "read.empty") == 3
    assert values(kafka, "read.empty") == []


def test_a_topic_that_does_not_exist_has_no_partitions(kafka: str) -> None:
    assert partition_count({"bootstrap.servers": kafka}, "read.nothing") == 0


def test_aborted_records_are_not_read_and_markers_at_the_end_are_no_records(kafka: str) -> None:
    topic = "read.transactions"
    create(kafka, 1, topic)
    producer = transactional(kafka, topic)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number)
        producer.flush()
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    assert values(kafka, topic) == [b"0", b"2", b"4"]


def test_reading_begins_where_it_is_told(kafka: str) -> None:
    create(kafka, 1, "read.middle")
    publish(kafka, "read.middle", [(0, b"%d" % number) for number in range(5)])
    assert values(kafka, "read.middle", begin=3) == [b"3", b"4"]
    assert values(kafka, "read.middle", begin=5) == []


def test_the_backlog_counts_records_and_not_offsets(kafka: str) -> None:
    topic = "read.backlog"
    create(kafka, 1, topic)
    settings = {"bootstrap.servers": kafka}
    producer = transactional(kafka, topic)
    for _ in range(3):
        producer.begin_transaction()
        producer.produce(topic, b"x")
        producer.flush()
        producer.commit_transaction()
    assert backlog(settings, "backlogged", [topic]) == 3

    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(settings | {"group.id": group_of("backlogged")})
    consumer.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    assert backlog(settings, "backlogged", [topic]) == 1
    consumer.commit(offsets=[TopicPartition(topic, 0, 5)], asynchronous=False)
    consumer.close()
    assert backlog(settings, "backlogged", [topic]) == 0, "only a marker is left"
