"""The compose file runs every stage, each under a host name of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.commands.wire import StageName

COMPOSE = Path(__file__).parents[1] / "docker-compose.yml"


def stages() -> list[dict[str, Any]]:
    services = yaml.safe_load(COMPOSE.read_text())["services"].values()
    return [service for service in services if service.get("command", "").startswith("run ")]


def test_every_stage_is_a_service() -> None:
    assert {service["command"] for service in stages()} == {f"run {stage}" for stage in StageName}


def test_no_two_processes_of_a_stage_would_fence_each_other() -> None:
    names = Counter((service["command"], service["hostname"]) for service in stages())
    assert set(names.values()) == {1}


def test_no_stage_starts_before_the_topics_are_there() -> None:
    for service in stages():
        waits = service["depends_on"]["topics"]
        assert waits == {"condition": "service_completed_successfully"}, service["command"]
