"""`meterline topics` sets a deployment's shards once, and keeps to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from schemas.topics import CATALOGUE, EVENTS, METERED, SHARDS
from streams.read import partition_count
from streams.topics import shards_of

ROOT = Path(__file__).parents[3]
PROGRAM = "from pipeline.cli import main; main()"


def create(address: str, *options: str) -> tuple[int, str]:
    """Runs `meterline topics`: exit code, and all that it says."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "topics", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "METERLINE_BOOTSTRAP_SERVERS": address},
        timeout=120,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def test_the_shards_are_chosen_once_and_kept_by_whoever_repeats_the_command(
    bare_kafka: str,
) -> None:
    kafka = {"bootstrap.servers": bare_kafka}
    assert shards_of(kafka) == SHARDS
    code, output = create(bare_kafka, "--shards", "3")
    assert (code, shards_of(kafka)) == (0, 3)
    assert "with 3 shards" in output
    for topic in CATALOGUE:
        count = EVENTS.partitions if topic is EVENTS else 3
        assert partition_count(kafka, topic.name) == count

    code, output = create(bare_kafka)
    assert (code, shards_of(kafka)) == (0, 3)
    assert "with 3 shards" in output

    code, output = create(bare_kafka, "--shards", "4")
    assert code != 0
    assert "usage.metered has 3 instead of 4" in output
    assert "never changes" in output
    assert partition_count(kafka, METERED.name) == 3
