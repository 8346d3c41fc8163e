"""The same on the official image's broker as on the local one."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer

from schemas.topics import CATALOGUE, EVENTS
from streams.topics import create_topics

pytestmark = pytest.mark.docker


def test_the_catalogue_is_created_and_a_transaction_reaches_a_reader(docker_kafka: str) -> None:
    create_topics({"bootstrap.servers": docker_kafka}, keep_for_ever=True)
    producer = Producer({"bootstrap.servers": docker_kafka, "transactional.id": "docker-test"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(EVENTS.name, b"aborted")
    producer.flush(10)
    producer.abort_transaction(10)
    producer.begin_transaction()
    producer.produce(EVENTS.name, b"committed")
    producer.flush(10)
    producer.commit_transaction(10)

    consumer = Consumer(
        {
            "bootstrap.servers": docker_kafka,
            "group.id": "docker-test",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([EVENTS.name])
    message = consumer.poll(30)
    topics = consumer.list_topics(timeout=10).topics
    consumer.close()
    assert message is not None
    assert message.value() == b"committed"
    assert {topic.name for topic in CATALOGUE} <= topics.keys()
