"""The figures of `benchmarks.clickhouse` for people: tables and charts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import charts
from benchmarks.clickhouse_insert import CONTENDERS

GOAL_ROWS_PER_CPU_SECOND = 400_000


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """For the terminal: one table for each part that was measured."""
    if "insert" in results:
        yield _insert_table(results)
    if "merges" in results:
        yield _merges_table(results["merges"])
    if "queries" in results:
        yield _queries_table(results["queries"])


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write the charts of what was measured."""
    if "insert" in results:
        found = _insert_rows(results["insert"])
        charts.bars(
            folder / "clickhouse-insert.svg",
            "Rows into ClickHouse",
            "rows per CPU second, engine included",
            {name: one["rows_per_cpu_second"] for name, one in found.items()},
        )
    if "merges" in results:
        samples = results["merges"]["samples"]
        charts.lines(
            folder / "clickhouse-merges.svg",
            "Parts of the table while rows are inserted at full speed",
            "minutes",
            "active parts",
            {"events": [(one["seconds"] / 60, one["events_parts"]) for one in samples]},
        )
    if "queries" in results:
        found = results["queries"]
        charts.bars(
            folder / "clickhouse-queries.svg",
            f"Analysts' queries on {charts.short(found['rows'])} events",
            "milliseconds, median, warm",
            {name: one["warm_ms"]["p50"] for name, one in found["queries"].items()},
        )


def _insert_rows(insert: dict[str, Any]) -> dict[str, dict[str, float]]:
    """All but the conversion, which inserts nothing."""
    return {name: insert[name] for name in CONTENDERS if name != "conversion"}


def _insert_table(results: dict[str, Any]) -> Table:
    insert = results["insert"]
    shown = _table(
        "rows into the engine; CPU of the whole process, engine included",
        ("", "rows/CPU s", "of bare insert", "after all merges", "rows/s (wall)"),
    )
    for name, one in _insert_rows(insert).items():
        like = "bare insert, merges put off" if "put off" in name else "bare insert"
        bare = insert[like]["rows_per_cpu_second"]
        shown.add_row(
            name,
            f"{one['rows_per_cpu_second']:,.0f}",
            f"{one['rows_per_cpu_second'] / bare:.0%}",
            f"{one['rows_per_cpu_second_merged']:,.0f}",
            f"{one['rows_per_second']:,.0f}",
        )
    shown.caption = (
        f"Goal: {GOAL_ROWS_PER_CPU_SECOND:,} rows/CPU s. Conversion to Arrow alone: "
        f"{insert['conversion']['rows_per_cpu_second']:,.0f}. "
        f"{insert['disk']['bytes_per_event']:.1f} bytes an event on disk."
    )
    return shown


def _merges_table(merges: dict[str, Any]) -> Table:
    shown = _table(
        f"{merges['minutes']:.1f} minutes at full speed: merges "
        f"{'kept up' if merges['kept_up'] else 'FELL BEHIND'}",
        ("", ""),
    )
    for name, value in (
        ("rows", f"{merges['rows']:,}"),
        ("rows/s (wall)", f"{merges['rows_per_second']:,.0f}"),
        ("rows/CPU s", f"{merges['rows_per_cpu_second']:,.0f}"),
        ("parts, on average in the second third", f"{merges['parts_second_third']:.1f}"),
        ("parts, on average in the last third", f"{merges['parts_last_third']:.1f}"),
        ("parts, at most", f"{merges['parts_max']:,}"),
        ("parts at which inserts are delayed", f"{merges['parts_to_delay_insert']:,}"),
        ("delayed inserts", f"{merges['delayed_inserts']:,}"),
        ("merges went on after the last insert", f"{merges['merging_seconds_after']:.1f} s"),
    ):
        shown.add_row(name, value)
    return shown


def _queries_table(queries: dict[str, Any]) -> Table:
    events = queries["tables"]["events"]
    shown = _table(
        f"{queries['rows']:,} events of {queries['customers']:,} customers in {events['parts']} "
        f"parts, {events['bytes_on_disk'] / 1e9:.2f} GB; milliseconds",
        ("", "warm p50", "warm max", "cold p50", "cold max"),
    )
    for name, one in queries["queries"].items():
        cells = [one[kind][which] for kind in ("warm_ms", "cold_ms") for which in ("p50", "max")]
        shown.add_row(name, *(f"{cell:,.1f}" for cell in cells))
    shown.caption = (
        f"Filled in {queries['filled_seconds']:,.0f} s; "
        f"the p99 of each hour is computed anew in {queries['kept_seconds']:.1f} s."
    )
    return shown


def _table(title: str, columns: tuple[str, ...]) -> Table:
    shown = Table(title=title)
    for column in columns:
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    return shown
