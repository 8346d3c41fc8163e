"""A cluster of three brokers loses one after the other: the totals stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.deployment import Deployment
from tests.faults.kafka_proxy import KafkaProxy
from tests.streams.on_kafka import wait_until

BROKERS = 3
SEED = 31


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    with KafkaProxy(BROKERS) as proxy, Cluster(tmp_path, proxy) as cluster:
        yield cluster


def test_each_broker_of_three_dies_once(three: Cluster) -> None:
    """Others take over its partitions, its transactions and its groups, and give them back."""
    with Deployment(three, events=400 + 200 * BROKERS, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage)
        deployment.send(200)
        for _ in range(BROKERS):
            wait_until(three.is_whole, "no partition lacks a copy")
            deployment.send(100)
            three.kill()
            deployment.send(100)
            three.revive()
        deployment.send(200)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []
