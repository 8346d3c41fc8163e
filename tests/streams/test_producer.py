"""The producer on a real broker: an event is safe after `flush`, or its sender hears of it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from random import Random

import pytest

from pipeline.errors import Stop
from pipeline.record import Record
from pipeline.reject import Position
from schemas.usage_event import UsageEvent
from streams.delivery_failures import DeliveryFailed
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from tests.streams.on_kafka import create, read, wait_until


def event(number: int, customer: str) -> UsageEvent:
    return UsageEvent(
        id=str(number),
        source="/test",
        type="call",
        subject=customer,
        time=datetime(2026, 11, 20, tzinfo=UTC),
        data={"number": number},
    )


def numbers(records: list[Record], customer: bytes) -> list[int]:
    """What one customer's events say, in the order of the log."""
    mine = [record for record in records if record.key == customer]
    assert len({record.partition for record in mine}) <= 1
    return [json.loads(record.value or b"")["data"]["number"] for record in mine]


@pytest.mark.parametrize("pack_events", [1, 10])
def test_a_producer_that_is_closed_and_dropped_is_gone_with_its_client(
    kafka: str, pack_events: int
) -> None:
    """At once: the client's threads would go on connecting until some collection of garbage."""
    gc.disable()
    try:
        with Producer(kafka, topic=f"producer.gone.{pack_events}", pack_events=pack_events) as made:
            made_one = weakref.ref(made)
        del made
        assert made_one() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_events_arrive_in_structured_mode_keyed_by_customer(kafka: str, compression: str) -> None:
    topic = f"producer.{compression}"
    create(kafka, 4, topic)
    with Producer(kafka, topic=topic, compression=compression) as producer:  # type: ignore[arg-type]
        for number in range(500):
            producer.send(event(number, f"cus_{number % 7}"))
    records = read(kafka, topic)
    assert len(records) == 500
    for customer in range(7):
        found = numbers(records, b"cus_%d" % customer)
        assert found == [number for number in range(500) if number % 7 == customer]
    assert {record.headers for record in records} == {
        (("content-type", b"application/cloudevents+json"),)
    }
    assert UsageEvent.model_validate_json(records[0].value or b"").source == "/test"


def test_threads_share_a_producer_and_each_customer_keeps_its_order(kafka: str) -> None:
    create(kafka, 3, "producer.threads")
    with (
        Producer(kafka, topic="producer.threads", linger_ms=0) as producer,
        ThreadPoolExecutor(8) as pool,
    ):

        def send(customer: int) -> None:
            for number in range(300):
                producer.send(event(number, f"cus_{customer}"))
                if number % 100 == 0:
                    producer.flush()

        list(pool.map(send, range(8)))
    records = read(kafka, "producer.threads")
    for customer in range(8):
        assert numbers(records, b"cus_%d" % customer) == list(range(300))


@contextmanager
def sending_all_the_time(producer: Producer) -> Iterator[list[int]]:
    """Four threads send until the producer is closed; how many events of each were accepted."""
    accepted = [0] * 4

    def send(number: int) -> None:
        with suppress(Stop):
            while True:
                producer.send(event(accepted[number], f"cus_{number}"))
                accepted[number] += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield accepted
    finally:
        producer.close()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("pack_events", [1, 2])
def test_flush_waits_for_what_was_sent_before_it_while_others_send_on(
    kafka: str, pack_events: int
) -> None:
    """Each record that has arrived makes another one, so that the queue is never empty."""
    topic = f"producer.send_on.{pack_events}"
    create(kafka, 1, topic)
    producer = Producer(kafka, topic=topic, pack_events=pack_events, timeout_seconds=20)
    safe: list[Position] = []

    def send_on(position: Position) -> None:
        safe.append(position)
        with suppress(Stop):
            producer.send_raw(b"{}", arrived=send_on)
            if pack_events == 2:
                producer.send_raw(b"{}")

    send_on(Position(0, -1))
    for _ in range(3):
        before = len(safe)
        producer.flush()
        assert len(safe) > before
    producer.close()


def test_flush_again_waits_for_what_an_interrupted_flush_did_not(kafka: str) -> None:
    create(kafka, 1, "producer.flush_again")
    producer = Producer(kafka, topic="producer.flush_again")
    safe: list[Position] = []
    producer.send_raw(b"{}", arrived=safe.append)
    producer._begin_epoch()
    producer.flush()
    assert safe
    producer.close()


def test_what_is_accepted_while_the_producer_is_closed_arrives_and_the_rest_is_refused(
    kafka: str,
) -> None:
    create(kafka, 1, "producer.close_meanwhile")
    producer = Producer(kafka, topic="producer.close_meanwhile")
    with sending_all_the_time(producer) as accepted:
        time.sleep(0.2)
    records = read(kafka, "producer.close_meanwhile")
    for number, count in enumerate(accepted):
        assert numbers(records, b"cus_%d" % number)[:count] == list(range(count))


