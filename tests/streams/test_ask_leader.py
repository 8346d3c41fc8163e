"""A question about offsets waits while a partition has no leader, and no longer than it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import ask_leader
from streams.ask_leader import answered


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_leader, "_PAUSE_SECONDS", 0.01)


def answers_after(*codes: int) -> Callable[[], str]:
    """A question that is answered with these errors first."""
    errors = list(codes)

    def ask() -> str:
        if errors:
            raise KafkaException(KafkaError(errors.pop(0)))
        return "offsets"

    return ask


def test_a_leader_that_changes_is_waited_for() -> None:
    ask = answers_after(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
    assert answered(ask) == "offsets"


def test_a_coordinator_that_changes_is_waited_for() -> None:
    ask = answers_after(KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    assert answered(ask) == "offsets"


def test_a_broker_that_does_not_know_a_new_topic_is_waited_for() -> None:
    assert answered(answers_after(KafkaError._UNKNOWN_PARTITION)) == "offsets"


def test_a_partition_that_stays_without_a_leader_is_an_error() -> None:
    with pytest.raises(KafkaException, match="LEADER_NOT_AVAILABLE"):
        answered(answers_after(*[KafkaError.LEADER_NOT_AVAILABLE] * 1_000), within_seconds=0.1)


def test_another_error_is_raised_at_once() -> None:
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        answered(answers_after(KafkaError.TOPIC_AUTHORIZATION_FAILED))
