"""What was told of on usage.discrepancies is read back, and only that."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer

from pipeline.errors import Stop
from schemas import topics
from schemas.discrepancy import Discrepancy
from streams.discrepancies import open_discrepancies, publish
from tests.streams.on_kafka import create

TOLD = Discrepancy(
    key="stored/0/accepted",
    link="stored",
    sentence="It differs.",
    expected="2",
    found="1",
    state="open",
    at=datetime(2026, 11, 20, tzinfo=UTC),
)


def test_what_was_told_is_read_back_and_a_foreign_record_is_named(bare_kafka: str) -> None:
    connection = {"bootstrap.servers": bare_kafka}
    create(bare_kafka, 1, topics.DISCREPANCIES.name)
    resolved = TOLD.model_copy(update={"key": "stored/1/accepted", "state": "resolved"})
    publish(connection, [TOLD, resolved])
    assert open_discrepancies(connection) == {TOLD.key: TOLD}
    producer = Producer(connection)
    producer.produce(topics.DISCREPANCIES.name, b"garbage", b"key")
    assert producer.flush(60) == 0
    with pytest.raises(Stop, match=r"usage\.discrepancies-0 at offset 2 is no discrepancy") as stop:
        open_discrepancies(connection)
    assert "only Meterline writes to this topic" in stop.value.remedy
