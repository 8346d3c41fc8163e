"""The benchmark of producers runs to its end and finds the right totals, single and packed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import producers
from benchmarks.producers import SINGLE, WAYS, Way, end_to_end, send
from benchmarks.stages import Measured
from tests.benchmarks.running import run_benchmark


def test_it_measures_every_way_of_sending_and_checks_the_totals(tmp_path: Path) -> None:
    few = ["--events", "3000", "--rounds", "1", "--folder", str(tmp_path)]
    run_benchmark("producers", *few)
    results = json.loads((tmp_path / "producers.json").read_text())
    assert [*results["clients"]] == [way.name for way in WAYS]
    assert results["clients"][WAYS[0].name]["of_bare"] == 1
    single, packed = (results["end_to_end"][name] for name in ("single", "packed"))
    assert single["records"] == 3_000
    assert packed["records"] < 300
    for one in (single, packed):
        assert one["broker_bytes_per_event"] > 0
        assert one["intake"]["cpu_us_per_event"] > 0
    assert (tmp_path / "producers.svg").read_text().lstrip().startswith("<?xml")


def send_one_less(address: str, topic: str, count: int, begin_ms: int, way: Way) -> Measured:
    """What a producer does that loses an event; out here, as another process looks for it."""
    return send(address, topic, count - 1, begin_ms, way)


def test_a_wrong_total_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "send", send_one_less)
    begin_ms = time.time_ns() // 1_000_000 - 1_000
    with (
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes,
        pytest.raises(RuntimeError, match="totals are wrong"),
    ):
        end_to_end(processes, 1_000, begin_ms, SINGLE, Console(quiet=True))
