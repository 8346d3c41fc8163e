"""The benchmark of latency counts from its schedule, and runs to its end."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latency, latency_load
from benchmarks.histogram import Histogram
from benchmarks.latency import under
from benchmarks.latency_load import Load
from benchmarks.latency_report import markdown
from tests.benchmarks.running import run_here


def test_a_histogram_tells_percentiles_in_milliseconds_wherever_it_was_filled() -> None:
    filled = Histogram.of_ns(number * 1_000_000 for number in range(1, 1_001))
    for histogram in (filled, pickle.loads(pickle.dumps(filled))):
        assert len(histogram) == 1_000
        assert histogram.summary_ms() == pytest.approx(
            {"p50": 500, "p99": 990, "p99.9": 999, "max": 1_000}, rel=0.002
        )
        percents = [percent for percent, _ in histogram.curve_ms()]
        assert max(percents) == pytest.approx(99.9)


def test_probes_are_due_by_the_schedule_alone_and_those_of_the_warm_up_do_not_count() -> None:
    load = Load(3, per_second=1_000, seconds=2, warm_up_seconds=1, probes_per_second=100)
    assert load.events == 3_000
    assert len(load.probes) == 300
    assert [*load.probes.values()][:3] == [0, 10_000_000, 20_000_000]
    assert len(load.counted) == 200
    assert min(load.counted.values()) == 1_000_000_000
    other = Load(4, per_second=1_000, seconds=2, warm_up_seconds=1, probes_per_second=100)
    assert not other.probes.keys() & load.probes.keys()


def test_it_follows_every_probe_to_its_total_and_its_alert_and_tells_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def under_and_wrong(load: Load, *running: Any) -> dict[str, Any]:
        found = under(load, *running)
        if load.per_second == 1_000:  # the last one
            # The sender, a process of its own, sends what it always does.
            monkeypatch.setattr(latency_load, "_PROBE_VALUE", 80_001)
            with pytest.raises(RuntimeError, match="totals of probes are wrong"):
                under(replace(load, number=load.number + 1), *running)
            wrong.append(load.number)
        return found

    wrong: list[int] = []
    monkeypatch.setattr(latency, "under", under_and_wrong)
    few = ["--seconds", "1", "--warm-up", "1", "--flat-out", "3000", "--rates", "500", "1000"]
    few += ["--first-warm-up", "1", "--shards", "2"]
    run_here(monkeypatch, latency.main, *few, "--folder", str(tmp_path))
    assert len(wrong) == 1
    results = json.loads((tmp_path / "latency.json").read_text())
    [deployment] = results["deployments"]
    assert deployment["shards"] == 2
    assert deployment["capacity_per_second"] > 0
    assert [load["per_second"] for load in deployment["loads"]] == [500, 1_000]
    for load in deployment["loads"]:
        assert load["probes"] == 500
        for found in (*load["latency_ms"].values(), load["sender_lag_ms"]):
            assert 0 < found["p50"] <= found["p99"] <= found["max"]
        hops = sum(hop["p50"] for hop in load["hops_ms"].values())
        assert hops == pytest.approx(load["latency_ms"]["total"]["p50"], rel=0.5)
        assert [*load["cpu_share"]] == ["broker", "intake", "tally", "reader", "sender"]
    page = (tmp_path / "latency.md").read_text()
    assert page == markdown(results)
    assert page.count("\n| 2 | 500/s, ") == page.count("\n| 2 | 1,000/s, ") == 2 + 3 + 1
    assert "<svg" in (tmp_path / "latency.svg").read_text()
