"""What programs use is seen with all their processes, also those that ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.usage import Usage

#: Uses this much CPU time, then says so and waits for the end of its input.
BUSY = """
import subprocess, sys, time
{before}
while time.process_time() < {seconds}:
    pass
{after}
print("done", flush=True)
sys.stdin.read()
"""
#: Such a program as a child of another.
CHILD = BUSY.format(before="", seconds=0.5, after="")
START = (
    f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], "
    "stdin=subprocess.PIPE, stdout=subprocess.PIPE)"
)


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[bytes]]:
    line = [sys.executable, "-c", text]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.communicate()


def wait_until_done(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"


def test_it_sees_the_time_that_a_process_has_used() -> None:
    text = BUSY.format(before="", seconds=0.5, after="")
    with program(text) as process, Usage([process.pid]) as usage:
        wait_until_done(process)
        assert 0.45 < usage.cpu_seconds() < 0.9


def test_it_sees_several_processes_together() -> None:
    text = BUSY.format(before="", seconds=0.4, after="")
    with program(text) as one, program(text) as other, Usage([one.pid, other.pid]) as usage:
        wait_until_done(one)
        wait_until_done(other)
        assert 0.75 < usage.cpu_seconds() < 1.5


def test_it_sees_a_child_that_has_ended() -> None:
    text = BUSY.format(before=f"{START}.communicate()", seconds=0.1, after="")
    with program(text) as process, Usage([process.pid]) as usage:
        wait_until_done(process)
        assert 0.55 < usage.cpu_seconds() < 1.2


def test_it_sees_a_child_that_still_runs() -> None:
    text = BUSY.format(before="", seconds=0.1, after=f"child = {START}; child.stdout.readline()")
    with program(text + "child.communicate()") as process, Usage([process.pid]) as usage:
        wait_until_done(process)
        assert 0.55 < usage.cpu_seconds() < 1.2


def test_what_a_process_had_used_stays_when_it_ends() -> None:
    text = BUSY.format(before="", seconds=0.5, after="")
    with program(text) as process, Usage([process.pid]) as usage:
        wait_until_done(process)
        before = usage.cpu_seconds()
        process.kill()
        process.wait()
        assert usage.cpu_seconds() >= before


def test_it_keeps_the_peak_of_memory() -> None:
    grow = "held = b'x' * 200_000_000; time.sleep(1); del held"
    with program(BUSY.format(before=grow, seconds=0, after="")) as process:
        with Usage([process.pid]) as usage:
            wait_until_done(process)
            assert psutil.Process(process.pid).memory_info().rss < 100_000_000
        assert 200_000_000 < usage.memory_bytes_max < 400_000_000


def test_it_refuses_to_watch_what_is_not_there() -> None:
    with pytest.raises(psutil.NoSuchProcess):
        Usage([2**22 + 1])
