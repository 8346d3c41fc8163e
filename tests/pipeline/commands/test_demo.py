"""`meterline demo`: refuses before it starts what it could not end, and is alone in its world."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.generate import generate

PRODUCTION = {
    "METERLINE_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "METERLINE_SECURITY_PROTOCOL": "SASL_SSL",
    "METERLINE_SASL_USERNAME": "ann",
    "METERLINE_SASL_PASSWORD": "secret",
    "METERLINE_CLICKHOUSE_URL": "nonsense",
    "METERLINE_CLICKHOUSE_PASSWORD": "secret",
    "meterline_linger_ms": "nonsense",
}


def meterline_demo(*options: str | Path, **environment: str) -> tuple[int, str, str]:
    """Runs it to its end: exit code, output, errors."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "meterline", "demo", "--count", "50", *map(str, options)],
        capture_output=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        text=True,
        timeout=300,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_it_is_alone_in_its_world_and_keeps_all_in_a_directory_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of another deployment and modules where it is started change nothing.

    Most of the events do not say when they arrived, one says two days ago.
    """
    started_in, world = tmp_path / "project", tmp_path / "world"
    started_in.mkdir()
    world.mkdir()
    monkeypatch.chdir(started_in)
    for name in ("schemas", "pipeline", "queue", "stripe"):
        (started_in / f"{name}.py").write_text("raise AssertionError('of another program')")
    first, *rest = generate(50, 5, 1, datetime.now(UTC) - timedelta(days=2))
    lines = [first, *(re.sub(rb',"receivedat":"[^"]*"', b"", line) for line in rest)]
    events, kept = world / "events.ndjson", world / "Zähler, a #1%41"
    events.write_bytes(b"\n".join(lines))
    report = kept / "report.json"
    options = ("--events", events, "--directory", kept, "--report", report)
    code, output, errors = meterline_demo(*options, **PRODUCTION)
    assert code == 0, output + errors
    assert json.loads(report.read_text())["reconciled"]
    assert "in quarantine" not in output
    assert {path.name for path in world.iterdir()} == {events.name, kept.name}
    assert {path.suffix for path in started_in.iterdir()} == {".py"}
    assert (kept / "clickhouse" / "store").exists()


@pytest.mark.parametrize(
    ("option", "place", "said"),
    [
        ("--report", "none/report.json", "No such file or directory"),
        ("--report", ".", "Is a directory"),
        ("--directory", "file", "Not a directory"),
        ("--directory", "file/below", "Not a directory"),
        ("--directory", ".", "is not empty"),
    ],
)
def test_what_it_cannot_write_is_said_before_anything_starts(
    tmp_path: Path, option: str, place: str, said: str
) -> None:
    (tmp_path / "file").write_text("precious")
    code, output, errors = meterline_demo(option, tmp_path / place)
    assert (code, output) == (2, "")
    assert said in errors
    assert "Remedy: " in errors
    assert "Traceback" not in errors
