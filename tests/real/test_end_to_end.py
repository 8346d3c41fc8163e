"""The whole path on a real broker, judged by an oracle that shares no code with the product.

`meterline demo` runs as a user runs it, in a process of its own; what it left in ClickHouse, in
Kafka and at Stripe is read back and handed to the oracle.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.generate import DEMO_DEFINITIONS, generate
from sinks.clickhouse.connect import connect
from tests.oracle import check, load_definitions
from tests.traces import azure_lines, hostile_lines

_MINUTES_MAX = 8


def play(
    tmp_path: Path, lines: Iterable[bytes], *options: str
) -> tuple[list[bytes], dict[str, Any]]:
    """Runs the demo over `lines`; the lines and what was seen outside in the end."""
    events = tmp_path / "events.ndjson"
    events.write_bytes(b"".join(line + b"\n" for line in lines))
    kept = tmp_path / "kept"
    report = tmp_path / "report.json"
    now = datetime.now(UTC).isoformat()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "meterline", "demo", "--events", str(events)),
            *("--config", str(DEMO_DEFINITIONS), "--report", str(report)),
            *("--directory", str(kept), *options),
        ],
        capture_output=True,
        text=True,
        timeout=60 * _MINUTES_MAX,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    # The same bytes as were played: a file's lines, whatever they hold.
    with events.open("rb") as file:
        played = list(file)
    return played, observed(kept, json.loads(report.read_text()), now)


def observed(kept: Path, report: dict[str, Any], now: str) -> dict[str, Any]:
    """Everything that is seen outside, in the oracle's words."""
    client = connect(f"chdb://{kept / 'clickhouse'}", SecretStr(""))
    try:
        events = rows(
            client,
            "SELECT customer, type, source, id, data, "
            "formatDateTime(time, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC') AS time FROM events FINAL",
        )
        set_aside = rows(
            client,
            "SELECT toString(status) AS status, source, id, source_partition, source_offset "
            "FROM set_aside FINAL",
        )
        rejections = rows(client, "SELECT source_partition, source_offset FROM rejections FINAL")
    finally:
        client.close()
    with (kept / "stripe.ndjson").open() as journal:
        stripe = [json.loads(line) for line in journal]
    return {
        "ledger": report["ledger"],
        "events": events,
        "set_aside": set_aside,
        "rejections": rejections,
        "totals": report["totals"],
        "alerts": report["alerts"],
        "stripe": stripe,
        "quarantine": report.get("quarantine", []),
        "report": report,
        "now": now,
    }


def rows(client: Any, query: str) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    result = client.query(query)
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def differences(played: list[bytes], seen: dict[str, Any]) -> list[str]:
    """What the oracle finds."""
    return check(load_definitions(DEMO_DEFINITIONS.read_text()), played, seen)


def demo_events(seed: int) -> Iterable[bytes]:
    """The demo's own events, with everything that it injects."""
    return generate(20_000, 50, seed, datetime(2026, 11, 20, 12, tzinfo=UTC))


def test_the_demo_s_events_are_counted_stored_alerted_and_billed_exactly(tmp_path: Path) -> None:
    played, seen = play(tmp_path, demo_events(seed=7))
    assert differences(played, seen) == []
    assert min(seen["ledger"].values()) > 0, "every outcome occurs"
    assert len(seen["alerts"]) > 10
    assert seen["quarantine"] == []

    counted = seen["events"][0]["id"].encode()
    lost = [line for line in played if counted not in line]
    assert differences(lost, seen), "the oracle notices one event more than was sent"


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
