"""What tests of Kafka loops are given: the real Kafka and the simulated one, or one with rights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.streams.either_kafka import Kafka, RealKafka, SimulatedKafka
from tests.streams.guarded_kafka import GuardedKafka, guarded_kafka


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


@pytest.fixture(scope="session")
def guarded() -> Iterator[GuardedKafka]:
    """One broker with passwords and rights for the whole session: name topics uniquely."""
    with guarded_kafka() as kafka:
        yield kafka
