"""A benchmark that is told to end does so at once, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.benchmarks.running import ROOT

#: Its worker, and what the worker has started, would go on for long.
PROGRAM = """
import subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from benchmarks.command import run

def work(scratch):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(scratch, "begun").touch()
    time.sleep(100)

def main():
    with (
        tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes,
    ):
        working = processes.submit(work, scratch)
        while not Path(scratch, "begun").exists():
            time.sleep(0.01)
        print("begun", flush=True)
        working.result()

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.parametrize(
    ("ending", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"]
)
def test_it_ends_with_its_workers_and_what_they_started_and_its_scratch_folder(
    ending: signal.Signals, code: int, tmp_path: Path
) -> None:
    program, scratch = tmp_path / "program.py", tmp_path / "scratch"
    program.write_text(PROGRAM)
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, str(program), str(scratch)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "begun\n"
        below = psutil.Process(command.pid).children(recursive=True)
        assert len(below) >= 2
        if ending is signal.SIGINT:
            os.killpg(command.pid, ending)
        else:
            command.send_signal(ending)
        _, said = command.communicate(timeout=20)
    assert (command.returncode, said) == (code, f"Ended by {ending.name}.\n")
    assert psutil.wait_procs(below, timeout=30)[1] == []
    assert [*scratch.iterdir()] == []
