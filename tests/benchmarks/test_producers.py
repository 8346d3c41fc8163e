"""The benchmark of producers runs to its end and finds the right totals, single and packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import producers
from benchmarks.producers import WAYS
from tests.benchmarks.running import doubt, run_here


def test_it_measures_every_way_of_sending_and_checks_the_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = doubt(monkeypatch, producers)
    few = ["--events", "3000", "--rounds", "1", "--folder", str(tmp_path)]
    run_here(monkeypatch, producers.main, *few)
    assert len(checked) == 2
    assert min(checked) > 0
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
