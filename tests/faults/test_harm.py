"""What the runner of campaigns does about a broker that is wrong about who lives."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

from schemas import topics
from streams.confluent import ConfluentClients
from tests.faults.cluster import Cluster
from tests.faults.fleet import Fleet, Member
from tests.faults.harm import Harm, StripeTrouble
from tests.faults.kafka_proxy import KafkaProxy
from tests.streams import either_kafka
from tests.streams.either_kafka import poll_until
from tests.streams.on_kafka import create


def test_a_broker_that_counts_a_dead_member_is_started_again(
    proxied: Cluster, proxy: KafkaProxy, tmp_path: Path
) -> None:
    create(proxied.address, 1, topics.EVENTS.name)
    clients = ConfluentClients({"bootstrap.servers": proxied.address})
    member = either_kafka.Member(clients, "intake", "storm.8p", topics.EVENTS.name)
    poll_until(clients, lambda: member.times_assigned == 1, member)
    fleet = Fleet({}, tmp_path)
    harm = Harm(Random(1), proxied, proxy, fleet, StripeTrouble(1), tmp_path / "faults.log")
    before = proxied.pids
    living = Member("intake", "storm", cast(Any, None), 0.0)
    fleet.members.append(living)
    harm.free_what_the_dead_hold()
    assert proxied.pids == before
    fleet.members.remove(living)
    harm.free_what_the_dead_hold()
    assert proxied.pids != before
    assert harm.tally.faults == {"dead member": 1}
    member.consumer.close()
