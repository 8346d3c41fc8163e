"""The producer: what `flush` returned from is in Kafka; what is not there is raised."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime

import pytest

from meterline import DeliveryFailed, Producer, Stop, UsageEvent
from pipeline.decode import decode_event
from pipeline.record import Record
from tests.streams.on_kafka import create, read


def event(customer: str, number: int) -> UsageEvent:
    return UsageEvent(
        id=f"{customer}-{number}",
        source="/test",
        type="llm.request",
        subject=customer,
        time=datetime(2026, 11, 20, tzinfo=UTC),
        data={"tokens": number},
    )


def test_an_event_arrives_in_structured_mode_keyed_by_its_customer(kafka: str) -> None:
    create(kafka, 3, "produced.one")
    with Producer(kafka, topic="produced.one") as producer:
        producer.send(event("ann", 7))
    (record,) = read(kafka, "produced.one")
    assert record.key == b"ann"
    assert record.headers == (("content-type", b"application/cloudevents+json"),)
    envelope, _ = decode_event(record)
    assert (envelope.id, envelope.subject, bytes(envelope.data)) == (
        "ann-7",
        "ann",
        b'{"tokens":7}',
    )


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_many_threads_may_send_and_a_customers_events_keep_their_order(
    kafka: str, compression: str
) -> None:
    topic = f"produced.threads.{compression}"
    create(kafka, 4, topic)
    with Producer(kafka, topic=topic, compression=compression) as producer:  # type: ignore[arg-type]

        def send(customer: str) -> None:
            for number in range(300):
                producer.send(event(customer, number))

        threads = [threading.Thread(target=send, args=(f"c{number}",)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sent: dict[bytes | None, list[Record]] = {}
    for record in read(kafka, topic):
        sent.setdefault(record.key, []).append(record)
    assert len(sent) == 6
    for key, records in sent.items():
        ids = [decode_event(record)[0].id for record in records]
        assert ids == [f"{(key or b'').decode()}-{number}" for number in range(300)]


def test_an_arrival_time_can_be_replayed(kafka: str) -> None:
    create(kafka, 1, "produced.replay", **{"message.timestamp.after.max.ms": str(2**63 - 1)})
    with Producer(kafka, topic="produced.replay") as producer:
        producer.send_raw(b"{}", key=b"ann", timestamp_ms=1_700_000_000_123)
    assert [record.timestamp_ms for record in read(kafka, "produced.replay")] == [1_700_000_000_123]


def test_what_the_broker_refuses_is_raised_with_its_customers(kafka: str) -> None:
    create(kafka, 1, "produced.small", **{"max.message.bytes": "1000"})
    producer = Producer(kafka, topic="produced.small")
    producer.send_raw(b"fits", key=b"bob")
    producer.flush()
    producer.send_raw(random.Random(1).randbytes(5_000), key=b"ann")
    with pytest.raises(DeliveryFailed, match="1 usage events were not delivered") as failure:
        producer.flush()
    assert failure.value.keys == ["ann"]
    producer.close()
    assert [record.value for record in read(kafka, "produced.small")] == [b"fits"]


def test_a_broker_that_does_not_answer_is_a_failed_delivery() -> None:
    producer = Producer("127.0.0.1:1", timeout_seconds=1, kafka={"log_level": "0"})
    producer.send(event("ann", 1))
    with pytest.raises(DeliveryFailed):
        producer.close()


def test_a_closed_producer_refuses_events(kafka: str) -> None:
    producer = Producer(kafka)
    producer.close()
    with pytest.raises(Stop, match="closed"):
        producer.send(event("ann", 1))


def test_faulty_settings_are_named(kafka: str) -> None:
    with pytest.raises(Stop, match="no\\.such\\.setting"):
        Producer(kafka, kafka={"no.such.setting": "1"})
