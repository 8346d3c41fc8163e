"""The benchmark of the stages runs to its end and measures what it says."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from benchmarks import stages
from benchmarks.stages import CUSTOMERS, events
from tests.benchmarks.running import doubt, run_here


def test_its_events_are_seeded_and_of_the_stated_shape() -> None:
    sent = list(events(20_000))
    assert sent[:100] == list(islice(events(20_000), 100))
    assert sent[:100] != list(islice(events(20_000, seed=1), 100))
    bodies = [event for _, event, _ in sent]
    assert 180 <= sum(map(len, bodies)) / len(bodies) <= 220
    assert 0.005 <= 1 - len(set(bodies)) / len(bodies) <= 0.015
    assert len({customer for customer, *_ in sent}) > 0.8 * CUSTOMERS
    for customer, body, _ in sent[:100]:
        assert json.loads(body)["subject"].encode() == customer


def test_it_measures_all_programs_on_one_topic_and_checks_the_totals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = doubt(monkeypatch, stages)
    run_here(monkeypatch, stages.main, "--events", "3000", "--json")
    assert len(checked) == 1
    assert checked[0] > 0
    result = json.loads(capsys.readouterr().out)
    measured = result["measured"]
    assert [*measured] == ["consume + decode, before", "intake", "tally", "consume + decode, after"]
    for one in measured.values():
        assert one["events"] == 3_000
        assert one["per_cpu_second"] == one["events"] / one["cpu_seconds"]
        assert one["wall_seconds"] > 0
    assert result["machine"]["kafka"].startswith("Apache Kafka 4")
