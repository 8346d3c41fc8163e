"""Several stages of one command: each a process, and none outlives the others or the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

ROOT = Path(__file__).parents[3]

#: Each stage says its name and process, then waits to be asked to end; `sour` ends as one that asks
#: for a person, `deaf` never ends.
PROGRAM = """
import os, signal, sys, time
from pipeline.commands.fork import fork_each

stage = fork_each(sys.argv[1:], stops_with_stdin=True)

def end(*_):
    os.write(1, f"{stage} asked\\n".encode())
    if stage != "deaf":
        os._exit(2 if stage == "sour" else 0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
os.write(1, f"{stage} {os.getpid()}\\n".encode())
while True:
    time.sleep(0.01)
"""


@contextmanager
def running(*stages: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """The command, and the process of each stage."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *stages],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            said = map(str.split, lines(command.stdout, len(stages)))
            yield command, {stage: int(process) for stage, process in said}
        finally:
            command.kill()


def lines(output: IO[str] | None, count: int) -> list[str]:
    assert output is not None
    return [output.readline() for _ in range(count)]


def have_ended(processes: dict[str, int]) -> bool:
    there = [psutil.Process(each) for each in processes.values() if psutil.pid_exists(each)]
    return not psutil.wait_procs(there, timeout=30)[1]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_what_asks_the_command_to_end_reaches_every_stage(ending: signal.Signals) -> None:
    with running("intake", "tally") as (command, processes):
        command.send_signal(ending)
        assert sorted(lines(command.stdout, 2)) == ["intake asked\n", "tally asked\n"]
        assert command.wait(30) == 0
        assert have_ended(processes)


def test_a_terminal_asks_all_of_them_at_once() -> None:
    with running("deaf", "tally") as (command, processes):
        for process in (processes["tally"], processes["deaf"], command.pid):
            os.kill(process, signal.SIGINT)
        assert set(lines(command.stdout, 3)) == {"deaf asked\n", "tally asked\n"}
        os.kill(processes["deaf"], signal.SIGKILL)
        assert command.wait(30) == 128 + signal.SIGKILL


def test_a_stage_that_dies_ends_the_others_and_gives_the_command_its_code() -> None:
    with running("intake", "tally", "bill") as (command, processes):
        os.kill(processes["tally"], signal.SIGKILL)
        assert command.wait(30) == 128 + signal.SIGKILL
        assert command.stderr is not None
        assert command.stderr.read().startswith("tally ended with 137; the other stages")
        assert have_ended(processes)


def test_a_stage_that_asks_for_a_person_makes_the_command_ask_for_one() -> None:
    with running("intake", "sour") as (command, processes):
        os.kill(processes["sour"], signal.SIGTERM)
        assert command.wait(30) == 2
        assert have_ended(processes)


def test_the_same_stage_may_run_twice() -> None:
    with running("tally", "tally") as (command, _):
        assert len(psutil.Process(command.pid).children()) == 2


@pytest.mark.parametrize("how", ["killed", "its standard input closed"])
def test_no_stage_outlives_its_command(how: str) -> None:
    with running("intake", "tally") as (command, processes):
        if how == "killed":
            command.kill()
        else:
            assert command.stdin is not None
            command.stdin.close()
        assert have_ended(processes)


def test_the_command_waits_for_a_stage_that_has_something_in_hand() -> None:
    with running("deaf", "tally") as (command, processes):
        command.terminate()
        assert lines(command.stdout, 2)
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(0.5)
        os.kill(processes["deaf"], signal.SIGKILL)
        assert command.wait(30) == 128 + signal.SIGKILL
