"""What a cluster says of itself, also to those who may not ask."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import MeterlineError, Stop
from streams.cluster import look_at, require_topic
from streams.confluent import ConfluentClients
from streams.read import partition_count
from streams.topics import shards_of
from tests.streams.guarded_kafka import GuardedKafka
from tests.streams.on_kafka import create

Ask = Callable[[Mapping[str, str], str], object]

#: Whoever asks about a topic.
ASKED: list[Ask] = [
    partition_count,
    require_topic,
    lambda kafka, topic: look_at(kafka, [topic], 5),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for an answer."""
    for seconds in ("confluent_calls.ANSWER_SECONDS", "read._ANSWER_SECONDS"):
        monkeypatch.setattr(f"streams.{seconds}", 5.0)
    monkeypatch.setattr("streams.topics._ANSWER_SECONDS_MAX", 5.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("ask", [*ASKED, lambda kafka, _: shards_of(kafka)])
def test_a_wrong_password_is_said_to_be_wrong(guarded: GuardedKafka, ask: Ask) -> None:
    with pytest.raises(Stop, match="refused the credentials") as stop:
        ask(guarded.login("nobody", "wrong"), "cluster.any")
    assert "METERLINE_SASL_PASSWORD" in stop.value.remedy


def test_a_mechanism_that_kafka_does_not_have_is_said(guarded: GuardedKafka) -> None:
    wrong = guarded.login("nobody") | {"sasl.mechanism": "SCRAM-SHA-512"}
    with pytest.raises(Stop, match="supported mechanisms: PLAIN") as stop:
        require_topic(wrong, "cluster.any", 5)
    assert "METERLINE_SASL_MECHANISM" in stop.value.remedy


@pytest.mark.usefixtures("impatient")
def test_a_loop_is_told_that_its_password_is_wrong(guarded: GuardedKafka) -> None:
    with pytest.raises(KafkaException) as error:
        ConfluentClients(guarded.login("nobody", "wrong")).partition_counts()
    assert error.value.args[0].code() == KafkaError._AUTHENTICATION


def test_what_does_not_encrypt_is_told_with_the_setting_that_says_so() -> None:
    """The client library takes it for a failed handshake, or now and then for a lost connection."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=_answer_in_plain_text, args=(plain,), daemon=True).start()
        address = f"127.0.0.1:{plain.getsockname()[1]}"
        encrypted = {"bootstrap.servers": address, "security.protocol": "SSL"}
        with pytest.raises(
            MeterlineError, match=r"No encrypted connection|does not answer"
        ) as told:
            require_topic(encrypted, "cluster.any", 5)
    assert "METERLINE_SECURITY_PROTOCOL" in told.value.remedy


def _answer_in_plain_text(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, suppress(ConnectionResetError):
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65_536)


@pytest.mark.parametrize("ask", ASKED)
def test_a_topic_that_is_denied_is_not_said_to_be_missing(guarded: GuardedKafka, ask: Ask) -> None:
    with pytest.raises(Stop, match=r"may not use a topic\. \(cluster\.denied\)") as stop:
        ask(guarded.login("nobody"), "cluster.denied")
    assert "Grant the rights" in stop.value.remedy


def test_a_topic_that_is_granted_is_counted(guarded: GuardedKafka) -> None:
    create(guarded.address, 3, "cluster.granted")
    guarded.allow("writer", ("topic", "cluster.granted", "describe"))
    assert require_topic(guarded.login("writer"), "cluster.granted") == 3
