"""The figures of `benchmarks.latency` for people: a table, a page and a chart."""

from __future__ import annotations

from collections.abc import Iterator
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

One process of intake, one of tally, and their broker, warmed up before, share one machine with the
sender and the reader. The loads are shares of what all of that together carries when it is sent at
once: {capacities}.

Each latency counts from when the event was due on a fixed schedule, whenever it was sent, until a
`read_committed` consumer has its total, or the alert on the threshold that it crossed. Goal at half
load: p50 below {p50} ms, p99 below {p99} ms.

![Latency by percentile](latency.svg)

| Shards | Load | | p50 | p99 | p99.9 | max |
|---|---|---|---|---|---|---|
{latency}

## Where the time goes

Milliseconds between the timestamps of an event's records. The first hop begins when the event was
due and includes the client's linger; a hop between two stages includes the transaction of the first
one, as nothing is readable before its end.

| Shards | Load | | p50 | p99 | p99.9 | max |
|---|---|---|---|---|---|---|
{hops}

## Was it measured well?

| Shards | Load | Probes | Sender behind its schedule, p50 / p99 / max | Processor time, in cores |
|---|---|---|---|---|
{quality}

{machine}
"""


def table(deployment: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"{_carried(deployment)}; milliseconds")
    for column in ("load", "", *_COLUMNS):
        shown.add_column(column, justify="right" if column in _COLUMNS else "left", no_wrap=True)
    for load in deployment["loads"]:
        for kind in ("latency_ms", "hops_ms"):
            for what, found in load[kind].items():
                shown.add_row(_rate(load), _named(what), *_cells(found))
        shown.add_row(_rate(load), "sender behind its schedule", *_cells(load["sender_lag_ms"]))
    return shown


def markdown(results: dict[str, Any]) -> str:
    """For docs/benchmarks/latency.md."""
    machine = results["machine"] | {
        "load average before": f"{results['load_average_before']:.1f}",
    }
    return _PAGE.format(
        capacities=", ".join(map(_carried, results["deployments"])),
        **GOAL_MS,
        latency=_rows(results, "latency_ms"),
        hops=_rows(results, "hops_ms"),
        quality="\n".join(_quality(shards, load) for shards, load in _loads(results)),
        machine="\n".join(f"- {what}: {value}" for what, value in machine.items()),
    )


def chart(results: dict[str, Any], path: Path) -> None:
    """Write how soon totals are readable; each further nine of them is as wide as the last one."""
    charts.lines(
        path,
        "Event to readable total under open-loop load",
        "one event in so many takes longer",
        "milliseconds",
        {
            f"shards: {shards}, {_rate(load)}": [
                (1 / (1 - percent / 100), milliseconds)
                for percent, milliseconds in load["curve_ms"]["total"]
            ]
            for shards, load in _loads(results)
        },
        log_x=True,
        log_y=True,
    )


def _loads(results: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each load, with the number of shards of its deployment."""
    for deployment in results["deployments"]:
        for load in deployment["loads"]:
            yield deployment["shards"], load


def _carried(deployment: dict[str, Any]) -> str:
    shards = "1 shard" if deployment["shards"] == 1 else f"{deployment['shards']} shards"
    return f"{deployment['capacity_per_second']:,.0f} events/s with {shards}"


def _rate(load: dict[str, Any]) -> str:
    """What a load is called: its rate, and its share of the capacity."""
    return f"{load['per_second']:,}/s, {load['of_capacity']:.0%}"


def _rows(results: dict[str, Any], kind: str) -> str:
    return "\n".join(
        f"| {' | '.join((str(shards), _rate(load), _named(what), *_cells(found)))} |"
        for shards, load in _loads(results)
        for what, found in load[kind].items()
    )


def _quality(shards: int, load: dict[str, Any]) -> str:
    lag = load["sender_lag_ms"]
    cores = ", ".join(f"{process} {share:.2f}" for process, share in load["cpu_share"].items())
    behind = f"{lag['p50']:.1f} / {lag['p99']:.1f} / {lag['max']:.1f} ms"
    return f"| {shards} | {_rate(load)} | {load['probes']:,} | {behind} | {cores} |"


def _cells(found: dict[str, float]) -> list[str]:
    return [f"{found[column]:,.{0 if found[column] >= 100 else 1}f}" for column in _COLUMNS]


def _named(what: str) -> str:
    return {"total": "event → total", "alert": "crossing → alert"}.get(what, what)
