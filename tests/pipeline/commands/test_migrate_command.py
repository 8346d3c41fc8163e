"""`meterline migrate` creates the tables, says so, and may be repeated."""

from __future__ import annotations

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
