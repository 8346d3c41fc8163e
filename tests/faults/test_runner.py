"""The runner of long campaigns, in short: all is exact, and what is not is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SECONDS_MAX = 540


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.faults` with these options, and without rests between two faults."""
    command = [sys.executable, "-m", "tests.faults", "--gap", "0.1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def test_a_deployment_that_is_killed_again_and_again_comes_to_what_the_oracle_says(
    tmp_path: Path,
) -> None:
    """While events flow, and usage.events gets more partitions."""
    report = tmp_path / "report.md"
    kept = tmp_path / "kept"
    options = ("--seed", "7", "--round", "8", "--report", str(report), "--keep", str(kept))
    outcome = run("--kills", "8", *options)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    page = report.read_text()
    assert page.startswith("# 8 kills, zero differences\n")
    assert "--kills 8 --seed 7" in page
    assert "| repartition | 1 |" in page
    accepted = re.search(r"… accepted \| ([\d,]+)", page)
    assert accepted is not None
    assert int(accepted[1].replace(",", "")) > 100
    assert len((kept / "faults.log").read_text().splitlines()) >= 9


def test_an_event_that_was_lost_is_found(tmp_path: Path) -> None:
    """The oracle is told of one more than was sent."""
    report = tmp_path / "report.md"
    outcome = run("--kills", "1", "--plant-a-difference", "--report", str(report))
    assert outcome.returncode == 1
    assert "1 events that were sent are not on the log" in outcome.stdout
    assert "differences**" in report.read_text().splitlines()[0]
