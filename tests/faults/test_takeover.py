"""Owners come, go, freeze and wake up again, and the broker dies: the totals stay exact."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

import pipeline.tally
from pipeline.record import Record
from schemas import topics
from streams.confluent import ConfluentClients
from streams.local_kafka import LocalKafka
from streams.tally import TallyStage
from streams.transact import Transactor
from tests.faults.deployment import SHARDS, Deployment
from tests.faults.stage_process import is_paused, start_summing
from tests.streams.on_kafka import committed, described, running, wait_until
from tests.streams.summing import Numbers, Summing

SEED = 5


@pytest.mark.parametrize("step", ["write", "commit"])
def test_an_owner_that_wakes_up_after_another_took_over_commits_nothing(
    bare_broker: LocalKafka, step: str
) -> None:
    """It froze in mid-transaction; awake again it drops its work and goes on as a new member."""
    with Deployment(bare_broker, events=700, seed=SEED) as deployment:
        deployment.start("intake")
        frozen = deployment.start("tally", instance="a", pause_before=step)
        deployment.send(400)
        wait_until(lambda: is_paused(frozen), "the owner has frozen")
        deployment.start("tally", instance="b")
        deployment.wait_until_done()
        os.kill(frozen.pid or 0, signal.SIGCONT)
        deployment.send(300)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []


@pytest.mark.parametrize("has_work", [True, False])
def test_an_owner_that_wakes_up_in_an_empty_group_trusts_nothing_that_it_has(
    kafka: str, monkeypatch: pytest.MonkeyPatch, has_work: bool
) -> None:
    """Another owner has come and gone: its work in hand and its state are of no use any more."""
    monkeypatch.setattr("streams.stage.SESSION_TIMEOUT_MS", 1_000)
    numbers = Numbers(kafka, stage := Summing(f"frozen-{has_work}"), partitions=1)
    numbers.send(5)
    frozen = start_summing(kafka, stage.name, pauses=has_work)
    assert frozen.pid is not None
    wait_until(numbers.done, "the first owner has confirmed all")
    if not has_work:
        os.kill(frozen.pid, signal.SIGSTOP)
    numbers.send(5)
    wait_until(lambda: is_paused(frozen), "the first owner has frozen")
    stop = threading.Event()
    second = Transactor(
        stage, ConfluentClients({"bootstrap.servers": kafka}), instance="second", stop=stop
    )
    with running(second, stop):
        wait_until(numbers.done, "the second owner has confirmed all")
    wait_until(lambda: is_empty(kafka, stage.name), "the group has forgotten the second owner")
    os.kill(frozen.pid, signal.SIGCONT)
    wait_until(lambda: not is_empty(kafka, stage.name), "the first owner is a member again")
    numbers.send(5)
    wait_until(numbers.done, "the first owner has confirmed the rest")
    frozen.kill()
    frozen.join()
    numbers.assert_exact()


def is_empty(kafka: str, stage: str) -> bool:
    admin = AdminClient({"bootstrap.servers": kafka})
    return bool(described(admin, stage).state == ConsumerGroupState.EMPTY)


def test_processes_join_and_leave_while_events_come(bare_broker: LocalKafka) -> None:
    with Deployment(bare_broker, events=900, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage)
        deployment.send(300)
        joined = [deployment.start(stage, instance="b") for stage in ("intake", "tally")]
        deployment.send(300)
        deployment.wait_until_done()
        for process in joined:
            deployment.end(process)
        deployment.send(300)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []


def test_stages_live_through_the_death_of_the_broker(bare_broker: LocalKafka) -> None:
    with Deployment(bare_broker, events=900, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage)
        for _ in range(2):
            deployment.send(300)
            bare_broker.kill()
            bare_broker.start()
        deployment.send(300)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []


def test_a_restart_of_tally_reads_its_last_snapshot_and_what_follows(
    bare_broker: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's offsets say where it begins, in every shard; what came before may be deleted."""
    monkeypatch.setattr(pipeline.tally, "_SNAPSHOT_IDS", 20)
    begins: dict[int, int] = {}

    class Watched(ConfluentClients):
        def read_to_end(self, topic: str, partition: int, begin: int) -> Iterator[Record]:
            begins[partition] = begin
            return super().read_to_end(topic, partition, begin)

    clients = Watched({"bootstrap.servers": bare_broker.address})
    with Deployment(bare_broker, events=1_000, seed=SEED) as deployment:
        deployment.start("intake", batch_max=20)
        for _ in range(2):
            stop = threading.Event()
            tally = Transactor(TallyStage(SHARDS), clients, instance="a", stop=stop, batch_max=2)
            with running(tally, stop):
                deployment.send(500)
                deployment.wait_until_done()
                noted = committed(bare_broker.address, "tally", topics.METERED.name)
            if not any(begins.values()):
                anchors = {shard: int(metadata) for shard, (_, metadata) in noted.items()}
        assert begins == anchors
        assert min(begins.values()) > 0
        assert len(begins) == SHARDS
        assert deployment.differences() == []
