"""The compose file runs every stage, each under a host name of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.commands.wire import StageName

COMPOSE = Path(__file__).parents[1] / "docker-compose.yml"


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def stages() -> list[dict[str, Any]]:
    return [s for s in services().values() if s.get("command", "").startswith("run ")]


def test_every_stage_is_a_service() -> None:
    assert {service["command"] for service in stages()} == {f"run {stage}" for stage in StageName}


def test_no_two_processes_of_a_stage_would_fence_each_other() -> None:
    names = Counter((service["command"], service["hostname"]) for service in stages())
    assert set(names.values()) == {1}


def test_no_stage_starts_before_the_topics_are_there() -> None:
    for service in stages():
        waits = service["depends_on"]["topics"]
        assert waits == {"condition": "service_completed_successfully"}, service["command"]


def test_what_others_wait_for_to_succeed_is_tried_again() -> None:
    awaited = {
        name
        for service in services().values()
        for name, waits in service.get("depends_on", {}).items()
        if waits["condition"] == "service_completed_successfully"
    }
    assert awaited == {"topics", "migrate"}
    assert {services()[name]["restart"] for name in awaited} == {"on-failure"}


def test_whatever_dies_comes_back_by_itself() -> None:
    lasting = services().keys() - {"topics", "migrate"}
    assert {services()[name].get("restart") for name in lasting} == {"unless-stopped"}


def test_a_server_is_healthy_only_when_it_answers_by_the_name_that_others_call() -> None:
    for name in ("kafka", "clickhouse"):
        service = services()[name]
        assert service["hostname"] == name
        assert f"/{name}" in service["healthcheck"]["test"][-1]
