"""The benchmark of ClickHouse feeds the sink what it says, and sees when merges fall behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from benchmarks.clickhouse_feed import ALL_TOPICS, Feed
from benchmarks.clickhouse_insert import measure
from benchmarks.clickhouse_merges import GROWTH_MAX, endure, thirds
from benchmarks.workload import Sum, Workload
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink
from tests.benchmarks.running import run_benchmark


def test_a_further_round_is_the_same_events_later_and_under_other_ids(tmp_path: Path) -> None:
    feed = Feed(20_000, per_write=10_000)
    connection = Connection(f"chdb://{tmp_path}/clickhouse", SecretStr(""))
    sink = ClickHouseSink(connection)
    with connection.client() as client:
        migrate(client)
    sink.write(feed.first, 0)
    writes = [*feed.round(0, ALL_TOPICS), *feed.round(1)]
    assert len(writes) == 4
    for records in writes:
        sink.write(records, 0)
    with connection.client() as client:
        rows = client.query(
            "SELECT source_offset >= 20000 AS is_later, count(), uniqExact(id),"
            " uniqExact(source_offset), sum(JSONExtractInt(data, 'value')), min(time)"
            " FROM events FINAL GROUP BY is_later ORDER BY is_later"
        ).result_rows
        ((ids,),) = client.query("SELECT uniqExact(id) FROM events").result_rows
        totals = client.query("SELECT customer, meter, value, events FROM totals FINAL").result_rows
    connection.close()
    expected = feed.workload.expected()
    accepted = sum(one.events for one in expected.values())
    assert [row[1:4] for row in rows] == [(accepted, accepted, accepted)] * 2
    assert {row[4] for row in rows} == {sum(one.value for one in expected.values())}
    assert (rows[1][5] - rows[0][5]).total_seconds() == 20
    assert ids == 2 * accepted
    assert {(row[0], row[1].replace("_", ".")): (row[2], row[3]) for row in totals} == expected


def test_a_round_after_the_end_of_the_month_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        next(Feed(100).round(30_000_000))


@pytest.mark.parametrize(
    ("parts", "kept_up"),
    [
        ([3, 9, 12, 10, 11, 12, 12, 10, 12], True),
        ([3, 9, 15, 20, 26, 31, 37, 44, 50], False),
    ],
)
def test_parts_that_grow_to_the_end_are_seen(parts: list[int], kept_up: bool) -> None:
    second, last = thirds(parts)
    assert (last <= second * GROWTH_MAX) == kept_up


@pytest.fixture
def one_more_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is to be larger by one than what is sent, of as many events."""
    right = Workload.expected

    def expected(workload: Workload) -> dict[tuple[str, str], Sum]:
        totals = right(workload).items()
        return {key: one._replace(value=one.value + 1) for key, one in totals}

    monkeypatch.setattr(Workload, "expected", expected)


@pytest.mark.usefixtures("one_more_expected")
def test_wrong_values_are_an_error_of_inserts_and_of_merges(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="events are there"):
        endure(tmp_path / "merges", 1_000, minutes=0.01, every_seconds=0.1)
    with pytest.raises(RuntimeError, match="is not what was sent"):
        measure(tmp_path / "insert", 1_000, rounds=1)


def test_it_measures_every_part_and_keeps_what_it_does_not_measure_again(tmp_path: Path) -> None:
    few = ["--events", "20000", "--rounds", "1", "--minutes", "0.05", "--sample-seconds", "0.2"]
    few += ["--rows", "50000", "--customers", "500", "--folder", str(tmp_path)]
    run_benchmark("clickhouse", *few)
    results = json.loads((tmp_path / "clickhouse.json").read_text())
    for name in ("sink", "bare insert", "conversion", "sink, with totals"):
        assert 0 < results["insert"][name]["rows_per_cpu_second"] < 1e8
    assert results["insert"]["sink"]["rows"] == 20_000
    assert results["merges"]["samples"][-1]["events_rows"] > 0
    assert results["merges"]["rows"] % 10_000 == 0
    queries = results["queries"]
    assert queries["tables"]["events"]["rows"] >= 50_000
    assert len(queries["queries"]) == 9
    for one in queries["queries"].values():
        assert 0 < one["warm_ms"]["p50"] <= one["warm_ms"]["max"]
    for chart in ("insert", "merges", "queries"):
        assert "<svg" in (tmp_path / f"clickhouse-{chart}.svg").read_text()
    run_benchmark("clickhouse", *few, "--only", "merges")
    again = json.loads((tmp_path / "clickhouse.json").read_text())
    assert again["queries"] == results["queries"]
    assert again["merges"] != results["merges"]
