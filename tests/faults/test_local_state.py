"""tally is killed, its local state is damaged, and it comes back: every event counts once."""

from __future__ import annotations

from pathlib import Path
from random import Random

from schemas import topics
from streams.local_kafka import LocalKafka
from tests.faults.deployment import SHARDS, Deployment
from tests.streams.test_mirrored import DAMAGES

SEED = 17
EVENTS, ROUNDS = 1_500, 6


def test_totals_are_exact_though_local_state_is_damaged_before_every_restart(
    bare_broker: LocalKafka, tmp_path: Path
) -> None:
    """Some restarts come while events wait, some when all is done."""
    rng = Random(SEED)
    files = [tmp_path / f"{topics.TALLY_STATE.name}-{shard}" for shard in range(SHARDS)]
    damaged = 0
    with Deployment(bare_broker, events=EVENTS, seed=SEED) as deployment:
        deployment.start("intake", batch_max=20)
        for number in range(ROUNDS):
            tally = deployment.start("tally", state_directory=str(tmp_path))
            deployment.send(EVENTS // ROUNDS)
            if number % 3:
                deployment.wait_until_done()
            tally.kill()
            tally.join()
            for path in files:
                if path.exists() and path.stat().st_size:
                    rng.choice(DAMAGES)(path, rng)
                    damaged += 1
        tally = deployment.start("tally", state_directory=str(tmp_path))
        deployment.wait_until_done()
        assert tally.exitcode is None
        assert damaged > ROUNDS
        assert deployment.differences() == []
