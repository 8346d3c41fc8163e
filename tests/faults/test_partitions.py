"""usage.events gets more partitions while stages run: every event counts, in old and new ones."""

from __future__ import annotations

import pytest

from streams.local_kafka import LocalKafka
from tests.faults.deployment import Deployment
from tests.streams.on_kafka import read

SEED = 41
MORE = 8


@pytest.mark.parametrize("is_killed", [False, True])
def test_events_in_new_partitions_are_counted(bare_broker: LocalKafka, is_killed: bool) -> None:
    """By the process that runs, and by one that starts again and has its old share back at once."""
    with Deployment(bare_broker, events=900, seed=SEED) as deployment:
        intake, _ = (deployment.start(stage) for stage in ("intake", "tally"))
        deployment.send(300)
        deployment.repartition(MORE)
        if is_killed:
            intake.kill()
            intake.join()
            deployment.revive(deaths_max=0)
        deployment.send(600)
        deployment.wait_until_done()
        filled = {record.partition for record in read(bare_broker.address, "usage.events")}
        assert len(filled) > MORE // 2
        assert deployment.are_all_alive()
        assert deployment.differences() == []
