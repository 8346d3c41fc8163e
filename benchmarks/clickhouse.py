"""The ClickHouse sink's insert path, whether merges keep up with it, and the analysts' queries.

    uv run python -m benchmarks.clickhouse [--minutes 10] [--rows 100000000] [--only insert]

The engine is chDB through clickhouse-connect, in a process of its own for each part. `insert` feeds
the sink packs and decisions as intake and tally write them, made beforehand, and beside it inserts
the same columns with `insert_arrow` alone. `merges` does so at full speed for `--minutes` and
counts parts. `queries` lets the engine make `--rows` events and times the queries of
docs/for-analysts.md; 100,000,000 events need about 3 GB on disk, twice that while they are merged.

Writes FOLDER/clickhouse.json and clickhouse-*.svg; parts that were not measured stay as saved.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import clickhouse_insert, clickhouse_merges, clickhouse_queries
from benchmarks.clickhouse_report import draw, tables
from benchmarks.command import run
from benchmarks.options import duration, events_number, folder, positive
from benchmarks.stages import machine

#: The names of queries are long.
_WIDTH = 110

PARTS = ("insert", "merges", "queries")


def measure(
    parts: Sequence[str], options: argparse.Namespace, say: Console
) -> dict[str, dict[str, Any]]:
    """The figures of each part, on an empty database in a process of its own."""
    found = {}
    calls: dict[str, tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = {
        "insert": (clickhouse_insert.measure, (options.events, options.rounds)),
        "merges": (
            clickhouse_merges.endure,
            (options.events // 2, options.minutes, options.sample_seconds),
        ),
        "queries": (clickhouse_queries.measure, (options.rows, options.customers)),
    }
    for part in parts:
        say.print(f"Measuring {part}…")
        load_before = os.getloadavg()[0]
        with (
            tempfile.TemporaryDirectory(prefix="meterline-", dir=options.scratch) as scratch,
            ProcessPoolExecutor(1, get_context("spawn")) as process,
        ):
            measured, arguments = calls[part]
            figures = process.submit(measured, Path(scratch, "clickhouse"), *arguments).result()
        found[part] = figures | {"load_average_before": load_before}
    return found


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    options.add_argument(
        "--events", type=events_number, default=1_000_000, help="inserted in each round"
    )
    options.add_argument("--rounds", type=positive, default=3, help="of inserts")
    options.add_argument("--minutes", type=duration, default=10, help="of inserting at full speed")
    options.add_argument(
        "--sample-seconds", type=duration, default=5, help="between looks at parts"
    )
    options.add_argument(
        "--rows", type=positive, default=100_000_000, help="events that are queried"
    )
    options.add_argument(
        "--customers", type=positive, default=100_000, help="who have these events"
    )
    options.add_argument(
        "--scratch", type=folder, help="where databases are, while they are needed"
    )
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="where results are saved"
    )
    chosen = options.parse_args()
    if chosen.sample_seconds >= 60 * chosen.minutes:
        options.error("--sample-seconds: nothing would be looked at within --minutes")
    saved = chosen.folder / "clickhouse.json"
    results = json.loads(saved.read_text()) if saved.exists() else {}
    here = machine() | {name: version(name) for name in ("chdb", "clickhouse-connect")}
    if {*PARTS} & results.keys() - {*chosen.only} and results["machine"] != here:
        options.error(f"--only: what {saved} keeps was measured on another machine or system")
    results |= measure(chosen.only, chosen, Console(stderr=True))
    results["machine"] = here
    console = Console(highlight=False, width=_WIDTH)
    for table in tables({part: results[part] for part in chosen.only}):
        console.print(table)
    draw(results, chosen.folder)
    saved.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
