"""What a benchmark cannot do with its options it says before it measures anything."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.options import file, folder
from benchmarks.stages import machine
from tests.benchmarks.running import ROOT

Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What a benchmark's command says when it ends at once, for its options."""

    def said(name: str, *options: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", [name, *options])
        with pytest.raises(SystemExit, match=r"^2$"):
            import_module(f"benchmarks.{name}").main()
        return capsys.readouterr().err

    return said


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clickhouse", ("--rows", "0")),
        ("clickhouse", ("--minutes", "0")),
        ("compare", ("--events", "-5")),
        ("latency", ("--rates", "0")),
        ("latency", ("--seconds", "-3")),
        ("producers", ("--events", "0")),
        ("recovery", ("--ids", "0")),
        ("scaling", ("--shards", "4", "0")),
        ("stages", ("--events", "0")),
        ("stripe_flush", ("--customers", "-5")),
    ],
)
def test_none_or_less_of_anything_is_refused(
    name: str, options: tuple[str, ...], refusal: Refusal
) -> None:
    assert f"argument {options[0]}: {options[-1]} is not above zero" in refusal(name, *options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("compare", ("--warm-up", "-1")),
        ("latency", ("--first-warm-up", "inf")),
        ("stripe_flush", ("--call-ms", "50", "nan")),
    ],
)
def test_durations_are_finite_and_not_below_zero(
    name: str, options: tuple[str, ...], refusal: Refusal
) -> None:
    said = refusal(name, *options)
    assert f"argument {options[0]}: {options[-1]} is below zero, or not finite" in said


@pytest.mark.parametrize("option", ["--restarts", "--takeovers", "--handovers"])
def test_nothing_is_done_less_often_than_never(option: str, refusal: Refusal) -> None:
    assert f"argument {option}: -1 is below zero" in refusal("recovery", option, "-1")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clickhouse", ("--events", "99999999999")),
        ("compare", ("--events", "99999999999")),
        ("scaling", ("--events-max", "99999999999")),
        ("scaling", ("--customers", "10", "5000000")),
    ],
)
def test_more_than_a_workload_can_have_is_refused(
    name: str, options: tuple[str, ...], refusal: Refusal
) -> None:
    assert f"argument {options[0]}: {options[-1]} " in (said := refusal(name, *options))
    assert "are possible" in said


def test_parts_are_looked_at_while_rows_are_inserted(refusal: Refusal) -> None:
    assert "nothing would be looked at" in refusal("clickhouse", "--minutes", "0.05")


@pytest.mark.parametrize(("name", "kept"), [("clickhouse", "queries"), ("scaling", "kafka")])
def test_figures_of_another_machine_are_not_kept_beside_those_of_this_one(
    name: str, kept: str, tmp_path: Path, refusal: Refusal
) -> None:
    saved = tmp_path / f"{name}.json"
    saved.write_text(json.dumps({kept: [], "machine": machine() | {"system": "another"}}))
    only = {"clickhouse": "insert", "scaling": "ids"}[name]
    said = refusal(name, "--only", only, "--folder", str(tmp_path))
    assert f"--only: what {saved} keeps was measured on another machine" in said


def test_a_page_that_takes_no_figures_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    page = tmp_path / "scaling.md"
    assert f"argument --page: [Errno 2] No such file or directory: '{page}'" in refusal(
        "scaling", "--page", str(page)
    )
    page.write_text("# Nothing marked\n")
    assert f"argument --page: {page} has no <!-- figures" in refusal("scaling", "--page", str(page))


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
    name: str, option: str, tmp_path: Path, refusal: Refusal
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
