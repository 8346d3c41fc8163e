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


def test_the_settings_of_another_deployment_and_modules_where_it_is_started_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("schemas", "pipeline", "queue", "stripe"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('of another program')")
    report = tmp_path / "kept" / "report.json"
    options = ("--directory", tmp_path / "kept", "--report", report)
    code, output, errors = meterline_demo(*options, **PRODUCTION)
    assert code == 0, output + errors
    assert json.loads(report.read_text())["reconciled"]


def test_a_directory_may_have_any_name_and_all_is_kept_in_it(tmp_path: Path) -> None:
    """Most of the events do not say when they arrived, one says two days ago."""
    first, *rest = generate(50, 5, 1, datetime.now(UTC) - timedelta(days=2))
    lines = [first, *(re.sub(rb',"receivedat":"[^"]*"', b"", line) for line in rest)]
    events, kept = tmp_path / "events.ndjson", tmp_path / "Zähler, a #1%41"
    events.write_bytes(b"\n".join(lines))
    code, output, errors = meterline_demo("--events", events, "--directory", kept)
    assert code == 0, output + errors
    assert "in quarantine" not in output
    assert {path.name for path in tmp_path.iterdir()} == {events.name, kept.name}
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
