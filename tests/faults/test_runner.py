"""The runner of long campaigns, in short: all is exact, and what is not is found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.faults import __main__ as runner
from tests.faults.harm import Tally
from tests.faults.verdict import Verdict

SECONDS_MAX = 540


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.faults` with these options, and without rests between two faults."""
    command = [sys.executable, "-m", "tests.faults", "--gap", "0.1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def test_a_deployment_that_is_killed_again_and_again_has_no_difference_but_a_planted_one(
    tmp_path: Path,
) -> None:
    """While events flow, and usage.events gets more partitions; the oracle is told of one more."""
    report = tmp_path / "report.md"
    kept = tmp_path / "kept"
    options = ("--seed", "7", "--round", "8", "--report", str(report), "--keep", str(kept))
    outcome = run("--kills", "8", "--plant-a-difference", *options)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    *_, difference, summary = outcome.stdout.splitlines()
    assert "1 events that were sent are not on the log" in difference
    assert "1 differences, 0 processes that ended by themselves" in summary
    page = report.read_text()
    assert page.startswith("# 8 kills, **1 differences**\n")
    assert "--kills 8 --seed 7" in page
    assert "| repartition | 1 |" in page
    accepted = re.search(r"… accepted \| ([\d,]+)", page)
    assert accepted is not None
    assert int(accepted[1].replace(",", "")) > 100
    assert len((kept / "faults.log").read_text().splitlines()) >= 9


class Flawless(nullcontext["Flawless"]):
    """A campaign in which nothing went wrong."""

    kills = 0
    seconds = 60.0

    def __init__(self, *_: object) -> None:
        super().__init__(self)
        self.tally = Tally(drained_seconds=[2.0])

    def run(self) -> Verdict:
        return Verdict(Counter(), doubled=0, totals=0, alerts=0, meter_events=0, differences=[])


def test_a_campaign_without_a_difference_ends_with_0_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.md"
    monkeypatch.setattr(runner, "Campaign", Flawless)
    monkeypatch.setattr(sys, "argv", ["faults", "--kills", "0", "--report", str(report)])
    assert runner.main() == 0
    assert "0 differences, 0 processes that ended by themselves" in capsys.readouterr().out
    assert report.read_text().startswith("# 0 kills, zero differences\n")
