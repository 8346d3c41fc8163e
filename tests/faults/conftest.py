"""Brokers for tests that bring their own size of deployment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import topics
from streams.local_kafka import LocalKafka
from streams.topics import create_topics
from tests.faults.cluster import Cluster
from tests.faults.hostile import SHARDS
from tests.faults.kafka_proxy import KafkaProxy


@pytest.fixture
def bare_broker() -> Iterator[LocalKafka]:
    """A broker of the test's own without a topic, to fill, kill and start again."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def address(bare_kafka: str) -> str:
    """Of a broker with the catalogue's topics, all of them empty, and groups that know nothing."""
    sized = topics.sized(shards=SHARDS, event_partitions=1)
    create_topics({"bootstrap.servers": bare_kafka}, sized, keep_for_ever=True)
    return bare_kafka


@pytest.fixture
def proxy() -> Iterator[KafkaProxy]:
    with KafkaProxy() as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: KafkaProxy, tmp_path: Path) -> Iterator[Cluster]:
    """A broker; who asks at the proxy's address never reaches it otherwise."""
    with Cluster(tmp_path / "kafka", proxy) as cluster:
        yield cluster
