"""What the client library raises, as those who call it can handle it."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import Stop
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from streams.failures import Patience, untangled
from streams.topics import shards_of
from tests.streams.recording import Recording

#: A user is missing.
REFUSED = {
    "bootstrap.servers": "localhost:1",
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
}


def call_back(raised: BaseException | None) -> None:
    """What Python says of a callback that was made while an error was raised already."""
    raise SystemError("<function acknowledged> returned a result with an exception set") from raised


def test_a_fatal_error_is_told_from_the_callback_that_it_met() -> None:
    fenced = KafkaException(KafkaError(KafkaError._FENCED))
    with pytest.raises(KafkaException) as raised, untangled():
        call_back(fenced)
    assert raised.value is fenced


@pytest.mark.parametrize("raised", [None, ValueError("a callback's own")])
def test_what_is_no_error_of_kafka_stays_as_it_is(raised: BaseException | None) -> None:
    with pytest.raises(SystemError, match="acknowledged"), untangled():
        call_back(raised)


def test_settings_that_the_client_refuses_are_not_tried_again() -> None:
    clients, stop = ConfluentClients(REFUSED), threading.Event()
    sink = Deliverer("refused", Recording("t"), clients, instance="a", stop=stop, linger_ms=1)
    with pytest.raises(Stop, match="sink refused: Kafka's client refuses its settings"):
        sink.run()
    with pytest.raises(Stop, match="Kafka on localhost:1: Kafka's client refuses its settings"):
        shards_of(REFUSED)


class Seconds:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(1000 * self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def fenced_each(seconds: float, times: int) -> None:
    """Another process seems to have the same name, again and again."""
    clock = Seconds()
    patience = Patience("stage bill", clock)
    for _ in range(times):
        clock.sleep(seconds)
        patience.stop_if_hopeless(KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID)))


def test_brokers_that_are_restarted_one_after_the_other_stop_nobody() -> None:
    """A group whose broker was away takes its members for others of their name."""
    fenced_each(seconds=30, times=5)
    fenced_each(seconds=120, times=50)


def test_two_processes_of_one_name_are_told_so() -> None:
    with pytest.raises(Stop, match="Another process runs as the same instance"):
        fenced_each(seconds=3, times=10)