def test_raw_bytes_arrive_as_they_are_with_their_arrival_time(kafka: str) -> None:
    create(kafka, 1, "producer.raw")
    with Producer(kafka, topic="producer.raw") as producer:
        producer.send_raw(b"\xff not JSON", timestamp_ms=1_700_000_000_123)
        producer.flush()
        producer.send_raw(b"", key=b"cus_1")
    first, second = read(kafka, "producer.raw")
    assert (first.value, first.key, first.timestamp_ms) == (
        b"\xff not JSON",
        None,
        1_700_000_000_123,
    )
    assert (second.value, second.key) == (b"", b"cus_1")


def test_what_was_flushed_is_there_before_the_producer_is_closed(kafka: str) -> None:
    create(kafka, 1, "producer.flushed")
    with Producer(kafka, topic="producer.flushed", linger_ms=5_000) as producer:
        producer.send(event(1, "cus_1"))
        producer.flush()
        assert len(read(kafka, "producer.flushed")) == 1


def test_what_was_sent_before_an_error_in_the_block_arrives_all_the_same(kafka: str) -> None:
    create(kafka, 1, "producer.error")

    def fail() -> None:
        with Producer(kafka, topic="producer.error", linger_ms=5_000) as producer:
            producer.send(event(1, "cus_1"))
            raise LookupError("of the service")

    with pytest.raises(LookupError):
        fail()
    assert len(read(kafka, "producer.error")) == 1


def large() -> UsageEvent:
    """An event that does not fit into a topic of 1,000 bytes, compressed either."""
    text = Random(1).randbytes(2_000).hex()
    return event(1, "cus_large").model_copy(update={"data": {"text": text}})


def test_an_event_that_the_topic_refuses_is_named_by_flush_and_only_once(kafka: str) -> None:
    create(kafka, 1, "producer.refused", **{"max.message.bytes": "1000"})
    producer = Producer(kafka, topic="producer.refused", linger_ms=0)
    producer.send(large())
    with pytest.raises(DeliveryFailed, match="1 usage events were not delivered") as failed:
        producer.flush()
    assert failed.value.keys == ["cus_large"]
    assert "same ids" in failed.value.remedy
    producer.send(event(2, "cus_1"))
    producer.close()
    assert [record.key for record in read(kafka, "producer.refused")] == [b"cus_1"]


def test_an_arrival_that_kafka_refuses_is_not_to_be_sent_again_as_it_is(kafka: str) -> None:
    create(kafka, 1, "producer.old", **{"message.timestamp.before.max.ms": "86400000"})
    with Producer(kafka, topic="producer.old") as producer:
        producer.send_raw(b"{}", timestamp_ms=1_000)
        with pytest.raises(DeliveryFailed, match="older, or further ahead, than") as failed:
            producer.flush()
        assert "Correct their arrival times (receivedat, timestamp_ms" in failed.value.remedy
        producer.send_raw(b"{}")
    assert len(read(kafka, "producer.old")) == 1


def test_a_failure_is_also_raised_by_the_next_send(kafka: str) -> None:
    """And the event that this one was for is queued: no later error would name it."""
    create(kafka, 1, "producer.next", **{"max.message.bytes": "1000"})
    sent: list[int] = []

    def send_on() -> None:
        for number in range(1_000):
            sent.append(number)
            producer.send(event(number, "cus_1"))
            time.sleep(0.01)

    producer = Producer(kafka, topic="producer.next", linger_ms=0)
    producer.send(event(-1, "cus_1"))
    producer.flush()
    producer.send(large())
    # A batch is refused as a whole, so neighbours of the large one may be named with it.
    with pytest.raises(DeliveryFailed) as failed:
        send_on()
    producer.close()
    arrived = numbers(read(kafka, "producer.next"), b"cus_1")
    assert arrived == [-1, *sent[failed.value.count - 1 :]]


def test_an_event_beyond_every_limit_is_refused_at_once(kafka: str) -> None:
    create(kafka, 1, "producer.oversized")
    with Producer(kafka, topic="producer.oversized") as producer:
        with pytest.raises(Stop, match="cannot be sent") as stop:
            producer.send_raw(b"x" * (17 * 1024 * 1024))
        assert "1 MiB" in stop.value.remedy
        producer.send(event(1, "cus_1"))
    assert len(read(kafka, "producer.oversized")) == 1


def test_without_a_broker_flush_says_how_many_are_not_safe() -> None:
    quiet = {"log_level": "0"}
    producer = Producer("127.0.0.1:1", timeout_seconds=1, kafka=quiet)
    for number in range(150):
        producer.send(event(number, f"cus_{number}"))
    with pytest.raises(DeliveryFailed) as failed:
        producer.flush()
    assert failed.value.count == 150
    assert failed.value.keys == [f"cus_{number}" for number in range(100)]
    producer.close()


def test_a_full_queue_holds_the_sender_back_until_there_is_room(kafka: str) -> None:
    create(kafka, 1, "producer.full")
    small_queue = {"queue.buffering.max.messages": "10"}
    with Producer(kafka, topic="producer.full", kafka=small_queue) as producer:
        for number in range(200):
            producer.send(event(number, "cus_1"))
    assert numbers(read(kafka, "producer.full"), b"cus_1") == list(range(200))


