"""What tests of Kafka loops are given: the real Kafka and the simulated one, in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.streams.either_kafka import Kafka, RealKafka, SimulatedKafka


@pytest.fixture(params=["real", "simulated"])
def kafka_either(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kafka]:
    """Both, one after the other."""
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 2_000)
    if request.param == "real":
        yield RealKafka(request.getfixturevalue("kafka"))
    else:
        yield SimulatedKafka()
