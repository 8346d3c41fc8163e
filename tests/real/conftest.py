"""Brokers of the official image, wherever a Docker engine answers."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from streams.local_kafka import free_port

IMAGE = "apache/kafka:4.1.0"

# One variable replaces the image's whole default configuration, so this is all of it.
SETTINGS = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
}


@pytest.fixture
def docker_kafka() -> Iterator[str]:
    """The address of a broker that testcontainers runs from the `apache/kafka` image.

    testcontainers' own `KafkaContainer` speaks another vendor's image interface. The broker
    advertises the host's port and must itself listen on it as well: it sends the markers that end
    a transaction to its own advertised address.
    """
    try:
        engine = docker.from_env()
        engine.ping()
    except DockerException:
        pytest.skip("no Docker engine answers")
    try:
        engine.images.get(IMAGE)
    except ImageNotFound:
        try:
            engine.images.pull(IMAGE)
        except DockerException as error:
            pytest.skip(f"a Docker engine answers, but it cannot have {IMAGE}: {error}")
    # Its cleaner for killed runs is one more image to have; this fixture stops what it starts.
    testcontainers_config.ryuk_disabled = True
    port = free_port()
    address = f"127.0.0.1:{port}"
    container = DockerContainer(IMAGE).with_bind_ports(port, port)
    container.with_envs(
        **SETTINGS,
        KAFKA_LISTENERS=f"PLAINTEXT://:{port},CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{address}",
    )
    with container.waiting_for(LogMessageWaitStrategy("Kafka Server started")):
        yield address
