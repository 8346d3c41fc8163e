"""Stages and the broker are killed while events are played; nothing may be lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.real.playing import demo_events, differences, play

KILLS = 8


def stages_of(demo: int) -> list[int]:
    """The process ids of the demo's stages, and of its broker."""
    children = Path(f"/proc/{demo}/task/{demo}/children").read_text().split()
    return [
        int(child)
        for child in children
        if any(mark in command_of(child) for mark in (b"\0run\0", b"kafka.Kafka"))
    ]


def command_of(process: str) -> bytes:
    """Nothing once the process has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_kill_9_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    chance = random.Random(1)
    killed = []

    def kill_some(demo: int) -> None:
        deadline = time.monotonic() + 60
        while len(stages_of(demo)) < 7 and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 2.5))
            running = stages_of(demo)
            if not running:
                return
            victim = chance.choice(running)
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)
        # The broker once more, while what came of it all is read back.
        while len(running := stages_of(demo)) > 1:
            time.sleep(0.05)
        for victim in running:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    played, seen = play(tmp_path, demo_events(seed=1), meanwhile=kill_some)
    assert len(killed) > KILLS // 2
    assert differences(played, seen) == []
