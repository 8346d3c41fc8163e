"""The figures of `benchmarks.scaling` for people: a table, charts, and those in docs/scaling.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import charts as draw
from benchmarks.scaling_model import Model
from benchmarks.workload import Workload

_BEGIN = "<!-- figures: written by benchmarks.scaling -->"
_END = "<!-- end of figures -->"

#: (name of the sweep, what grows, how one point is called).
_SWEEPS = (
    ("events", "events", "events"),
    ("customers", "customers", "customers"),
    ("shards", "shards", "shards"),
    ("heaviest", "share of one customer", "heaviest_share"),
)


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title="microseconds of processor time an event")
    for column in ("", "intake", "tally", "memory"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in _costs(results):
        shown.add_row(*row)
    return shown


def charts(results: dict[str, Any], folder: Path) -> None:
    """Write one chart for each thing that grows."""
    for sweep, title, x in _SWEEPS[:3]:
        draw.lines(
            folder / f"scaling-{sweep}.svg",
            f"Cost of an event by {title}",
            title,
            "µs of processor time",
            {
                stage: [(point[x], point["cpu_us"][stage]) for point in results[sweep]]
                for stage in ("intake", "tally")
            },
            log_x=True,
        )
    for name, title, unit, column, log_y in (
        ("memory", "Memory of an id", "bytes", "bytes_per_id", False),
        ("rate", "Ids claimed", "ids per second of processor time", "ids_per_cpu_second", False),
        ("pause", "Longest claim of 20,000 ids", "milliseconds", "longest_claim_ms", True),
    ):
        draw.lines(
            folder / f"scaling-ids-{name}.svg",
            title,
            "ids in one table",
            unit,
            {title: [(point["ids"], point[column]) for point in results["ids"]]},
            log_x=True,
            log_y=log_y,
        )


def refreshed(page: Path, results: dict[str, Any]) -> str:
    """The page with these figures between its two marks.

    Raises:
        ValueError: the page lacks them.
    """
    before, after = around(page)
    return f"{before}\n{_figures(results)}\n{after}"


def around(page: Path) -> tuple[str, str]:
    """What stands before and after the page's figures, its two marks included.

    Raises:
        ValueError: the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page} has no {_BEGIN} … {_END}")
    return before + begin, end + after


def _figures(results: dict[str, Any]) -> str:
    model = Model.of(results)
    pauses = results["pauses"]
    machine = results["machine"] | {"load average before": f"{results['load_average_before']:.1f}"}
    sections = (
        "## What was measured",
        _markdown(("Load", "intake, µs", "tally, µs", "memory"), _costs(results)),
        "### Pauses",
        f"Steps of {pauses['per_step']:,} events in {pauses['shards']} shards.",
        _markdown(("Step", "how many", "p50", "p99", "longest"), _pauses(results)),
        "### Ids in one table",
        _markdown(
            ("Ids", "ids per CPU second", "bytes an id", "longest claim of 20,000"), _ids(results)
        ),
        "### On a real Kafka",
        _markdown(
            (
                "Load",
                "intake, µs",
                "tally, µs",
                "broker, µs",
                "intake, events/s",
                "tally, events/s",
            ),
            _on_kafka(results),
        ),
        f"## {model.events_per_second:,} events a second",
        _markdown(("What", "How it follows", "Needed", "Machines"), model.rows()),
        f"**The first bottleneck: {model.bottleneck()}**",
        "Measured on:",
        "\n".join(f"- {what}: {value}" for what, value in machine.items()),
    )
    return "\n\n".join(("", *sections)) + "\n"


def _costs(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Load, cost of intake and of tally, memory."""
    for sweep, title, x in _SWEEPS:
        for point in results[sweep]:
            size = f"{point[x]:,}"
            if x == "heaviest_share":
                size = f"{point[x]:.0%}" if point[x] else "as by rank, 0.5%"
            yield (
                f"{title}: {size}",
                f"{point['cpu_us']['intake']:.2f}",
                f"{point['cpu_us']['tally']:.2f}",
                f"{point['memory_bytes'] / 1e6:,.0f} MB",
            )


def _pauses(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    names = {
        "plain": "nothing special",
        "growth": "a table of ids grows",
        "snapshot": "a shard writes a piece of a snapshot",
    }
    for kind, found in results["pauses"]["step_ms"].items():
        durations = (f"{found[name]:,.1f} ms" for name in ("p50", "p99", "max"))
        yield names[kind], f"{found['steps']:,}", *durations


def _ids(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    points = results["ids"]
    for size in (10**power for power in range(5, 12)):
        reached = [point for point in points if point["ids"] <= size * 1.01]
        if size > points[-1]["ids"] * 1.01:
            return
        yield (
            f"{reached[-1]['ids']:,}",
            f"{reached[-1]['ids_per_cpu_second_from_empty']:,.0f}",
            f"{reached[-1]['bytes_per_id']:.1f}",
            f"{max(point['longest_claim_ms'] for point in reached):,.1f} ms",
        )


def _on_kafka(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for point in results["kafka"]:
        broker = sum(point[part]["cpu_us"]["broker"] for part in ("sending", "intake", "tally"))
        load = f"{point['events']:,} events, {point['tally_processes']} tally"
        if point["customers"] != Workload.customers:
            load += f", {point['customers']:,} customers"
        if point["heaviest_share"]:
            load += f", {point['heaviest_share']:.0%} of one customer"
        yield (
            load,
            f"{point['intake']['cpu_us']['intake']:.2f}",
            f"{point['tally']['cpu_us']['tally']:.2f}",
            f"{broker:.2f}",
            f"{point['intake']['per_second']:,.0f}",
            f"{point['tally']['per_second']:,.0f}",
        )


def _markdown(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = (heads, ("---",) * len(heads), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
