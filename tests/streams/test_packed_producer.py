"""A producer that packs sends the same events to the same places, in fewer records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from pipeline.errors import Retry, Stop
from pipeline.record import PLAIN_HEADERS, Record, Records
from pipeline.reject import Position
from pipeline.unpack import unpacked
from schemas.usage_event import PACKED
from streams.delivery_failures import DeliveryFailed
from streams.producer import Producer
from tests.streams.on_kafka import create, read, wait_until
from tests.streams.test_producer import event, sending_all_the_time

PACKED_HEADERS = (("content-type", PACKED.encode()),)
#: So long that no test waits for it.
NEVER_MS = 600_000


def events(address: str, topic: str) -> Iterator[tuple[Record, str, int]]:
    """Each event with its customer and number, in the order of the log."""
    for part in unpacked(Records(read(address, topic)), 1_000):
        for each in part:
            said = json.loads(each.value or b"")
            yield each, said["subject"], said["data"]["number"]


def numbers(address: str, topic: str, customer: str) -> list[int]:
    return [number for _, name, number in events(address, topic) if name == customer]


def test_customers_lie_where_they_lie_without_packing_and_in_their_order(kafka: str) -> None:
    create(kafka, 5, "packed.single", "packed.many")
    for topic, pack_events, linger_ms in (("packed.single", 1, 5), ("packed.many", 100, NEVER_MS)):
        with Producer(kafka, topic=topic, pack_events=pack_events, linger_ms=linger_ms) as producer:
            for number in range(2_000):
                producer.send(event(number, f"cus_{number % 70}é"))
    single, many = (
        [(each.partition, name, number) for each, name, number in events(kafka, topic)]
        for topic in ("packed.single", "packed.many")
    )
    assert single == many
    records = read(kafka, "packed.many")
    assert len(records) < 100
    assert {record.headers for record in records} <= {PACKED_HEADERS, PLAIN_HEADERS}
    assert {record.key for record in records if record.headers == PACKED_HEADERS} == {None}


def test_a_full_pack_is_sent_at_once_and_the_rest_with_flush(kafka: str) -> None:
    create(kafka, 1, "packed.full")
    kept = {"pack_events": 10, "linger_ms": NEVER_MS}
    with Producer(kafka, topic="packed.full", **kept) as producer:  # type: ignore[arg-type]
        for number in range(25):
            producer.send(event(number, "cus_1"))
        wait_until(lambda: len(read(kafka, "packed.full")) == 2, "two packs have arrived")
        producer.flush()
        assert len(read(kafka, "packed.full")) == 3
        producer.send(event(25, "cus_1"))
    assert numbers(kafka, "packed.full", "cus_1") == list(range(26))
    last = read(kafka, "packed.full")[-1]
    assert (last.headers, last.key) == (PLAIN_HEADERS, b"cus_1"), "nobody was there to pack it with"


def test_a_pack_stays_below_its_bytes(kafka: str) -> None:
    create(kafka, 1, "packed.bytes")
    with Producer(
        kafka, topic="packed.bytes", pack_events=1_000, pack_bytes=2_000, linger_ms=NEVER_MS
    ) as producer:
        for number in range(50):
            producer.send(event(number, "cus_1"))
        producer.send(
            event(50, "cus_1").model_copy(update={"data": {"number": 50, "x": "x" * 2_000}})
        )
    values = [record.value or b"" for record in read(kafka, "packed.bytes")]
    assert max(map(len, values[:-1])) < 2_050
    assert numbers(kafka, "packed.bytes", "cus_1") == list(range(51))


def test_what_waits_is_sent_after_the_linger_time_without_a_flush(kafka: str) -> None:
    create(kafka, 2, "packed.linger")
    with Producer(kafka, topic="packed.linger", pack_events=1_000, linger_ms=20) as producer:
        for number in range(4):
            producer.send(event(number, f"cus_{number}"))
        wait_until(lambda: len(list(events(kafka, "packed.linger"))) == 4, "all have arrived")


def test_threads_share_a_producer_and_each_customer_keeps_its_order(kafka: str) -> None:
    create(kafka, 3, "packed.threads")
    with (
        Producer(kafka, topic="packed.threads", pack_events=20, linger_ms=2) as producer,
        ThreadPoolExecutor(8) as pool,
    ):

        def send(customer: int) -> None:
            for number in range(300):
                producer.send(event(number, f"cus_{customer}"))
                if number % 100 == 0:
                    producer.flush()

        list(pool.map(send, range(8)))
    for customer in range(8):
        assert numbers(kafka, "packed.threads", f"cus_{customer}") == list(range(300))


def test_what_is_accepted_while_the_producer_is_closed_arrives_and_the_rest_is_refused(
    kafka: str,
) -> None:
    create(kafka, 1, "packed.close_meanwhile")
    taken = 0
    for _ in range(10):
        producer = Producer(kafka, topic="packed.close_meanwhile", pack_events=50)
        with sending_all_the_time(producer) as accepted:
            time.sleep(0.05)
        taken += sum(accepted)
    assert len(list(events(kafka, "packed.close_meanwhile"))) >= taken


@pytest.mark.parametrize(
    "strange",
    [
        {"value": b"\xff not JSON"},
        {"value": b'{"a":[1'},
        {"value": b"1,2"},
        {"value": b'{"a":1}\n'},
        {"value": b"[" * 5_000 + b"]" * 5_000},
        {"value": b""},
        {"value": None},
        {"value": b"{}", "timestamp_ms": 1_700_000_000_123},
        {"value": b"{}", "headers": [("ce_id", b"1")]},
    ],
    ids=lambda strange: str(strange)[:40],
)
def test_what_cannot_be_packed_is_sent_alone_and_in_its_turn(
    kafka: str, strange: dict[str, object], request: pytest.FixtureRequest
) -> None:
    topic = f"packed.strange.{abs(hash(request.node.name))}"
    create(kafka, 4, topic)
    before, after = (event(number, "cus_1").to_json() for number in (1, 2))
    with Producer(kafka, topic=topic, pack_events=10, linger_ms=NEVER_MS) as producer:
        producer.send_raw(before, key=b"cus_1")
        producer.send_raw(key=b"cus_1", **strange)  # type: ignore[arg-type]
        producer.send_raw(after, key=b"cus_1")
    found = read(kafka, topic)
    assert [record.value for record in found] == [before, strange["value"], after]
    assert len({record.partition for record in found}) == 1


def test_each_event_hears_where_it_lies(kafka: str) -> None:
    create(kafka, 2, "packed.arrived")
    heard: dict[int, Position] = {}

    def hear(number: int) -> object:
        return lambda position: heard.__setitem__(number, position)

    with Producer(kafka, topic="packed.arrived", pack_events=4) as producer:
        for number in range(30):
            customer = f"cus_{number % 3}"
            text = event(number, customer).to_json()
            producer.send_raw(text, key=customer.encode(), arrived=hear(number))  # type: ignore[arg-type]
    assert heard == {
        number: Position(each.partition, each.offset, each.index)
        for each, _, number in events(kafka, "packed.arrived")
    }
    assert len(heard) == 30


def test_a_record_that_fails_fails_with_each_of_its_events(kafka: str) -> None:
    create(kafka, 1, "packed.refused", **{"max.message.bytes": "1000"})
    producer = Producer(kafka, topic="packed.refused", pack_events=30, linger_ms=NEVER_MS)
    random = Random(1)
    for number in range(30):
        text = {"number": number, "text": random.randbytes(50).hex()}
        producer.send(event(number, f"cus_{number}").model_copy(update={"data": text}))
    with pytest.raises(DeliveryFailed, match="30 usage events were not delivered") as failed:
        producer.flush()
    assert failed.value.keys == [f"cus_{number}" for number in range(30)]
    producer.send(event(31, "cus_1"))
    producer.close()
    assert numbers(kafka, "packed.refused", "cus_1") == [31]


def test_the_event_whose_send_tells_of_a_failure_is_packed_all_the_same(kafka: str) -> None:
    create(kafka, 1, "packed.next", **{"max.message.bytes": "1000"})
    producer = Producer(kafka, topic="packed.next", pack_events=2, linger_ms=NEVER_MS)
    producer.send_raw(Random(1).randbytes(2_000), headers=[])
    wait_until(lambda: producer._failures.count > 0, "it has failed")
    with pytest.raises(DeliveryFailed, match="1 usage events were not delivered"):
        producer.send(event(1, "cus_1"))
    producer.close()
    assert numbers(kafka, "packed.next", "cus_1") == [1]


def test_partitions_that_are_added_are_used_after_what_waits_is_sent(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka, 1, "packed.grown")
    monkeypatch.setattr("streams.packer._LOOK_SECONDS", 0.0)
    with Producer(kafka, topic="packed.grown", pack_events=10, linger_ms=2) as producer:
        count = [1]
        monkeypatch.setattr(producer._packer, "_partition_count", lambda: count[0])
        producer.send(event(1, "cus_1"))
        wait_until(lambda: bool(producer._packer._partitions), "the first is sent")  # type: ignore[union-attr]
        count[0] = 3
        wait_until(lambda: producer._packer._partitions.count == 3, "they are known")  # type: ignore[union-attr]


def test_events_without_a_key_are_packed_too(kafka: str) -> None:
    create(kafka, 3, "packed.unkeyed")
    with Producer(kafka, topic="packed.unkeyed", pack_events=50, linger_ms=NEVER_MS) as producer:
        for number in range(50):
            producer.send_raw(event(number, "cus_1").to_json())
    assert [record.headers for record in read(kafka, "packed.unkeyed")] == [PACKED_HEADERS]


def test_without_a_broker_the_first_event_says_so() -> None:
    quiet = {"log_level": "0"}
    producer = Producer("127.0.0.1:1", pack_events=10, timeout_seconds=1, kafka=quiet)
    with pytest.raises(Retry, match="does not say how many partitions"):
        producer.send(event(1, "cus_1"))
    producer.close()


def test_a_topic_that_is_not_there_is_told_at_once(kafka: str) -> None:
    producer = Producer(kafka, topic="packed.nowhere", pack_events=10)
    with pytest.raises(Stop, match=r"packed\.nowhere cannot be sent to"):
        producer.send(event(1, "cus_1"))
    producer.close()


def test_a_closed_producer_takes_nothing_more(kafka: str) -> None:
    with Producer(kafka, pack_events=10) as producer:
        pass
    with pytest.raises(Stop, match="The producer is closed"):
        producer.send(event(1, "cus_1"))


@pytest.mark.parametrize("faulty", [{"pack_events": 0}, {"pack_events": 10_001}, {"pack_bytes": 0}])
def test_packs_that_no_intake_would_read_are_refused(faulty: dict[str, int]) -> None:
    with pytest.raises(Stop, match="pack_events is"):
        Producer("127.0.0.1:1", **faulty)  # type: ignore[arg-type]
