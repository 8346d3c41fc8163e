"""Runs `meterline demo` as a user runs it, and reads back what it left for the oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from pipeline.generate import DEMO_DEFINITIONS, generate
from sinks.clickhouse.connect import connect
from tests.oracle import check, load_definitions

_MINUTES_MAX = 8


def play(
    tmp_path: Path,
    lines: Iterable[bytes],
    *options: str,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> tuple[list[bytes], dict[str, Any]]:
    """Runs the demo over `lines`; the lines and what was seen outside in the end.

    `meanwhile` is called with the demo's process id while it runs.
    """
    events = tmp_path / "events.ndjson"
    events.write_bytes(b"".join(line + b"\n" for line in lines))
    kept = tmp_path / "kept"
    report = tmp_path / "report.json"
    now = datetime.now(UTC).isoformat()
    command = [
        *(sys.executable, "-m", "meterline", "demo", "--events", str(events)),
        *("--config", str(DEMO_DEFINITIONS), "--report", str(report)),
        *("--directory", str(kept), *options),
    ]
    output = tmp_path / "output.txt"
    with (
        output.open("w") as written,
        subprocess.Popen(command, stdout=written, stderr=written) as demo,
    ):
        meanwhile(demo.pid)
        demo.wait(60 * _MINUTES_MAX)
    assert demo.returncode == 0, output.read_text()[-5_000:]
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
            "SELECT toString(status) AS status, source, id, source_partition, source_offset, "
            "source_index FROM set_aside FINAL",
        )
        places = "source_partition, source_offset, source_index"
        rejections = rows(client, f"SELECT {places} FROM rejections FINAL")
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
    return generate(10_000, 50, seed, datetime(2026, 11, 20, 12, tzinfo=UTC))
