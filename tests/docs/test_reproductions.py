"""What the decision records claim can be seen by running them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPRODUCTIONS = Path(__file__).parents[2] / "docs" / "decisions" / "reproductions"
SECONDS_MAX = 300


def test_a_faust_agent_would_still_be_slow_lose_events_and_count_twice() -> None:
    """Should this fail after an upgrade of Faust, docs/decisions/0001 wants another look."""
    script = REPRODUCTIONS / "faust_as_tally.py"
    done = subprocess.run(
        [sys.executable, script, "--quick"], capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost     at_least_once: sent 200, offset committed 200, total after a" in done.stdout
    assert "lost     exactly_once: sent 200, offset committed 200, total after a" in done.stdout
