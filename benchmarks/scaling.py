"""What an event costs, and what state takes, as events, customers, shards and processes grow.

    uv run python -m benchmarks.scaling [--events-max 10000000] [--ids-max 100000000]
    uv run python -m benchmarks.scaling --only events pauses --events-max 100000000

Most of it drives the pure core in memory, each load in a process of its own; a few points run on a
real Kafka, to show that the whole agrees. Totals are checked everywhere they are made.

Writes FOLDER/scaling.json, the charts FOLDER/scaling-*.svg, and the figures in docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.command import run
from benchmarks.options import customers_number, events_number, file, folder, positive
from benchmarks.scaling_core import BATCH, Shape, drive
from benchmarks.scaling_ids import claim_ids
from benchmarks.scaling_kafka import on_kafka
from benchmarks.scaling_report import around, charts, refreshed, table
from benchmarks.stages import machine
from benchmarks.workload import Workload

_SMALLEST = 100_000
#: A customer's first events cost most, and a month of one has more than those.
_EVENTS_A_CUSTOMER = 10
_HEAVIEST = (0.0, 0.9)
_SWEEPS = ("events", "customers", "shards", "heaviest", "pauses", "ids", "kafka")


@dataclass(frozen=True)
class Sizes:
    """How far to go. `events_each` is for every point that does not vary the events; that of many
    customers has more.
    """

    events_max: int
    events_each: int
    ids_max: int
    kafka_events: int
    kafka_customers: Sequence[int]
    customers: Sequence[int]
    shards: Sequence[int]
    tally_processes: Sequence[int]


def measure(sizes: Sizes, sweeps: Sequence[str], say: Console) -> dict[str, Any]:
    """The figures of some sweeps, each load in a process of its own."""
    load_before = os.getloadavg()[0]
    each = sizes.events_each
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:

        def driven(shape: Shape, marks: Sequence[int] = ()) -> list[dict[str, Any]]:
            say.print(
                f"{shape.events:,} events of {shape.customers:,} customers in {shape.shards} "
                f"shards, {shape.per_step:,} a step…"
            )
            return processes.submit(drive, shape, marks).result()

        def claimed() -> list[dict[str, float]]:
            say.print(f"{sizes.ids_max:,} ids in one table…")
            return processes.submit(claim_ids, sizes.ids_max).result()

        small = BATCH // 2
        found: dict[str, Callable[[], Any]] = {
            "events": lambda: driven(Shape(sizes.events_max), _decades(sizes.events_max)),
            "customers": lambda: [
                driven(Shape(_enough(each, n), customers=n))[-1] for n in sizes.customers
            ],
            "shards": lambda: [driven(Shape(each, shards=n))[-1] for n in sizes.shards],
            "heaviest": lambda: [driven(Shape(each, heaviest_share=s))[-1] for s in _HEAVIEST],
            # In small steps, as when everything is counted as soon as it comes.
            "pauses": lambda: driven(Shape(sizes.events_max, batch=small, per_step=small))[-1],
            "ids": claimed,
            "kafka": lambda: list(_on_kafka(sizes, say)),
        }
        results = {sweep: found[sweep]() for sweep in sweeps}
    return results | {"load_average_before": load_before, "machine": machine()}


def added(kept: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Kept figures with those that were measured now; under the highest load of both."""
    load = "load_average_before"
    highest = max(figures[load] for figures in (kept, measured) if figures)
    return kept | measured | {load: highest}


def _on_kafka(sizes: Sizes, say: Console) -> Iterator[dict[str, Any]]:
    for heaviest_share in _HEAVIEST:
        for count in sizes.tally_processes:
            say.print(f"On Kafka, {count} tally, {heaviest_share:.0%} of one customer…")
            yield on_kafka(Workload(sizes.kafka_events, heaviest_share=heaviest_share), count)
    for customers in sizes.kafka_customers:
        say.print(f"On Kafka, {customers:,} customers…")
        events = _enough(sizes.kafka_events, customers)
        yield on_kafka(Workload(events, customers=customers), 1)


def _enough(events: int, customers: int) -> int:
    """So many events, or what so many customers have."""
    return max(events, _EVENTS_A_CUSTOMER * customers)


def _decades(events_max: int) -> list[int]:
    """10^5, 10^6 and so on, below `events_max`."""
    marks = [_SMALLEST]
    while marks[-1] * 10 < events_max:
        marks.append(marks[-1] * 10)
    return marks


def _page(text: str) -> Path:
    """A page that takes figures.

    Raises:
        ArgumentTypeError: it does not, or cannot be written.
    """
    page = file(text)
    try:
        around(page)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return page


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument(
        "--events-max",
        type=events_number,
        default=10_000_000,
        help="the most events; 100000000 take 20 minutes",
    )
    options.add_argument(
        "--events-each", type=events_number, default=1_000_000, help="events of every other point"
    )
    options.add_argument("--ids-max", type=positive, default=100_000_000, help="ids in one table")
    options.add_argument(
        "--kafka-events", type=events_number, default=3_000_000, help="events on Kafka"
    )
    options.add_argument(
        "--kafka-customers",
        type=customers_number,
        nargs="*",
        default=[10, 1_000_000],
        help="besides 10,000",
    )
    options.add_argument(
        "--customers",
        type=customers_number,
        nargs="+",
        default=[10, 1_000, 10_000, 100_000, 1_000_000],
    )
    options.add_argument("--shards", type=positive, nargs="+", default=[1, 4, 16, 64])
    options.add_argument("--tally-processes", type=positive, nargs="+", default=[1, 2])
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="where results are saved"
    )
    options.add_argument(
        "--page", type=_page, default="docs/scaling.md", help="whose figures are refreshed"
    )
    options.add_argument(
        "--only", nargs="+", choices=_SWEEPS, help="measure these, and keep the rest as it is saved"
    )
    chosen = options.parse_args()
    saved = chosen.folder / "scaling.json"
    if chosen.only and not saved.exists():
        options.error(f"--only needs the figures of a whole run in {saved}")
    kept = json.loads(saved.read_text()) if chosen.only else {}
    if kept and kept["machine"] != machine():
        options.error(f"--only: what {saved} keeps was measured on another machine or system")
    sizes = Sizes(**{one.name: getattr(chosen, one.name) for one in fields(Sizes)})
    results = added(kept, measure(sizes, chosen.only or _SWEEPS, Console(stderr=True)))
    Console(highlight=False).print(table(results))
    page = refreshed(chosen.page, results)
    charts(results, chosen.folder)
    saved.write_text(json.dumps(results, indent=1) + "\n")
    chosen.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
