"""What is taken past Python is what the client library itself reads, field by field."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from numpy.typing import NDArray

from pipeline.errors import Stop
from pipeline.record import PLAIN_HEADERS, Headers, Record, Records
from streams.clients import Place
from streams.confluent import ConfluentClients
from streams.fetch import Fetcher
from streams.fetched import Fetched
from streams.read import read_to_end
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create, publish

TEXTS = (None, b"", b"\x00", b"\xff\xfe" * 70, b'{"specversion":"1.0"}', b"x" * 300_000)
HEADERS: tuple[list[tuple[str, str | bytes | None]], ...] = (
    [],
    list(PLAIN_HEADERS),
    [("content-type", b"application/cloudevents+json; charset=utf-8")],
    [("content-typE", PLAIN_HEADERS[0][1])],
    [("content-type", PLAIN_HEADERS[0][1][:-1] + b"N")],
    [("content-type", PLAIN_HEADERS[0][1] + "; charset=é".encode())],
    [("content-type", PLAIN_HEADERS[0][1] + b"x")],
    [("content-type", b"application/json")],
    [("content-type", b"application/json; charset=utf-8"), ("ce_id", b"7")],
    [("content-type", b"application/cloudevents-batch+json")],
    [("content-type", b"application/jso")],
    [*PLAIN_HEADERS, ("traceparent", b"00-1"), ("contentType", b"text/plain")],
    [*PLAIN_HEADERS, ("Content-Type", PLAIN_HEADERS[0][1])],
    [*PLAIN_HEADERS, ("CE_id", b"7")],
    [("c", b"1"), ("ce", b"2"), ("ced_", b"3")],
    [("ce_", b"")],
    [("content-type", None)],
    [("", b"")],
    [("é", b"\x00\xff"), ("a", None), ("a", b""), ("a", b"2" * 5_000)],
    [*PLAIN_HEADERS, *PLAIN_HEADERS],
    # As long as the usual ones, cut elsewhere.
    [("content-type" + "a", PLAIN_HEADERS[0][1][1:])],
)


def fetcher(kafka: str, *topics: str, partitions: int = 1) -> tuple[Consumer, Fetcher]:
    """A consumer without a group's help, which reads all of some topics."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": topics[0], "auto.offset.reset": "error"}
    )
    places: list[Place] = [(topic, part) for topic in topics for part in range(partitions)]
    fetching = Fetcher(consumer)
    fetching.divert(places)
    consumer.assign([TopicPartition(*place, 0) for place in places])
    return consumer, fetching


def read_all(fetching: Fetcher, count: int, at_once: Callable[[], int]) -> list[Fetched]:
    """Reads until there are `count` records."""
    parts: list[Fetched] = []
    give_up = time.monotonic() + WAIT_SECONDS_MAX
    while sum(map(len, parts)) < count:
        assert time.monotonic() < give_up, "waited in vain"
        parts.append(fetching.read(at_once(), 0.05))
    return [part for part in parts if part]


def assert_same(fetched: Records, wanted: list[Record]) -> None:
    """All that may be asked of records, as records and as columns."""
    assert len(fetched) == len(wanted)
    assert list(fetched) == wanted == list(fetched[:])
    assert [fetched[place] for place in range(len(wanted))] == wanted
    assert list(fetched.picked([2, 0])) == [wanted[2], wanted[0]]
    plain = Records(wanted)
    for name in ("partitions", "offsets", "timestamps_ms", "indices", "has_usual_headers"):
        ours, theirs = getattr(fetched, name), getattr(plain, name)
        assert (ours.dtype, ours.tolist()) == (theirs.dtype, theirs.tolist())
    for name in ("values", "headers", "are_plain", "ends"):
        assert getattr(fetched, name) == getattr(plain, name)
    columns: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(
        fetched.texts, plain.texts, strict=True
    )
    for ours, theirs in columns:
        assert (ours.dtype, ours.flags.writeable) == (theirs.dtype, theirs.flags.writeable)
        assert np.array_equal(ours, theirs)


def test_every_field_is_as_the_client_library_reads_it(kafka: str) -> None:
    create(kafka, 2, "fetched.a", "fetched.b")
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    written = 0
    for topic, partition in product(("fetched.a", "fetched.b"), range(2)):
        for number, (headers, value) in enumerate(product(HEADERS, TEXTS)):
            producer.produce(
                topic,
                value,
                key=TEXTS[number % 5],
                headers=headers,
                timestamp=1_234_567_890_123 + number,
                partition=partition,
            )
            written += 1
    assert producer.flush(WAIT_SECONDS_MAX) == 0
    consumer, fetching = fetcher(kafka, "fetched.a", "fetched.b", partitions=2)
    sizes = iter([1, 2, 3, 50] * written)
    parts = read_all(fetching, written, lambda: next(sizes))
    fetching.close()
    consumer.close()
    wanted = {
        (record.topic, record.partition, record.offset): record
        for topic, partition in product(("fetched.a", "fetched.b"), range(2))
        for record in read_to_end({"bootstrap.servers": kafka}, topic, partition)
    }
    order = [(r.topic, r.partition, r.offset) for part in parts for r in part]
    assert sorted(order) == sorted(wanted)
    for part in parts:
        assert part.are_plain == Records(list(part)).are_plain
    assert_same(Records.joined(parts), [wanted[place] for place in order])
    mixed = Records.joined([parts[0], Records(list(parts[1])), *parts[2:]])
    assert list(mixed) == [wanted[place] for place in order]
    headers_seen = {record.headers for record in wanted.values()}
    assert len(headers_seen) == len(HEADERS)


