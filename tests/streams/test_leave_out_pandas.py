"""A stage that transacts starts without pandas, and works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_stages_do_not_import_it() -> None:
    stages = "import sys, streams.intake, streams.tally, streams.bill, streams.transact\n"
    shown = "print('pandas' in sys.modules)"
    without = "from streams.leave_out_pandas import leave_out_pandas\nleave_out_pandas()\n"
    assert run(without + stages + shown) == "False\n"
    # Else this test would say nothing.
    assert run(stages + shown) == "True\n"


def test_whoever_imports_it_later_gets_it() -> None:
    printed = run(
        "from streams.leave_out_pandas import leave_out_pandas\n"
        "leave_out_pandas()\n"
        "import pandas, pyarrow\n"
        "print(pyarrow.table({'a': [1, 2]}).to_pandas()['a'].sum())"
    )
    assert printed == "3\n"
