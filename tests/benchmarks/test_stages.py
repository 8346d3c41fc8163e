"""The benchmark of the stages runs to its end and measures what it says."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from rich.console import Console

from benchmarks import stages
from benchmarks.stages import CUSTOMERS, events, measure
from streams.producer import Producer
from tests.benchmarks.running import run_benchmark


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


def test_it_measures_all_programs_on_one_topic() -> None:
    ran = run_benchmark("stages", "--events", "3000", "--json")
    result = json.loads(ran.stdout)
    measured = result["measured"]
    assert [*measured] == ["consume + decode, before", "intake", "tally", "consume + decode, after"]
    for one in measured.values():
        assert one["events"] == 3_000
        assert one["per_cpu_second"] == one["events"] / one["cpu_seconds"]
        assert one["wall_seconds"] > 0
    assert result["machine"]["kafka"].startswith("Apache Kafka 4")


def test_a_wrong_total_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Producer):
        def send_raw(self, value: bytes | None, **options: Any) -> None:
            super().send_raw((value or b"").replace(b'"tokens":1', b'"tokens":2'), **options)

    monkeypatch.setattr(stages, "Producer", Wrong)
    with pytest.raises(RuntimeError, match="totals are wrong"):
        measure(1_000, Console(quiet=True))
