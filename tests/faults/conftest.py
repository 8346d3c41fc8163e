"""Brokers for tests that bring their own size of deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from schemas import topics
from streams.local_kafka import LocalKafka
from streams.topics import create_topics
from tests.faults.cluster import Cluster
from tests.faults.hostile import SHARDS
from tests.faults.kafka_proxy import KafkaProxy
from tests.streams.on_kafka import wait_until


@pytest.fixture
def bare_broker() -> Iterator[LocalKafka]:
    """A broker of the test's own without a topic, to fill, kill and start again."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture(scope="module")
def module_broker() -> Iterator[LocalKafka]:
    """One broker for the tests of a module."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def address(module_broker: LocalKafka) -> str:
    """Of a broker with the catalogue's topics, all of them empty, and groups that know nothing."""
    kafka = {"bootstrap.servers": module_broker.address}
    admin = AdminClient(dict(kafka))
    known = admin.list_topics(timeout=10).topics
    ours = [topic.name for topic in topics.CATALOGUE if topic.name in known]
    for deleted in admin.delete_topics(ours).values() if ours else ():
        deleted.result(10)
    wait_until(lambda: not set(ours) & admin.list_topics(timeout=10).topics.keys(), "they are gone")
    sized = topics.sized(shards=SHARDS, event_partitions=1)
    create_topics(kafka, sized, keep_for_ever=True)
    return module_broker.address


@pytest.fixture
def proxy() -> Iterator[KafkaProxy]:
    with KafkaProxy() as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: KafkaProxy, tmp_path: Path) -> Iterator[Cluster]:
    """A broker; who asks at the proxy's address never reaches it otherwise."""
    with Cluster(tmp_path / "kafka", proxy) as cluster:
        yield cluster
