"""The name of a process: its own among those that run, and the same again after a restart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.errors import Stop
from streams.instance import claim_instance

CLAIM_AND_WAIT = """
import sys
from streams.instance import claim_instance
with claim_instance(sys.argv[1]) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other test's or deployment's processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def claim(stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def name_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_configured_name_is_taken_as_it_is() -> None:
    with claim_instance("tally", "blue") as first, claim_instance("tally", "blue") as second:
        assert (first, second) == ("blue", "blue")


def test_each_process_of_a_stage_has_the_lowest_free_number_of_its_host() -> None:
    with ExitStack() as stack:
        names = [stack.enter_context(claim_instance("tally")) for _ in range(3)]
        assert [name.rpartition("-")[2] for name in names] == ["0", "1", "2"]
        assert len({name.rpartition("-")[0] for name in names}) == 1
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
        with claim_instance("intake") as other:
            assert other == names[0]
    with claim_instance("tally") as again:
        assert again == names[0]


def test_an_error_inside_gives_the_name_back() -> None:
    with pytest.raises(FileNotFoundError), claim_instance("tally") as name:
        raise FileNotFoundError
    with claim_instance("tally") as again:
        assert again == name


@pytest.mark.parametrize("place", ["file", "file/below", "taken"])
def test_a_place_without_room_is_said_and_no_other_is_looked_for(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another place a name that is taken would seem free; one that is set needs no place."""
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / f"meterline-{os.getuid()}").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / place))
    with (
        pytest.raises(Stop, match=f"No name can be claimed in {tmp_path / place}") as stop,
        claim_instance("tally"),
    ):
        pass
    assert "METERLINE_INSTANCE" in stop.value.remedy
    with claim_instance("tally", "blue") as name:
        assert name == "blue"


def test_a_killed_process_leaves_its_name_to_its_successor() -> None:
    """The number of a living neighbour stays taken meanwhile."""
    killed, neighbour = claim("tally"), None
    try:
        first = name_of(killed)
        neighbour = claim("tally")
        assert name_of(neighbour) != first
        killed.kill()
        killed.wait()
        with claim_instance("tally") as successor:
            assert successor == first
    finally:
        for process in filter(None, (killed, neighbour)):
            process.kill()
            process.communicate()
