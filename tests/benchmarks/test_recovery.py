"""The benchmark of recovery runs to its end, and measures and reports what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.recovery_report import _PAGE
from benchmarks.under_load import end_of_longest_silence
from pipeline.dedupe import _LOAD_MAX, _PARTS, _SLOT
from tests.benchmarks.running import run_benchmark

#: So that they transact five times a second, not as often as the broker can.
SELDOM = {"METERLINE_LINGER_MS": "200", "METERLINE_TALLY_LINGER_MS": "200"}


@pytest.mark.parametrize(
    ("seen", "end"),
    [
        # The longest silence before the death says nothing.
        ([0.0, 5.0, 9.9, 10.1, 12.0, 12.1], 12.0),
        # What was readable only just after the death had been committed before it.
        ([9.9, 10.05, 14.0, 14.1], 14.0),
        # Another owner's shards fall silent later, when the group shares them out anew.
        ([9.9, 10.2, 19.8, 20.0, 31.0, 31.1], 31.0),
    ],
)
def test_a_shard_counts_again_when_its_longest_silence_ends(seen: list[float], end: float) -> None:
    assert end_of_longest_silence(seen, since=10.0) == end


def test_it_measures_restores_restarts_and_take_overs(tmp_path: Path) -> None:
    few = ["--ids", "20000", "--restarts", "1", "--takeovers", "1", "--handovers", "1"]
    report = tmp_path / "recovery.md"
    ran = run_benchmark("recovery", *few, "--json", "--report", str(report), **SELDOM)
    measured = json.loads(ran.stdout)
    assert measured["from_kafka"]["ids"] == measured["from_mirror"]["ids"] == 20_000
    assert measured["from_kafka"]["totals"] == measured["totals"] == 40_000
    assert measured["mirror_bytes"] >= measured["changelog_bytes"] > 22 * 20_000
    for name in ("restarts", "restarts_without_mirror", "takeovers", "handovers"):
        assert len(measured[name]) == 1
        assert measured[name][0] > 0
    # Nobody takes over before the group misses the dead; its last heartbeat is a while ago.
    assert measured["takeovers"][0] > measured["session_timeout"] / 2
    text = report.read_text()
    assert "--ids 20000 --takeovers 1 --report" in text
    assert "restart after kill -9" in text


def test_the_page_and_what_writes_it_tell_how_the_table_of_ids_grows() -> None:
    (told,) = re.findall(r"^- \*\*Memory\*\*.+?(?=\n\n)", _PAGE, re.DOTALL | re.MULTILINE)
    assert told in (Path(__file__).parents[2] / "docs/recovery.md").read_text("utf-8")
    assert f"{_SLOT.itemsize} bytes a slot. Its {_PARTS} parts" in told
    assert f"at {100 * _LOAD_MAX:.0f} % load" in told
