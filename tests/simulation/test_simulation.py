"""The simulation itself: seeds end without a difference, repeat exactly, and find planted bugs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.simulation.__main__ import main
from tests.simulation.planted import BUGS
from tests.simulation.seeds import BUG_SEEDS_MAX, catch
from tests.simulation.simulate import simulate

SEEDS = 60
SEEDS_A_TEST = 30
ROOT = Path(__file__).parents[2]
GUARANTEES = ROOT / "docs" / "guarantees.md"


@pytest.mark.parametrize("begin", range(1, SEEDS, SEEDS_A_TEST))
def test_no_seed_ends_with_a_difference(begin: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Kills, freezes, lost requests and answers, late commits: then all drains and all is exact."""
    code = main(["--begin", str(begin), "--seeds", str(SEEDS_A_TEST), "--cores", "1"])
    assert code == 0, capsys.readouterr().out


def test_a_seed_reaches_every_kind_of_effect() -> None:
    """What is never reached is never tested."""
    reached: set[str] = set()
    for seed in range(1, 6):
        reached |= simulate(seed).effects.keys()
    steps = ("fence", "join", "committed", "write", "send offsets", "commit")
    wanted = {f"{stage}: {step}" for stage in ("intake", "tally", "bill") for step in steps}
    wanted |= {f"{sink}: commit positions" for sink in ("clickhouse", "stripe")}
    wanted |= {"stripe: call", "publish", "end of a log", "part of a log", "next records"}
    wanted |= {
        f"clickhouse: insert {table}"
        for table in ("events", "set_aside", "rejections", "totals", "alerts", "deliveries")
    }
    assert wanted <= reached


def test_a_seed_repeats_exactly_whatever_the_hash_seed() -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "7", "--trace"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 100


def test_two_seeds_are_two_histories() -> None:
    assert simulate(1).trace_hash != simulate(2).trace_hash


def test_a_failing_seed_prints_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = next(n for n, bug in enumerate(BUGS) if bug.name.startswith("alerts outside"))
    found = catch(number)
    assert found is not None
    monkeypatch.setattr("tests.simulation.__main__.outcomes", lambda *_: iter([found]))
    assert main(["--seeds", "1"]) == 1
    assert f"uv run python -m tests.simulation --seed {found.seed}" in capsys.readouterr().out
    assert main(["--seed", str(found.seed), "--bug", str(number)]) == 1


@cache
def seeds_taken() -> dict[str, int]:
    """How many seeds each planted bug took when the table of the docs was written."""
    rows = re.findall(r"^\| (.+) \| .+ \| (\d+) \|$", GUARANTEES.read_text(), re.MULTILINE)
    return {name: int(seeds) for name, seeds in rows}


@pytest.mark.parametrize("number", range(len(BUGS)), ids=[bug.name for bug in BUGS])
def test_a_planted_bug_is_caught(number: int) -> None:
    found = catch(number, begin=seeds_taken()[BUGS[number].name])
    assert found is not None, f"{BUG_SEEDS_MAX} seeds did not catch it"


def test_the_table_of_planted_bugs_is_complete() -> None:
    assert [bug.name for bug in BUGS if bug.name not in seeds_taken()] == []


def test_readme_says_how_many_bugs_are_planted() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert f"{len(BUGS)} planted mistakes" in readme.read_text(encoding="utf-8")
