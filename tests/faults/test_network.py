"""The network between stages and broker goes wrong in every way: the totals stay exact."""

from __future__ import annotations

import time
from random import Random

import pytest

from streams.stage import member_of
from tests.faults.cluster import Cluster
from tests.faults.deployment import Deployment
from tests.faults.kafka_proxy import END_TXN, KafkaProxy
from tests.faults.stage_process import Life
from tests.streams.on_kafka import wait_until

SEED = 23


def test_connections_are_reset_again_and_again(proxied: Cluster, proxy: KafkaProxy) -> None:
    """Also in the middle of an answer."""
    rng = Random(SEED)
    with Deployment(proxied, events=1_500, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage, address=proxy.address)
        deployment.send(100)
        deployment.wait_until_done()
        # A stage that begins anew has no connection for a while.
        while deployment.send(50):
            wait_until(lambda: proxy.reset(rng) > 0, "there was one to reset")
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []


def test_a_process_that_is_cut_off_is_replaced_and_comes_back_as_a_zombie(
    proxied: Cluster, proxy: KafkaProxy
) -> None:
    """Its connections stay open and nobody answers; in the end it may speak again."""
    with Deployment(proxied, events=900, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage, address=proxy.address)
        deployment.send(300)
        deployment.wait_until_done()
        for stage in ("intake", "tally"):
            proxy.cut_off(member_of(stage, "a"))
            deployment.start(stage, address=proxy.address, instance="b")
        deployment.send(300)
        deployment.wait_until_done()
        proxy.heal()
        deployment.send(300)
        deployment.wait_until_done()
        assert deployment.differences() == []


def test_nothing_passes_for_longer_than_a_session_and_a_transaction_last(
    proxied: Cluster, proxy: KafkaProxy
) -> None:
    with Deployment(proxied, events=900, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage, address=proxy.address)
        deployment.send(300)
        deployment.wait_until_done()
        deployment.send(300)
        proxy.black_hole()
        time.sleep(2 * Life.transaction_timeout_ms / 1000)
        assert not deployment.is_done(), "something passed"
        proxy.heal()
        deployment.send(300)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []


@pytest.mark.parametrize("seconds", [0.5, 1.5 * Life.transaction_timeout_ms / 1000])
def test_the_end_of_transactions_is_delayed(
    proxied: Cluster, proxy: KafkaProxy, seconds: float
) -> None:
    """Up to when the broker has ended them by itself: then none of them counts."""
    with Deployment(proxied, events=900, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage, address=proxy.address)
        deployment.send(300)
        deployment.wait_until_done()
        before = proxy.requests[END_TXN]
        proxy.end_txn_seconds = seconds
        deployment.send(400)
        wait_until(lambda: proxy.requests[END_TXN] >= before + 3, "three were delayed")
        proxy.heal()
        deployment.send(200)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []
