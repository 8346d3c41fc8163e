"""The benchmark of scaling runs to its end, and its page says what follows from its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling_core, scaling_kafka
from benchmarks.backlog import send_all
from benchmarks.scaling import added
from benchmarks.scaling_core import Shape, drive
from benchmarks.scaling_kafka import on_kafka
from benchmarks.scaling_model import Model
from benchmarks.scaling_report import refreshed
from benchmarks.workload import Workload
from pipeline.record import Outgoing, Record, Records
from streams.intake import IntakeStage
from tests.benchmarks.running import run_benchmark

MARKS = "<!-- figures: written by benchmarks.scaling -->\n<!-- end of figures -->\n"

MODEL = Model(
    intake_us=3,
    tally_us=0.6,
    broker_us=2,
    disk_bytes={"usage.events": 100, "usage.metered": 100, "usage.tally.state": 50},
    id_bytes=40,
)


def test_it_measures_after_each_mark() -> None:
    shape = Shape(6_000, customers=50, shards=4, batch=1_000, per_step=2_000)
    first, last = drive(shape, [2_000])
    assert (first["events"], last["events"]) == (2_000, 6_000)
    for figures in (first, last):
        assert figures["cpu_us"]["intake"] > 0
        assert figures["cpu_us"]["tally"] > 0
        assert figures["bytes_per_event"]["usage.events"] == pytest.approx(200, rel=0.1)
    # The definitions are a step of their own.
    assert sum(kind["steps"] for kind in last["step_ms"].values()) == 4


def test_a_wrong_total_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(IntakeStage):
        def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
            return super().step(Records(records[:-1]))

    monkeypatch.setattr(scaling_core, "IntakeStage", Forgetful)
    with pytest.raises(RuntimeError, match="totals are wrong"):
        drive(Shape(3_000, customers=50, shards=4, batch=1_000, per_step=1_000))


def test_a_wrong_total_on_kafka_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_others(address: str, workload: Workload) -> None:
        send_all(address, replace(workload, seed=1))

    monkeypatch.setattr(scaling_kafka, "send_all", send_others)
    with pytest.raises(RuntimeError, match="totals are wrong"):
        on_kafka(Workload(1_000, customers=50), tally_processes=1)


def test_the_model_names_what_fills_most_machines() -> None:
    needs = {need.what: need for need in MODEL.needs()}
    assert needs["intake"].amount == "5 cores"
    assert needs["brokers"].amount == "10 cores"
    # 35 days of a million a second, 40 bytes each.
    assert needs["tally's memory for ids"].amount == "121 TB"
    # What is kept for ever has no end to work out.
    assert needs["brokers' disks"].amount == "2,074 TB"
    assert MODEL.bottleneck().startswith("tally's memory for ids. One machine")
    assert max(need.hosts for need in MODEL.needs()) == needs["tally's memory for ids"].hosts


def test_only_a_page_with_both_marks_takes_figures(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    page.write_text("# Nothing marked\n")
    with pytest.raises(ValueError, match="has no"):
        refreshed(page, {})


def test_what_is_measured_again_has_the_highest_load_of_all_that_is_there() -> None:
    busy, idle = ({"load_average_before": load} for load in (4.1, 0.2))
    assert added(busy | {"ids": 1, "kafka": 2}, idle | {"ids": 3}) == (
        busy | {"ids": 3, "kafka": 2}
    )
    assert added(idle, busy) == busy
    assert added({}, idle) == idle


def measured(folder: Path, *options: str) -> dict[str, Any]:
    """What the command saves."""
    places = ["--folder", str(folder), "--page", str(folder / "scaling.md")]
    run_benchmark("scaling", *options, *places)
    results: dict[str, Any] = json.loads((folder / "scaling.json").read_text())
    return results


def test_it_measures_every_point_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    page.write_text(f"before\n{MARKS}after\n")
    few = ["--events-max", "4000", "--events-each", "3000", "--ids-max", "60000"]
    few += ["--kafka-events", "3000", "--kafka-customers", "--customers", "10", "400"]
    few += ["--shards", "1", "3"]
    few += ["--tally-processes", "2"]
    results = measured(tmp_path, *few)
    assert [point["shards"] for point in results["shards"]] == [1, 3]
    assert [point["events"] for point in results["customers"]] == [3_000, 4_000]
    assert [point["heaviest_share"] for point in results["kafka"]] == [0, 0.9]
    assert results["ids"][-1]["ids"] == 60_000
    assert 22 < results["ids"][-1]["bytes_per_id"] < 50
    for point in results["kafka"]:
        assert point["tally"]["cpu_us"]["tally"] > 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "The first bottleneck: tally's memory for ids." in text
    assert len([*tmp_path.glob("scaling-*.svg")]) == 6

    again = measured(tmp_path, "--only", "ids", "--ids-max", "80000")
    assert again["ids"][-1]["ids"] == 80_000
    assert again["kafka"] == results["kafka"]