@pytest.mark.parametrize("usual", [(), PLAIN_HEADERS], ids=["none", "those of one event"])
def test_usual_headers_are_told_from_others_without_being_read(kafka: str, usual: Headers) -> None:
    topic = f"fetched.usual{len(usual)}"
    create(kafka, 1, topic)
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(20):
        producer.produce(topic, b"%d" % number, headers=list(usual))
    producer.flush(WAIT_SECONDS_MAX)
    consumer, fetching = fetcher(kafka, topic)
    whole = Records.joined(read_all(fetching, 20, lambda: 7))
    assert whole.are_plain
    assert whole.headers == [usual] * 20
    fetching.close()
    consumer.close()


def test_many_records_come_in_their_order_and_none_is_kept_by_the_library(kafka: str) -> None:
    create(kafka, 1, "fetched.many")
    publish(kafka, "fetched.many", ((0, b"%d" % number) for number in range(30_000)))
    consumer, fetching = fetcher(kafka, "fetched.many")
    whole = Records.joined(read_all(fetching, 30_000, lambda: 4_000))
    assert whole.values == [b"%d" % number for number in range(30_000)]
    assert whole.offsets.tolist() == list(range(30_000))
    # Closing waits for every message that was not given back.
    fetching.close()
    consumer.close()


def test_a_place_that_is_assigned_again_and_again_goes_on_being_read(kafka: str) -> None:
    create(kafka, 2, "fetched.again")
    publish(kafka, "fetched.again", ((number % 2, b"%d" % number) for number in range(200)))
    consumer, fetching = fetcher(kafka, "fetched.again", partitions=2)
    read_all(fetching, 1, lambda: 1)
    for begin in (0, 40, 99, 3, 50):
        fetching.divert([("fetched.again", 0), ("fetched.again", 1)])
        consumer.assign([TopicPartition("fetched.again", part, begin) for part in range(2)])
        assert consumer.poll(0) is None
        whole = Records.joined(read_all(fetching, 2 * (100 - begin), lambda: 30))
        for part in range(2):
            assert whole.offsets[whole.partitions == part].tolist() == list(range(begin, 100))
    fetching.close()
    consumer.close()


def test_a_batch_may_be_gathered_from_any_number_of_reads(kafka: str) -> None:
    topics = ("fetched.one", "fetched.two")
    create(kafka, 1, *topics)
    for topic in topics:
        publish(kafka, topic, ((0, topic.encode()) for _ in range(300)))
    consumer, fetching = fetcher(kafka, *topics)
    parts = read_all(fetching, 600, lambda: 1)
    whole = Records.joined(parts)
    assert len(parts) == len(whole) == 600
    assert {(record.topic, record.value) for record in whole} == {
        (topic, topic.encode()) for topic in topics
    }
    fetching.close()
    consumer.close()


def publish_large(kafka: str, topic: str, partitions: int, count: int) -> None:
    """Records of which each has 30,000 bytes: as its value, its key, or in its headers."""
    large = b"x" * 30_000
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    kinds: tuple[dict[str, Any], ...] = (
        {"value": large},
        {"key": large},
        {"headers": [("h", large)]},
    )
    for number in range(count):
        producer.produce(topic, partition=number % partitions, **kinds[number % len(kinds)])
    assert producer.flush(WAIT_SECONDS_MAX) == 0


def test_a_read_has_no_more_bytes_than_fit_and_the_next_one_goes_on_behind_them(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 2, "fetched.large")
    publish_large(kafka, "fetched.large", 2, 200)
    consumer, fetching = fetcher(kafka, "fetched.large", partitions=2)
    monkeypatch.setattr("streams.fetch._READ_BYTES_MAX", 1_000_000)
    parts = read_all(fetching, 200, lambda: 100)
    assert max(map(len, parts)) == 1_000_000 // 30_018
    for records in (Records.joined(parts), Records(list(Records.joined(parts)))):
        assert 200 * 30_000 <= records.size_bytes < 200 * 30_018
    for part in range(2):
        found = [r.offset for records in parts for r in records if r.partition == part]
        assert found == list(range(100))
    # Closing waits for every message that was not given back.
    fetching.close()
    consumer.close()


