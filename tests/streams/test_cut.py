"""A cut through topics ends behind everything that was written, and waits until it is decided."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import Retry, Stop
from streams import cut
from streams.cut import Extent, committed, explained, extents, read_between
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create, publish


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic of two partitions."""
    name = f"cut-{uuid4().hex}"
    create(kafka, 2, name)
    return name


def transaction(kafka: str, topic: str) -> Producer:
    """Three records in partition 0, in a transaction that is still open."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(WAIT_SECONDS_MAX)
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, b"%d" % number, partition=0)
    assert producer.flush(WAIT_SECONDS_MAX) == 0
    return producer


def test_a_cut_waits_for_what_is_undecided_and_then_has_all_of_it(kafka: str, topic: str) -> None:
    settings = {"bootstrap.servers": kafka}
    producer = transaction(kafka, topic)
    found: list[dict[str, list[Extent]]] = []
    looking = threading.Thread(target=lambda: found.append(extents(settings, [topic])))
    looking.start()
    looking.join(0.5)
    assert looking.is_alive()
    producer.commit_transaction(WAIT_SECONDS_MAX)
    looking.join(WAIT_SECONDS_MAX)
    assert found == [{topic: [Extent(0, 3), Extent(0, 0)]}]
    publish(kafka, topic, [(0, b"later"), (1, b"later")])
    values = [record.value for record in read_between(settings, topic, 0, 1, 3)]
    assert values == [b"1", b"2"]
    assert list(read_between(settings, topic, 1, 0, 0)) == []


def test_what_stays_undecided_is_an_error_with_a_remedy(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "_DECIDED_SECONDS_MAX", 0.2)
    producer = transaction(kafka, topic)
    with pytest.raises(Retry, match=f"A transaction on {topic} stays undecided"):
        extents({"bootstrap.servers": kafka}, [topic])
    producer.abort_transaction(WAIT_SECONDS_MAX)


def test_a_group_that_confirmed_nothing_has_no_positions(kafka: str, topic: str) -> None:
    assert committed({"bootstrap.servers": kafka}, topic, topic) == [None, None]


def test_a_topic_that_does_not_exist_is_said(kafka: str) -> None:
    with pytest.raises(Stop, match="Kafka has no topic nowhere"):
        extents({"bootstrap.servers": kafka}, ["nowhere"])


def test_what_was_deleted_is_an_error_and_is_not_jumped_over(kafka: str, topic: str) -> None:
    publish(kafka, topic, [(0, b"only")])
    with pytest.raises(Stop, match="Its position was deleted"), explained("a reader"):
        list(read_between({"bootstrap.servers": kafka}, topic, 0, 5, 9))


def test_what_kafka_says_becomes_an_error_with_a_remedy() -> None:
    with pytest.raises(Retry, match="a reader: Kafka does not answer"), explained("a reader"):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
