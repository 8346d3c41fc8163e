"""kill -9 between every two effects of every stage: whatever dies there, no number changes."""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

from pipeline.record import Sink
from streams.clients import GroupConsumer, TransactionalWriter, Writer
from streams.local_kafka import LocalKafka
from tests.faults.crash_points import POINTS, effects, is_once
from tests.faults.deployment import Deployment

SEED = 31


def deaths_of(stage: str) -> list[tuple[str, int]]:
    """Before and amid each effect in two lives in a row, at its first time and at its second.

    After an effect is before the next one: one life is enough.
    """
    return [
        (point, number)
        for point in POINTS[stage]
        for number in ((1,) if point.startswith("after ") else (1, 1) if is_once(point) else (1, 2))
    ]


def prepare(deployment: Deployment) -> None:
    """Have work for every stage, which would else wait until those before it have died enough."""
    # In small batches, so that there are many.
    first = [deployment.start("intake", batch_max=20), deployment.start("tally", batch_max=1)]
    deployment.send(600)
    deployment.wait_until_done()
    for process in first:
        deployment.end(process)


def play(deployment: Deployment) -> None:
    """Let events flow until every planned death has been died, and then until all is done."""
    give_up = time.monotonic() + 300
    while deployment.has_deaths_to_come():
        assert time.monotonic() < give_up, deployment.died_at()
        assert deployment.send(5), "there are more points than events"
        deployment.revive(deaths_max=0)
        time.sleep(0.05)
    deployment.wait_until_done()


def test_every_stage_may_die_at_every_point(bare_broker: LocalKafka) -> None:
    """All five die side by side, so that each restarts among others that are dead."""
    planned = {stage: deaths_of(stage) for stage in POINTS}
    with Deployment(bare_broker, events=20_000, seed=SEED) as deployment:
        prepare(deployment)
        for stage, deaths in planned.items():
            deployment.start(stage, deaths)
        play(deployment)
        assert deployment.died_at() == Counter(
            f"{stage}: {point}" for stage, deaths in planned.items() for point, _ in deaths
        )
        assert deployment.stops == 0
        assert deployment.differences() == []


def test_every_effect_of_a_protocol_is_a_point() -> None:
    """Also one that is added later: what a loop may do outside, it may die of."""
    assert effects(TransactionalWriter) == (
        "fence",
        "begin",
        "write",
        "send_offsets",
        "commit",
        "abort",
    )
    assert effects(GroupConsumer) == ("subscribe", "commit", "close")
    assert effects(Writer) == effects(Sink) == ("write",)

    class Later(Writer, Protocol):
        def rename(self) -> None: ...

    assert effects(Later) == ("rename",)
    for stage, points in POINTS.items():
        assert len(set(points)) == len(points), stage
