"""`meterline migrate` creates the tables, says so, and may be repeated."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.migrate import migrate
from pipeline.errors import Stop


def test_it_says_what_it_applied_and_then_that_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("METERLINE_CLICKHOUSE_URL", f"chdb://{tmp_path}/clickhouse")
    migrate()
    assert "applied 0001_events.sql" in capsys.readouterr().out
    migrate()
    assert capsys.readouterr().out.startswith("Nothing to do")


def test_a_database_that_cannot_be_opened_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_CLICKHOUSE_URL", "chdb:///proc/none")
    with pytest.raises(Stop, match="cannot open"):
        migrate()


def test_an_address_where_nobody_answers_is_all_that_it_tells() -> None:
    program = "import sys; from pipeline.cli import main; main()"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-c", program, "migrate"],
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "METERLINE_CLICKHOUSE_URL": f"http://{place}/usage"},
        )
    assert ended.returncode == 75
    said, remedy = ended.stderr.splitlines()
    assert said.startswith(f"No ClickHouse answers at {place}: ")
    assert remedy.startswith("Remedy: Check METERLINE_CLICKHOUSE_URL")
