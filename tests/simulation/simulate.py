"""One seed: events, faults, healing, and what is wrong in the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import structlog

from pipeline import intake
from sinks.stripe import deliver as sink
from streams import deliver, session
from tests.simulation.checks import differences
from tests.simulation.deployment import Deployment
from tests.simulation.world import Faults, World

EVENTS = 40
_FAULTY_SECONDS = 90.0
_HEALING_SECONDS_MAX = 300.0


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    trace_hash: str
    #: What is wrong, as sentences.
    differences: list[str]
    trace: list[str] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    lives: int = 0


def simulate(seed: int, *, keeps_trace: bool = False) -> Outcome:
    """Safety first: faults strike while events come. Then liveness: all heals and must drain."""
    world = World(seed, keeps_trace=keeps_trace)
    world.faults = Faults.drawn(world.rng)
    pieces = mock.patch.multiple("pipeline.tally", _SNAPSHOT_IDS=8, _PIECE_IDS=2)
    parts = mock.patch.object(intake, "_EVENTS_AT_ONCE", 2)
    moving = [
        mock.patch.object(loop, "MOVE_ON_SECONDS", world.rng.choice((1.0, 5.0, 3_600.0)))
        for loop in (session, deliver)
    ]
    resting = mock.patch.object(sink, "_REST_SECONDS", 2.0)
    with pieces, parts, resting, moving[0], moving[1], _silence():
        deployment = Deployment(world, EVENTS)
        world.run(_FAULTY_SECONDS * world.rng.random())
        world.heal()
        healed_at = world.now
        while not (deployment.is_drained() or _failures(world)):
            if world.now > healed_at + _HEALING_SECONDS_MAX:
                break
            world.run(1)
        drained = deployment.is_drained()
        world.end()
    failures = _failures(world)
    if not drained and not failures:
        failures = [f"not drained {_HEALING_SECONDS_MAX:.0f} s after all was healed"]
    return Outcome(
        seed,
        world.trace_hash,
        failures + differences(deployment),
        world.trace,
        world.struck,
        world.effects,
        sum(process.lives for process in world.processes),
    )


@contextmanager
def _silence() -> Iterator[None]:
    """What loops warn of is what they are made to meet."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _failures(world: World) -> list[str]:
    return [
        f"{process.name} stopped: {process.failure}"
        for process in world.processes
        if process.failure is not None
    ]
