"""A stage that transacts starts without what it does not use, and works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_stages_do_not_import_it() -> None:
    stages = "import sys, streams.intake, streams.tally, streams.bill, streams.transact\n"
    shown = "print('pandas' in sys.modules)"
    without = "from pipeline.start_lean import start_lean\nstart_lean()\n"
    assert run(without + stages + shown) == "False\n"
    # Else this test would say nothing.
    assert run(stages + shown) == "True\n"


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: no threads for linear algebra at all")
def test_linear_algebra_has_no_threads_of_its_own_unless_somebody_asks_for_them() -> None:
    count = "import numpy, psutil\nprint(psutil.Process().num_threads())"
    start = "from pipeline.start_lean import start_lean\nstart_lean()\n"
    asked = "import os\nos.environ['OPENBLAS_NUM_THREADS'] = '2'\n"
    assert int(run(asked + start + count)) == int(run(start + count)) + 1


def test_whoever_imports_it_later_gets_it() -> None:
    printed = run(
        "from pipeline.start_lean import start_lean\n"
        "start_lean()\n"
        "import pandas, pyarrow\n"
        "print(pyarrow.table({'a': [1, 2]}).to_pandas()['a'].sum())"
    )
    assert printed == "3\n"
