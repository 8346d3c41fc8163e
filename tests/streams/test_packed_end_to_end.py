"""On a real Kafka: a producer packs, intake takes apart, tally counts; a broken event is alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import confluent_kafka
import pytest

from pipeline import intake as intake_module
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing
from pipeline.reject import open_letter
from schemas import topics
from schemas.total import read_totals
from schemas.usage_event import PACKED
from streams.backlog import backlog
from streams.chain import Tail
from streams.confluent import ConfluentClients
from streams.confluent_writers import ConfluentTransactions
from streams.intake import IntakeStage
from streams.producer import Producer
from streams.tally import TallyStage
from streams.transact import Transactor
from tests.pipeline.usage_log import TOKENS, event
from tests.streams.on_kafka import read, running, wait_until

EVENTS = 3_000


def test_packed_events_are_counted_once_each_and_a_broken_one_is_alone(empty_kafka: str) -> None:
    with Producer(empty_kafka, pack_events=100, linger_ms=60_000) as producer:
        for number in range(EVENTS):
            customer = f"cus_{number % 13}"
            value = event(str(number), subject=customer, data={"n": number, "model": "m"})
            if number == 1_500:
                value = b'{"specversion":"1.0","subject":"cus_5"}'
            producer.send_raw(value, key=customer.encode())
            if number % 10 == 0:
                producer.send_raw(value, key=customer.encode())
    stop = threading.Event()
    stages = (IntakeStage(TOKENS), TallyStage())
    kafka = {"bootstrap.servers": empty_kafka}
    intake, tally = (
        Transactor(stage, ConfluentClients(kafka), instance="t", stop=stop) for stage in stages
    )
    with running(intake, stop), running(tally, stop):
        for stage, topic in (("intake", topics.EVENTS), ("tally", topics.METERED)):
            wait_until(lambda s=stage, t=topic: not backlog(kafka, s, [t.name]), f"{stage} is done")  # type: ignore[misc]
    totals: dict[str, str] = {}
    # Waits for what is committed and not decided in every partition yet.
    tail = Tail(kafka)
    for record in tail.read(topics.TOTALS.name):
        totals |= {total.customer: total.value for total in read_totals(open_frame(record))}
    expected: Counter[str] = Counter()
    for number in range(EVENTS):
        expected[f"cus_{number % 13}"] += number if number != 1_500 else 0
    assert totals == {customer: str(total) for customer, total in expected.items()}
    letters = [open_letter(record) for record in tail.read(topics.REJECTED.name)]
    assert [letter.reason for letter in letters] == ["missing_attribute"] * 2
    assert {letter.original.value for letter in letters} == {
        b'{"specversion":"1.0","subject":"cus_5"}'
    }
    assert len({letter.position for letter in letters}) == 2
    assert len(read(empty_kafka, topics.EVENTS.name)) < EVENTS / 10


def test_what_a_few_records_hold_is_taken_in_by_as_many_transactions_as_it_needs(
    empty_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile producer needs two bytes for a rejection; a transaction must end all the same."""
    monkeypatch.setattr(intake_module, "_EVENTS_AT_ONCE", 1_000)
    sizes: list[int] = []
    write = ConfluentTransactions.write

    def counting(self: ConfluentTransactions, outgoing: Sequence[Outgoing]) -> Any:
        sizes.append(len(outgoing))
        return write(self, outgoing)

    monkeypatch.setattr(ConfluentTransactions, "write", counting)
    kafka = {"bootstrap.servers": empty_kafka}
    producer = confluent_kafka.Producer(kafka | {"enable.idempotence": True, "linger.ms": 500})
    for _ in range(10):
        elements = b"[" + b",".join([b"0"] * 400) + b"]"
        producer.produce(
            topics.EVENTS.name, elements, partition=3, headers={"content-type": PACKED}
        )
    assert producer.flush(60) == 0
    stop = threading.Event()
    intake = Transactor(IntakeStage(TOKENS), ConfluentClients(kafka), instance="t", stop=stop)
    with running(intake, stop):
        wait_until(lambda: not backlog(kafka, "intake", [topics.EVENTS.name]), "intake is done")
    letters = [open_letter(record) for record in Tail(kafka).read(topics.REJECTED.name)]
    assert len(letters) == len({letter.position for letter in letters}) == 4_000
    # The first one is the definitions.
    assert max(sizes[1:]) <= 1_000
    assert sum(sizes[1:]) == 4_000
