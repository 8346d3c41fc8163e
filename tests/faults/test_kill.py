"""kill -9 of intake and tally, again and again: every event counts once, every alert comes once."""

from __future__ import annotations

from random import Random

import pytest

from streams.local_kafka import LocalKafka
from tests.faults.deployment import Deployment
from tests.faults.stage_process import BUGS
from tests.streams.on_kafka import wait_until

SEED = 11


def play(deployment: Deployment, *, deaths_max: int, kills: int = 0) -> None:
    """Send everything while processes die, by themselves and by our hand; restart each of them."""
    rng = Random(SEED)
    while deployment.send(150):
        if kills and rng.random() < 0.5:
            kills -= 1
            deployment.kill_one(rng)
        deployment.revive(deaths_max=deaths_max)

    def done() -> bool:
        deployment.revive(deaths_max=deaths_max)
        return deployment.is_done()

    wait_until(done, "everything is confirmed")


def test_totals_alerts_and_decisions_are_exact_after_every_kill(broker: LocalKafka) -> None:
    """Deaths come between every two steps of a transaction, and from outside at any moment."""
    with Deployment(broker, events=2_000, seed=SEED) as deployment:
        deployment.start("intake", dies_within=4)
        deployment.start("tally", dies_within=4)
        play(deployment, deaths_max=14, kills=4)
        assert deployment.deaths >= 14
        assert deployment.stops == 0
        assert deployment.differences() == []


@pytest.mark.parametrize(
    ("stage", "bug"),
    [
        ("intake", "offsets are committed before the outputs"),
        ("tally", "a restore forgets identities"),
        ("tally", "alerts are written outside the transaction"),
    ],
)
def test_the_kills_find_a_planted_bug(broker: LocalKafka, stage: str, bug: str) -> None:
    assert bug in BUGS
    with Deployment(broker, events=1_200, seed=SEED) as deployment:
        for each in ("intake", "tally"):
            deployment.start(
                each,
                dies_within=4 if each == stage else 0,
                bug=bug if each == stage else "",
            )
        play(deployment, deaths_max=6)
        assert deployment.deaths >= 6
        assert deployment.differences() != []
