"""The whole path on a real broker, judged by an oracle that shares no code with the product."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.playing import demo_events, differences, play
from tests.traces import DATA, azure_lines, hostile_lines


def test_the_demo_s_events_are_counted_stored_alerted_and_billed_exactly(tmp_path: Path) -> None:
    played, seen = play(tmp_path, demo_events(seed=7))
    assert differences(played, seen) == []
    assert min(seen["ledger"].values()) > 0, "every outcome occurs"
    assert len(seen["alerts"]) > 10
    assert seen["quarantine"] == []

    counted = seen["events"][0]["id"].encode()
    lost = [line for line in played if counted not in line]
    assert differences(lost, seen), "the oracle notices one event more than was sent"


@pytest.mark.skipif(not DATA.exists(), reason=f"no trace at {DATA}")
def test_the_real_trace_and_hostile_inputs_are_counted_exactly(tmp_path: Path) -> None:
    hostile = [line for line in hostile_lines() if b"\n" not in line]
    played, seen = play(tmp_path, [*azure_lines(seed=3), *hostile])
    assert differences(played, seen) == []
    assert seen["ledger"]["rejected"] > 100
    assert seen["stripe"]


@pytest.mark.docker
def test_it_is_the_same_on_a_broker_of_the_official_image(
    tmp_path: Path, docker_kafka: str
) -> None:
    options = ("--bootstrap-servers", docker_kafka)
    played, seen = play(tmp_path, demo_events(seed=11), *options)
    assert differences(played, seen) == []
