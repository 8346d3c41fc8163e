"""Reading a partition to its end: what is committed and there, in order, and an end to it."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.record import Headers
from streams.chain import Span, read_spans
from streams.confluent import ConfluentClients
from streams.local_kafka import LocalKafka
from streams.read import partition_count, read_to_end, topic_id
from tests.streams.foreign_headers import publish_with_headers
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create, publish, wait_until


def values(kafka: str, topic: str, begin: int = 0, *, whole: bool = False) -> list[bytes | None]:
    records = read_to_end({"bootstrap.servers": kafka}, topic, 0, begin, whole=whole)
    return [record.value for record in records]


def transactional(kafka: str, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": name})
    producer.init_transactions(WAIT_SECONDS_MAX)
    return producer


def write(producer: Producer, topic: str, value: bytes) -> None:
    producer.begin_transaction()
    producer.produce(topic, value, partition=0)
    producer.flush(WAIT_SECONDS_MAX)


def test_an_empty_partition_ends_at_once(kafka: str) -> None:
    create(kafka, 1, "read.empty")
    assert values(kafka, "read.empty") == []


def test_a_header_whose_name_is_no_text_is_read_as_intake_reads_it(kafka: str) -> None:
    create(kafka, 1, "read.headers")
    publish_with_headers(kafka, "read.headers", b"0", [(b"ce_id", b"a"), (b"\xffce_id", b"b")])
    publish(kafka, "read.headers", [(0, b"1")])
    place, address = ("read.headers", 0), {"bootstrap.servers": kafka}
    seen: list[tuple[bytes | None, Headers]] = [
        (b"0", (("ce_id", b"a"), ("\N{REPLACEMENT CHARACTER}ce_id", b"b"))),
        (b"1", ()),
    ]
    clients = ConfluentClients(address)
    for records in (
        read_to_end(address, *place),
        read_spans(address, {place: Span(0, 2)}),
        clients.read_to_end(*place, 0),
    ):
        assert [(record.value, record.headers) for record in records] == seen


def test_a_tail_of_transaction_markers_is_an_end_too(kafka: str) -> None:
    create(kafka, 1, "read.markers")
    producer = transactional(kafka, "read.markers")
    for number in range(3):
        write(producer, "read.markers", b"%d" % number)
        producer.commit_transaction(WAIT_SECONDS_MAX)
    assert values(kafka, "read.markers") == [b"0", b"1", b"2"]
    # The last offset is a marker's: from there on, and behind it, there is nothing.
    assert values(kafka, "read.markers", 5, whole=True) == []
    assert values(kafka, "read.markers", 6, whole=True) == []


def test_what_was_aborted_or_is_undecided_is_not_there(kafka: str) -> None:
    create(kafka, 1, "read.undecided")
    producer = transactional(kafka, "read.undecided")
    write(producer, "read.undecided", b"aborted")
    producer.abort_transaction(WAIT_SECONDS_MAX)
    assert values(kafka, "read.undecided") == []
    write(producer, "read.undecided", b"committed")
    producer.commit_transaction(WAIT_SECONDS_MAX)
    write(producer, "read.undecided", b"undecided")
    publish(kafka, "read.undecided", [(0, b"behind it")])
    assert values(kafka, "read.undecided") == [b"committed"]
    producer.commit_transaction(WAIT_SECONDS_MAX)
    assert values(kafka, "read.undecided") == [b"committed", b"undecided", b"behind it"]


def test_a_record_comes_as_it_was_written(kafka: str) -> None:
    create(kafka, 1, "read.whole")
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    headers: list[tuple[str, str | bytes | None]] = [("a", b"\xff"), ("a", b""), ("b", b"2")]
    producer.produce(
        "read.whole", b"\x00\xff", key=b"\xfe", headers=headers, timestamp=1_234, partition=0
    )
    producer.produce("read.whole", None, partition=0)
    assert producer.flush(WAIT_SECONDS_MAX) == 0
    first, second = read_to_end({"bootstrap.servers": kafka}, "read.whole", 0)
    assert (first.topic, first.partition, first.offset) == ("read.whole", 0, 0)
    assert (first.timestamp_ms, first.key, first.value) == (1_234, b"\xfe", b"\x00\xff")
    assert first.headers == tuple(headers)
    assert (second.offset, second.key, second.value, second.headers) == (1, None, None, ())


def test_many_records_come_in_their_order(kafka: str) -> None:
    create(kafka, 1, "read.many")
    publish(kafka, "read.many", ((0, b"%d" % number) for number in range(30_000)))
    assert values(kafka, "read.many") == [b"%d" % number for number in range(30_000)]
    assert values(kafka, "read.many", 29_998) == [b"29998", b"29999"]


def test_where_records_were_deleted_reading_begins_at_what_is_left(kafka: str) -> None:
    create(kafka, 1, "read.deleted")
    publish(kafka, "read.deleted", ((0, b"%d" % number) for number in range(5)))
    admin = AdminClient({"bootstrap.servers": kafka})
    for deleted in admin.delete_records([TopicPartition("read.deleted", 0, 3)]).values():
        deleted.result(WAIT_SECONDS_MAX)
    assert values(kafka, "read.deleted", 1) == [b"3", b"4"]
    assert values(kafka, "read.deleted", 4, whole=True) == [b"4"]
    with pytest.raises(KafkaException, match="AUTO_OFFSET_RESET"):
        values(kafka, "read.deleted", 1, whole=True)
    with pytest.raises(KafkaException, match="AUTO_OFFSET_RESET"):
        values(kafka, "read.deleted", 99, whole=True)


def test_no_answer_is_an_error_and_no_end(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.read._ANSWER_SECONDS", 1.0)
    create(kafka, 1, "read.there")
    with pytest.raises(KafkaException, match=r"no answer from read\.absent"):
        values(kafka, "read.absent")
    with pytest.raises(KafkaException, match=r"no answer from read\.there"):
        values("127.0.0.1:1", "read.there")


def test_partitions_are_counted_and_an_absent_topic_has_none(kafka: str) -> None:
    create(kafka, 3, "read.three")
    assert partition_count({"bootstrap.servers": kafka}, "read.three") == 3
    assert partition_count({"bootstrap.servers": kafka}, "read.absent") == 0


def test_records_outlive_the_death_of_their_broker(broker: LocalKafka) -> None:
    create(broker.address, 1, "read.durable")
    producer = transactional(broker.address, "read.durable")
    write(producer, "read.durable", b"1")
    producer.commit_transaction(WAIT_SECONDS_MAX)
    write(producer, "read.durable", b"aborted")
    producer.abort_transaction(WAIT_SECONDS_MAX)
    broker.kill()
    broker.start()
    assert values(broker.address, "read.durable") == [b"1"]
    write(producer, "read.durable", b"2")
    producer.commit_transaction(WAIT_SECONDS_MAX)
    assert values(broker.address, "read.durable") == [b"1", b"2"]


def test_a_topic_that_was_created_anew_is_another_one(kafka: str) -> None:
    clients = {"bootstrap.servers": kafka}
    create(kafka, 1, "read.again", "read.other")
    first = topic_id(clients, "read.again")
    assert first == topic_id(clients, "read.again") != topic_id(clients, "read.other")
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics(["read.again"])["read.again"].result(WAIT_SECONDS_MAX)
    wait_until(lambda: "read.again" not in admin.list_topics().topics, "the topic is gone")
    create(kafka, 1, "read.again")
    assert topic_id(clients, "read.again") != first


def test_a_topic_that_does_not_exist_has_no_id(kafka: str) -> None:
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        topic_id({"bootstrap.servers": kafka}, "read.missing")
