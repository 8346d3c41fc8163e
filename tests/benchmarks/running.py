"""Runs a benchmark's command to its end, as whoever measures does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from benchmarks.totals import Key, check_totals

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 280


def run_benchmark(name: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.NAME`, which must succeed; `settings` go to its environment."""
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def run_here(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *options: str) -> None:
    """The same command in this process, where a test can put something in its way."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    main()


def doubt(monkeypatch: pytest.MonkeyPatch, benchmark: ModuleType) -> list[int]:
    """Each time a benchmark checks its totals, they must be found wrong by one that is off by one.

    Returns how many totals were checked each time, which is filled as they are.
    """
    checked: list[int] = []

    def check_and_doubt(published: Iterable[pa.RecordBatch], expected: Mapping[Key, int]) -> None:
        batches = list(published)
        check_totals(batches, expected)
        with pytest.raises(RuntimeError, match=r"^1 of .* totals are wrong"):
            check_totals(batches, Counter(expected) + Counter([min(expected)]))
        checked.append(len(expected))

    monkeypatch.setattr(benchmark, "check_totals", check_and_doubt)
    return checked
