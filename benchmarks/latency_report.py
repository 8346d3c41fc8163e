"""The figures of `benchmarks.latency` for people: a table, a page and a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import charts

#: Of events to totals and of crossings to alerts, at half load, in milliseconds.
GOAL_MS = {"p50": 40, "p99": 100}

_COLUMNS = ("p50", "p99", "p99.9", "max")

_PAGE = """\
# How soon a total and an alert are readable

Written by the command that measures it:

```sh
uv run python -m benchmarks.latency
```

One process of intake, one of tally with {shards} shards, and their broker, warmed up before, share
one machine with the sender and the reader. All of that together carries {capacity:,.0f} events a
second, when they are sent at once; the loads are shares of it. Each latency counts from when the
event was due on a fixed schedule, whenever it was sent, until a `read_committed` consumer has its
total, or the alert on the threshold that it crossed. Goal at half load: p50 below {p50} ms, p99
below {p99} ms.

![Latency by percentile](latency.svg)

| Load | | p50 | p99 | p99.9 | max |
|---|---|---|---|---|---|
{latency}

## Where the time goes

Milliseconds between the timestamps of an event's records. The first hop begins when the event was
due and includes the client's linger; a hop between two stages includes the transaction of the first
one, as nothing is readable before its end.

| Load | | p50 | p99 | p99.9 | max |
|---|---|---|---|---|---|
{hops}

## Was it measured well?

| Load | Probes | Sender behind its schedule, p50 / p99 / max | Processor time, in cores |
|---|---|---|---|
{quality}

{machine}
"""


def name(load: dict[str, Any]) -> str:
    """What a load is called: its rate, and its share of the capacity."""
    return f"{load['per_second']:,}/s, {load['of_capacity']:.0%}"


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"capacity {results['capacity_per_second']:,.0f} events/s; milliseconds")
    for column in ("load", "", *_COLUMNS):
        shown.add_column(column, justify="right" if column in _COLUMNS else "left", no_wrap=True)
    for load in results["loads"]:
        for kind in ("latency_ms", "hops_ms"):
            for what, found in load[kind].items():
                shown.add_row(name(load), _named(what), *_cells(found))
        shown.add_row(name(load), "sender behind its schedule", *_cells(load["sender_lag_ms"]))
    return shown


def markdown(results: dict[str, Any]) -> str:
    """For docs/benchmarks/latency.md."""
    loads = results["loads"]
    machine = results["machine"] | {
        "load average before": f"{results['load_average_before']:.1f}",
    }
    return _PAGE.format(
        capacity=results["capacity_per_second"],
        shards=results["shards"],
        **GOAL_MS,
        latency=_rows(loads, "latency_ms"),
        hops=_rows(loads, "hops_ms"),
        quality="\n".join(map(_quality, loads)),
        machine="\n".join(f"- {what}: {value}" for what, value in machine.items()),
    )


def chart(results: dict[str, Any], path: Path) -> None:
    """Write the percentile curves; each further nine of the distribution is as wide as the last."""
    charts.lines(
        path,
        "Latency under open-loop load",
        "one event in so many takes longer",
        "milliseconds",
        {
            f"{_named(what)}, {name(load)}": [
                (1 / (1 - percent / 100), milliseconds) for percent, milliseconds in curve
            ]
            for load in results["loads"]
            for what, curve in load["curve_ms"].items()
        },
        log_x=True,
        log_y=True,
    )


def _rows(loads: list[dict[str, Any]], kind: str) -> str:
    return "\n".join(
        f"| {' | '.join((name(load), _named(what), *_cells(found)))} |"
        for load in loads
        for what, found in load[kind].items()
    )


def _quality(load: dict[str, Any]) -> str:
    lag = load["sender_lag_ms"]
    cores = ", ".join(f"{process} {share:.2f}" for process, share in load["cpu_share"].items())
    behind = f"{lag['p50']:.1f} / {lag['p99']:.1f} / {lag['max']:.1f} ms"
    return f"| {name(load)} | {load['probes']:,} | {behind} | {cores} |"


def _cells(found: dict[str, float]) -> list[str]:
    return [f"{found[column]:,.{0 if found[column] >= 100 else 1}f}" for column in _COLUMNS]


def _named(what: str) -> str:
    return {"total": "event → total", "alert": "crossing → alert"}.get(what, what)
