"""On a real Kafka: a producer packs, intake takes apart, tally counts; a broken event is alone."""

from __future__ import annotations

import threading
from collections import Counter

from pipeline.open_frame import open_frame
from pipeline.reject import open_letter
from schemas import topics
from schemas.total import read_totals
from streams.backlog import backlog
from streams.chain import Tail
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.tally import TallyStage
from streams.transact import Transactor
from tests.pipeline.usage_log import TOKENS, event
from tests.streams.on_kafka import read, running, wait_until

EVENTS = 3_000


def test_packed_events_are_counted_once_each_and_a_broken_one_is_alone(broker: LocalKafka) -> None:
    address = broker.address
    with Producer(address, pack_events=100, linger_ms=60_000) as producer:
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
    intake, tally = (
        Transactor(stage, ConfluentClients({"bootstrap.servers": address}), instance="t", stop=stop)
        for stage in stages
    )
    kafka = {"bootstrap.servers": address}
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
    assert len(read(address, topics.EVENTS.name)) < EVENTS / 10
