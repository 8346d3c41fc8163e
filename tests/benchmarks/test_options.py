"""What a benchmark cannot do with its options it says before it measures anything."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks.options import file, folder
from tests.benchmarks.running import ROOT


def refusal(name: str, *options: str) -> str:
    """What `python -m benchmarks.NAME` says when it ends at once, for its options."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    return ran.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clickhouse", ("--rows", "0")),
        ("compare", ("--events", "-5")),
        ("latency", ("--rates", "0")),
        ("producers", ("--events", "0")),
        ("recovery", ("--ids", "0")),
        ("scaling", ("--shards", "4", "0")),
        ("stages", ("--events", "0")),
        ("stripe_flush", ("--customers", "-5")),
    ],
)
def test_none_or_less_of_anything_is_refused(name: str, options: tuple[str, ...]) -> None:
    assert f"argument {options[0]}: {options[-1]} is not above zero" in refusal(name, *options)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("clickhouse", "--folder"),
        ("compare", "--report"),
        ("latency", "--folder"),
        ("producers", "--folder"),
        ("recovery", "--report"),
        ("scaling", "--folder"),
        ("stripe_flush", "--folder"),
    ],
)
def test_where_no_result_can_be_saved_none_is_measured(
    name: str, option: str, tmp_path: Path
) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    said = refusal(name, option, str(no_folder / "x" / "report"))
    assert f"argument {option}: cannot write into {no_folder / 'x'}" in said


def test_a_folder_for_results_is_made_and_left_empty(tmp_path: Path) -> None:
    assert folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert file(str(tmp_path / "c" / "report.md")) == tmp_path / "c" / "report.md"
    assert {*tmp_path.rglob("*")} == {tmp_path / "a", tmp_path / "a" / "b", tmp_path / "c"}


def test_a_report_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="is a folder"):
        file(str(tmp_path))