def test_what_did_not_fit_waits_while_its_place_is_paused_and_comes_when_it_is_resumed(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 1, "fetched.paused")
    publish_large(kafka, "fetched.paused", 1, 90)
    monkeypatch.setattr("streams.fetch._READ_BYTES_MAX", 1_000_000)
    consumer = ConfluentClients({"bootstrap.servers": kafka}).consumer("fetched", "c")
    places = [("fetched.paused", 0)]
    consumer.assign({places[0]: 0})
    found: list[Record] = []
    while len(found) < 90:
        found += consumer.read(90, 1)
        consumer.pause(places)
        assert not consumer.read(90, 0.1)
        consumer.resume(places)
    assert [record.offset for record in found] == list(range(90))
    consumer.close()


def test_a_record_that_alone_does_not_fit_is_a_stop(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 1, "fetched.huge")
    publish_large(kafka, "fetched.huge", 1, 3)
    consumer, fetching = fetcher(kafka, "fetched.huge")
    monkeypatch.setattr("streams.fetch._READ_BYTES_MAX", 30_000)
    whole = Records.joined(read_all(fetching, 2, lambda: 1))
    assert whole.offsets.tolist() == [0, 1]
    with pytest.raises(Stop, match=r"fetched\.huge-0 at offset 2 has more than 30000 bytes"):
        read_all(fetching, 1, lambda: 1)
    fetching.close()
    consumer.close()


def test_nothing_is_read_as_nothing_and_an_error_is_raised_with_its_reason(kafka: str) -> None:
    create(kafka, 1, "fetched.past")
    consumer, fetching = fetcher(kafka, "fetched.past")
    empty = fetching.read(10, 0.01)
    assert not empty
    assert empty.values == []
    # A partition that the client does not know yet may have its first word by another way.
    publish(kafka, "fetched.past", [(0, b"first")])
    read_all(fetching, 1, lambda: 1)
    consumer.assign([TopicPartition("fetched.past", 0, 5)])
    with pytest.raises(KafkaException) as error:
        read_all(fetching, 1, lambda: 10)
    assert error.value.args[0].code() == KafkaError._AUTO_OFFSET_RESET
    assert "has offsets from 0 to before 1, and not 5" in error.value.args[0].str()
    fetching.close()
    consumer.close()


def test_what_comes_by_another_way_is_an_error_before_anything_is_read_past_it(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 1, "fetched.ours", "fetched.elsewhere")
    publish(kafka, "fetched.elsewhere", [(0, b"first")])
    consumer = ConfluentClients({"bootstrap.servers": kafka}).consumer("fetched", "a")
    divert, read, serve = consumer._fetcher.divert, consumer._fetcher.read, consumer._serve
    monkeypatch.setattr(consumer._fetcher, "divert", lambda _: divert([("fetched.ours", 0)]))
    consumer.assign({("fetched.ours", 0): 0, ("fetched.elsewhere", 0): 0})
    publish(kafka, "fetched.ours", [(0, b"later")])
    seen: list[Fetched] = []

    def reading(count: int, wait_seconds: float) -> Fetched:
        seen.append(read(count, wait_seconds))
        # By now the other record is there, although it was not when the group was last asked.
        time.sleep(1)
        return seen[-1]

    monkeypatch.setattr(consumer._fetcher, "read", reading)
    monkeypatch.setattr(consumer, "_serve", lambda wait: serve(wait) if any(seen) else None)
    with pytest.raises(KafkaException, match="by another way"):
        consumer.read(10, WAIT_SECONDS_MAX)
    assert [record.value for record in seen[-1]] == [b"later"]
    consumer.close()


def test_what_was_read_before_a_new_assignment_is_dropped(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 1, "fetched.anew")
    publish(kafka, "fetched.anew", ((0, b"%d" % number) for number in range(10)))
    consumer = ConfluentClients({"bootstrap.servers": kafka}).consumer("fetched", "b")
    consumer.assign({("fetched.anew", 0): 4})
    serve, read = consumer._serve, consumer._fetcher.read
    just_read: list[Fetched] = []

    def reading(count: int, wait_seconds: float) -> Fetched:
        just_read.append(read(count, wait_seconds))
        return just_read[-1]

    def serving(wait_seconds: float) -> None:
        if just_read and just_read[-1]:
            monkeypatch.undo()
            consumer.assign({("fetched.anew", 0): 0})
        serve(wait_seconds)

    monkeypatch.setattr(consumer._fetcher, "read", reading)
    monkeypatch.setattr(consumer, "_serve", serving)
    found: list[Record] = []
    while len(found) < 10:
        found += consumer.read(10, 1)
    assert just_read[-1].offsets[0] == 4
    assert [record.offset for record in found] == list(range(10))
    consumer.close()
