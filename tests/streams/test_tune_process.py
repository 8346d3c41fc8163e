"""What a process that transacts asks of its memory: not to be given back between two steps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: How many pages the system had to find for a step, of what the one before had given back.
_PROGRAM = """
import resource, sys
from streams.transact import tune_process

if sys.argv[1:]:
    tune_process()

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batch = [b"1" * (48 * 2**20) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

step(), print(step())
"""
_PAGES_OF_A_STEP = 3 * 48 * 2**20 // 4096


def _pages(*arguments: str) -> int:
    program = [sys.executable, "-c", _PROGRAM, *arguments]
    return int(subprocess.run(program, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_step_uses_the_memory_of_the_one_before() -> None:
    assert _pages() > _PAGES_OF_A_STEP // 2
    assert _pages("tuned") < _PAGES_OF_A_STEP // 20