def test_the_death_of_the_broker_delays_events_and_loses_none(broker: LocalKafka) -> None:
    """A broker that is killed may take a retry twice, seldom, which is counted as a duplicate."""
    create(broker.address, 2, "producer.outage")
    quiet = {"log_level": "0"}
    with Producer(broker.address, topic="producer.outage", kafka=quiet) as producer:
        for number in range(1_000):
            if number == 500:
                broker.kill()
                restart = threading.Thread(target=broker.start)
                restart.start()
            producer.send(event(number, f"cus_{number % 3}"))
        restart.join()
    records = read(broker.address, "producer.outage")
    for customer in range(3):
        found = numbers(records, b"cus_%d" % customer)
        once = list(dict.fromkeys(found))
        assert once == [number for number in range(1_000) if number % 3 == customer]


def test_a_closed_producer_takes_nothing_more(kafka: str) -> None:
    with Producer(kafka) as producer:
        pass
    with pytest.raises(Stop, match="The producer is closed"):
        producer.send(event(1, "cus_1"))


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("nan"), float("inf"), 1e10])
def test_a_time_out_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(Stop, match="timeout_seconds is"):
        Producer("127.0.0.1:1", timeout_seconds=seconds)


def test_faulty_settings_are_told_apart_from_an_outage() -> None:
    with pytest.raises(Stop, match="settings are faulty"):
        Producer("127.0.0.1:1", kafka={"no.such.setting": "1"})


@pytest.mark.parametrize("pack_events", [1, 10])
def test_an_error_of_whoever_hears_of_an_arrival_is_reported_and_all_else_goes_on(
    kafka: str, pack_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda error: reported.append(error.exc_type))
    topic = f"producer.hears.{pack_events}"
    create(kafka, 1, topic)
    heard: list[Position] = []

    def fail(_: Position) -> None:
        raise LookupError("of the service")

    with Producer(kafka, topic=topic, pack_events=pack_events) as producer:
        for arrived in (fail, heard.append, fail, heard.append):
            producer.send_raw(b"{}", arrived=arrived)
        wait_until(lambda: len(heard) == 2, "the others have heard of it")
        producer.send_raw(b"{}", arrived=heard.append)
        wait_until(lambda: len(heard) == 3, "what is sent then is heard of")
    assert reported == [LookupError, LookupError]


@pytest.mark.parametrize("pack_events", [1, 10])
def test_a_fork_is_told_to_make_a_producer_of_its_own_and_ends(
    kafka: str, pack_events: int
) -> None:
    topic = f"producer.forked.{pack_events}"
    create(kafka, 1, topic)
    forking = f"""
import os, sys
from meterline import Producer, Stop

producer = Producer({kafka!r}, topic={topic!r}, pack_events={pack_events}, linger_ms=5_000)
producer.send_raw(b'{{"of": "the parent"}}', key=b"cus_1")
child = os.fork()
if child:
    print("The child ended with", os.waitpid(child, 0)[1])
    producer.close()
    sys.exit()
for act in (lambda: producer.send_raw(b"{{}}"), producer.flush, producer.close):
    try:
        act()
    except Stop as stop:
        print(stop.remedy.split(":")[0], flush=True)
with Producer({kafka!r}, topic={topic!r}) as producer:
    producer.send_raw(b'{{"of": "the child"}}', key=b"cus_1")
"""
    done = subprocess.run(
        [sys.executable, "-c", forking], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["Make one in each worker"] * 3 + ["The child ended with 0"]
    found = [record.value for record in read(kafka, topic)]
    assert found == [b'{"of": "the child"}', b'{"of": "the parent"}']


def ends_without_close(address: str, topic: str, pack_events: int, timeout_seconds: int) -> str:
    """What a program says on stderr that sends three events and ends."""
    sending = f"""
from meterline import Producer

quiet = {{"log_level": "0"}}
how = dict(topic={topic!r}, pack_events={pack_events}, timeout_seconds={timeout_seconds})
producer = Producer({address!r}, linger_ms=900, kafka=quiet, **how)
for number in range(3):
    producer.send_raw(b"{{}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", sending], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr


@pytest.mark.parametrize("pack_events", [1, 10])
def test_a_program_that_ends_without_close_waits_for_its_events(
    kafka: str, pack_events: int
) -> None:
    topic = f"producer.ends.{pack_events}"
    create(kafka, 1, topic)
    assert not ends_without_close(kafka, topic, pack_events, timeout_seconds=30)
    assert sum((record.value or b"").count(b"{}") for record in read(kafka, topic)) == 3


@pytest.mark.parametrize("pack_events", [1, 10])
def test_a_program_that_ends_without_close_says_what_it_could_not_send(pack_events: int) -> None:
    said = ends_without_close("127.0.0.1:1", "producer.ends", pack_events, timeout_seconds=1)
    assert "3 usage events were not delivered" in said
