"""A process of a stage has a name that no other has, and the same one after a restart."""

from __future__ import annotations

import subprocess
import sys

from streams.instance import claim_instance

CLAIM_AND_WAIT = """
import sys
from streams.instance import claim_instance
with claim_instance(sys.argv[1]) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def another_process(stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def name_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_configured_name_is_taken_as_it_is() -> None:
    with claim_instance("named", "tally-7") as first, claim_instance("named", "tally-7") as second:
        assert (first, second) == ("tally-7", "tally-7")


def test_processes_of_one_stage_have_different_names_and_a_freed_one_is_taken_again() -> None:
    stage = "test-of-instances"
    with claim_instance(stage) as mine, another_process(stage) as other:
        theirs = name_of(other)
        assert theirs != mine
        other.kill()
        other.wait()
        with another_process(stage) as restarted:
            assert name_of(restarted) == theirs, "kill -9 freed the name"
            restarted.kill()
    with claim_instance(stage) as again:
        assert again == mine


def test_stages_do_not_take_names_from_each_other() -> None:
    with claim_instance("test-stage-a") as one, claim_instance("test-stage-b") as other:
        assert one == other
