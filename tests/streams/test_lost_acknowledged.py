"""Records that the client library calls safe, and that the broker does not have."""

from __future__ import annotations

import confluent_kafka
import pytest
from confluent_kafka import KafkaException

from pipeline.record import Outgoing
from streams.delivery_failures import DeliveryFailed
from streams.producer import Producer
from streams.write import write
from tests.streams.on_kafka import create, read
from tests.streams.placeless import AmnesicProducer, ForgetfulProducer
from tests.streams.test_producer import event


@pytest.mark.parametrize("pack_events", [1, 10])
def test_the_producer_sends_them_once_more(
    kafka: str, pack_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "Producer", ForgetfulProducer)
    topic = f"acknowledged.{pack_events}"
    create(kafka, 1, topic, f"{topic}.lost")
    places: list[int] = []
    with Producer(kafka, topic=topic, pack_events=pack_events) as producer:
        for number in range(20):
            sent = event(number, "cus_1")
            producer.send_raw(
                sent.to_json(), key=b"cus_1", arrived=lambda at: places.append(at.offset)
            )
    records = read(kafka, topic)
    assert sum((record.value or b"").count(b'"specversion"') for record in records) == 20
    assert len(places) == 20
    assert {record.headers for record in records} == {
        (("content-type", b"application/cloudevents+json"),)
        if pack_events == 1
        else (("content-type", b"application/cloudevents-batch+json"),)
    }


def test_what_was_sent_in_binary_mode_keeps_its_headers_and_its_arrival(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "Producer", ForgetfulProducer)
    create(kafka, 1, "acknowledged.binary", "acknowledged.binary.lost")
    with Producer(kafka, topic="acknowledged.binary") as producer:
        producer.send_raw(b"{}", key=b"cus_1", headers=[("ce_id", b"1")], timestamp_ms=1_234)
    (record,) = read(kafka, "acknowledged.binary")
    assert (record.key, record.value, record.timestamp_ms) == (b"cus_1", b"{}", 1_234)
    assert record.headers == (("ce_id", b"1"),)


def test_the_sender_hears_of_what_is_lost_again(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "Producer", AmnesicProducer)
    create(kafka, 1, "acknowledged.never", "acknowledged.never.lost")
    producer = Producer(kafka, topic="acknowledged.never")
    producer.send(event(1, "cus_1"))
    with pytest.raises(DeliveryFailed, match="may not have arrived"):
        producer.close()


def test_a_loop_takes_it_for_a_failure_of_its_transaction(kafka: str) -> None:
    create(kafka, 1, "acknowledged.loop", "acknowledged.loop.lost")
    producer = ForgetfulProducer({"bootstrap.servers": kafka, "enable.idempotence": True})
    outgoing = [Outgoing("acknowledged.loop", b"%d" % number, partition=0) for number in range(3)]
    with pytest.raises(KafkaException, match="may not have arrived"):
        write(producer, outgoing)
    assert write(producer, outgoing) == [(0, 2), (0, 3), (0, 4)]
