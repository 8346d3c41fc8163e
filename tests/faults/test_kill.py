"""kill -9 at random, again and again: every event counts once, every alert comes once."""

from __future__ import annotations

import time
from random import Random

import pytest

from streams.local_kafka import LocalKafka
from tests.faults.deployment import Deployment

SEED = 11


def play(deployment: Deployment, *, deaths_max: int, kills: int = 0) -> None:
    """Send everything while processes die, by themselves and by our hand; restart each of them."""
    rng = Random(SEED)
    while deployment.send(100):
        if kills and rng.random() < 0.5:
            kills -= 1
            deployment.kill_one(rng)
        deployment.revive(deaths_max=deaths_max)
    while not deployment.is_done() and not deployment.stops:
        for _ in range(25):
            deployment.revive(deaths_max=deaths_max)
            time.sleep(0.02)


def test_totals_alerts_and_decisions_are_exact_after_every_kill(bare_broker: LocalKafka) -> None:
    """Deaths come between every two steps of a transaction, and from outside at any moment."""
    with Deployment(bare_broker, events=2_000, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage, dies_within=3)
        play(deployment, deaths_max=14, kills=4)
        assert deployment.deaths >= 8
        assert deployment.stops == 0
        assert deployment.differences() == []


@pytest.mark.parametrize(
    ("stage", "bug", "trace"),
    [
        ("intake", "offsets are committed before the outputs", "was taken in 0 times"),
        ("tally", "a restore forgets identities", "accepted, not"),
        ("tally", "alerts are written outside the transaction", "2 times, not 1"),
    ],
)
def test_the_kills_find_a_planted_bug(
    bare_broker: LocalKafka, stage: str, bug: str, trace: str
) -> None:
    with Deployment(bare_broker, events=800, seed=SEED) as deployment:
        deployment.start("tally" if stage == "intake" else "intake")
        deployment.start(stage, dies_within=3, bug=bug)
        play(deployment, deaths_max=6)
        assert deployment.deaths
        assert trace in "\n".join(deployment.differences())


def test_the_kills_find_a_planted_bug_of_a_sink(bare_broker: LocalKafka) -> None:
    """What was confirmed before the sink had it is missing there after a death."""
    with Deployment(bare_broker, events=300, seed=SEED) as deployment:
        for stage in ("intake", "tally"):
            deployment.start(stage)
        bug = "positions are committed before the sink has written"
        # One batch may be of totals only, which newer ones replace: not three in a row.
        deployment.start("clickhouse", [("before sink.write", 1)] * 3, bug=bug)
        while deployment.send(100):
            deployment.revive(deaths_max=6)
        # Not until all is done: what it skipped may leave the sink waiting for its other half.
        give_up = time.monotonic() + 20
        while not deployment.is_done() and not deployment.stops and time.monotonic() < give_up:
            deployment.revive(deaths_max=6)
            time.sleep(0.2)
        assert deployment.died_at().keys() == {"clickhouse: before sink.write"}
        assert "0 times, not 1" in "\n".join(deployment.differences())
