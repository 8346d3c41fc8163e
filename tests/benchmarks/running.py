"""Runs a benchmark's command to its end, as whoever measures does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
