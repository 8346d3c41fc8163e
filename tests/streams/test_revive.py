from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import Stop
from schemas.topics import EVENTS
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.read import read_to_end
from streams.revive import Reviver
from streams.topics import create_topics


def die(broker: LocalKafka) -> None:
    """Its owner does not know."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)


@pytest.fixture
def broker() -> Iterator[LocalKafka]:
    with LocalKafka() as broker:
        yield broker


def test_a_broker_that_dies_is_back_while_its_owner_waits_for_it(broker: LocalKafka) -> None:
    kafka = {"bootstrap.servers": broker.address}
    create_topics(kafka, [EVENTS])
    with Reviver(broker):
        with Producer(broker.address, kafka={"log_level": "0"}, timeout_seconds=30) as producer:
            die(broker)
            producer.send_raw(b"waits", key=b"cus_1")
        records = [
            record.value
            for partition in range(EVENTS.partitions)
            for record in read_to_end(kafka, EVENTS.name, partition)
        ]
    assert set(records) == {b"waits"}


def test_a_broker_that_cannot_come_back_says_so(broker: LocalKafka) -> None:
    def check_until_the_end() -> None:
        with Reviver(broker) as reviver:
            (broker.directory / "data" / "meta.properties").write_text("damaged")
            die(broker)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                reviver.check()
                time.sleep(0.1)

    with pytest.raises(Stop, match="The local Kafka does not run"):
        check_until_the_end()
