"""What a client gave up and sent again reaches the broker late, within the next transaction."""

from __future__ import annotations

import pytest

from pipeline.record import Outgoing
from streams.clients import Committed
from streams.confluent import ConfluentClients
from streams.stage import member_of
from tests.faults.cluster import Cluster
from tests.faults.deployment import Deployment
from tests.faults.kafka_proxy import (
    END_TXN,
    TXN_OFFSET_COMMIT,
    KafkaProxy,
    Straggler,
)
from tests.streams.either_kafka import Member, poll_until
from tests.streams.on_kafka import WAIT_SECONDS_MAX, create, read, wait_until

SEED = 41
PLACE = ("late", 0)


@pytest.mark.parametrize("api_key", [END_TXN, TXN_OFFSET_COMMIT])
def test_it_decides_nothing_there(proxied: Cluster, proxy: KafkaProxy, api_key: int) -> None:
    """Nothing is seen before it is committed, no position goes back. Also not the third time."""
    create(proxied.address, 1, "late", "late.out")
    direct = ConfluentClients({"bootstrap.servers": proxied.address})
    member = Member(direct, "late", "a", "late")
    poll_until(direct, lambda: member.times_assigned == 1, member)
    clients = ConfluentClients({"bootstrap.servers": proxy.address})
    writer = clients.transactional_writer("late", "b")
    writer.fence()
    straggler = None
    written: list[bytes | None] = []
    for number in range(1, 5):
        writer.begin()
        writer.write([Outgoing("late.out", b"%d" % number, partition=0)])
        if straggler is not None and api_key == END_TXN:
            proxy.let_arrive(straggler)
            assert straggler.answered.wait(WAIT_SECONDS_MAX)
            assert [record.value for record in read(proxied.address, "late.out")] == written
            straggler = None
        earlier, straggler = straggler, Straggler(member_of("late", "b"), api_key)
        proxy.hold_up(straggler)
        writer.send_offsets({PLACE: Committed(number)}, member.consumer.membership())
        if earlier is not None:
            proxy.let_arrive(earlier)
            assert earlier.answered.wait(WAIT_SECONDS_MAX)
        writer.commit()
        assert straggler.left.is_set()
        written.append(b"%d" % number)
        assert [record.value for record in read(proxied.address, "late.out")] == written
        assert member.consumer.committed([PLACE]) == {PLACE: Committed(number)}
    member.consumer.close()


def test_a_process_that_dies_in_a_transaction_that_a_late_request_could_end(
    proxied: Cluster, proxy: KafkaProxy
) -> None:
    """What it had written by then would be seen, and be written again by its next life."""
    with Deployment(proxied, events=300, seed=SEED) as deployment:
        deaths = [("before transaction.send_offsets", 3)]
        deployment.start("intake", deaths, address=proxy.address)
        deployment.start("tally")
        deployment.send(1)
        deployment.wait_until_done()
        straggler = Straggler(member_of("intake", "a"), END_TXN)
        proxy.hold_up(straggler)
        deployment.send(1)
        deployment.wait_until_done()
        assert straggler.left.is_set()
        deployment.send(1)
        wait_until(lambda: not deployment.are_all_alive(), "it died")
        proxy.let_arrive(straggler)
        assert straggler.answered.wait(WAIT_SECONDS_MAX)
        deployment.revive(deaths_max=0)
        deployment.send(297)
        deployment.wait_until_done()
        assert deployment.differences() == []
