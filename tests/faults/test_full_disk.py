"""The broker's disk is full: it goes down, and with more room all goes on, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import Stop
from streams.local_kafka import LocalKafka
from tests.faults.deployment import Deployment

SEED = 31
#: What a broker with empty topics needs, and then some for events.
MEGABYTES = 48


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(ballast: Path, left_bytes: int) -> None:
    """Leave so much room beside `ballast`."""
    free = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left_bytes)


def test_a_broker_without_room_dies_and_comes_back_with_nothing_lost(small_disk: Path) -> None:
    with (
        LocalKafka(small_disk / "kafka") as broker,
        Deployment(broker, 3_000, SEED, ending_at=datetime.now(UTC)) as deployment,
    ):
        for stage in ("intake", "tally"):
            deployment.start(stage)
        deployment.send(300)
        deployment.wait_until_done()
        ballast = small_disk / "ballast"
        fill(ballast, left_bytes=100_000)
        sender = threading.Thread(target=deployment.send_while_the_broker_may_die, args=(2_000,))
        sender.start()
        with pytest.raises(Stop, match="ended by itself"):
            broker.wait()
        ballast.unlink()
        broker.revive()
        sender.join()
        deployment.send_refused()
        deployment.send(700)
        deployment.wait_until_done()
        assert deployment.are_all_alive()
        assert deployment.differences() == []
