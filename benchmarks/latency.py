"""How soon an event is in a readable total, and a crossing in a readable alert, under load.

    uv run python -m benchmarks.latency [--seconds 60] [--rates 20000 40000 60000] [--shards 1 4]

For each number of shards it starts a local Kafka, `meterline run intake` and `meterline run tally`,
and warms all of it up with events. First it finds what this machine can carry of it, sender and
reader included: how many events a second go through when all are sent at once. Then events come at
25, 50 and 75 % of that (or at `--rates`), on a fixed schedule that does not wait for anybody. A
`read_committed` consumer notes when totals and alerts of the probes among them become readable;
both count from when the probe was due.

Writes FOLDER/latency.json, latency.svg and latency.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.backlog import decided, drain
from benchmarks.command import run
from benchmarks.histogram import Histogram
from benchmarks.latency_load import Load, Observer, Sent, packed_ms, send
from benchmarks.latency_report import chart, markdown, table
from benchmarks.meters import DEFINITIONS
from benchmarks.options import duration, duration_or_none, folder, positive
from benchmarks.stages import machine
from benchmarks.under_load import Processes, settings_for
from benchmarks.usage import Usage
from schemas import topics
from streams.ask_leader import watermarks
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.read import reader
from streams.topics import create_topics

SHARES = (0.25, 0.5, 0.75)

_PROBES_PER_SECOND = 500
#: The load that warms up has the first number, the one that finds the capacity the second, the
#: others those after it.
_WARM_UP, _FLAT_OUT = range(2)
#: On two slow cores latencies no longer fall after three minutes of so many events a second: what
#: the broker needs for them is compiled.
_WARM_UP_PER_SECOND = 20_000
_WARM_UP_SECONDS = 180.0
_PATIENCE_SECONDS = 120.0
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Deployment:
    """What runs: a broker, and one process of each stage."""

    kafka: Mapping[str, str]
    shards: int
    usages: Mapping[str, Usage]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time that each process has taken so far."""
        return {name: usage.cpu_seconds() for name, usage in self.usages.items()}


@contextmanager
def deployment(shards: int) -> Iterator[Deployment]:
    """Run everything."""
    with (
        tempfile.TemporaryDirectory(prefix="meterline-latency-") as scratch,
        LocalKafka(Path(scratch, "kafka"), jvm=FULL_SPEED) as broker,
    ):
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, topics.sized(shards=shards), keep_for_ever=True)
        directory = Path(scratch)
        settings = settings_for(broker.address, DEFINITIONS, directory)
        with Processes(settings, directory / "processes.log") as processes:
            pids = {"broker": broker.pid or 0}
            for stage in ("intake", "tally"):
                pids[stage] = processes.start(stage, f"a-{stage}")
                processes.wait_for_members(stage, 1)
            usages = {name: Usage([pid]) for name, pid in pids.items()}
            yield Deployment(kafka, shards, usages)


def warm_up(
    seconds: float, deployed: Deployment, count: Callable[[], int], sender: Executor
) -> Load:
    """Events for so long, which do not count; `count` says how many are decided.

    Raises:
        TimeoutError: nothing moves any more.
        RuntimeError: an event was not delivered.
    """
    load = Load(_WARM_UP, _WARM_UP_PER_SECOND, seconds, 0, _PROBES_PER_SECOND)
    sender.submit(send, deployed.kafka["bootstrap.servers"], load).result()
    drain(count, load.events, {})
    return load


def capacity(
    events: int,
    deployed: Deployment,
    count: Callable[[], int],
    before: Load,
    observer: Observer,
    sender: Executor,
) -> float:
    """How many events a second go through everything, when so many are due within one second.

    Raises:
        TimeoutError: nothing moves any more.
        RuntimeError: an event was not delivered.
    """
    load = Load(_FLAT_OUT, events, 1, 0, min(events, _PROBES_PER_SECOND))
    sending = sender.submit(send, deployed.kafka["bootstrap.servers"], load)

    def done() -> int:
        if sending.done():
            sending.result()
        return count() - before.events

    drain(done, load.events, {})
    end_ns = time.monotonic_ns()
    observer.wait_for(load.probes, _PATIENCE_SECONDS)
    return load.events * 1e9 / (end_ns - sending.result().begin_ns)


def under(load: Load, deployed: Deployment, observer: Observer, sender: Executor) -> dict[str, Any]:
    """The figures of one load.

    Raises:
        TimeoutError: a probe's total or alert never came.
        RuntimeError: an alert came twice, or a probe's total is wrong.
    """
    begins = _ends(deployed, topics.METERED.name)
    cpu_before = deployed.cpu_seconds() | {"reader": time.process_time()}
    sent: Sent = sender.submit(send, deployed.kafka["bootstrap.servers"], load).result()
    cpu_after = deployed.cpu_seconds() | {"reader": time.process_time()}
    observer.wait_for(load.probes, _PATIENCE_SECONDS)
    seen = observer.seen
    if seen.repeated:
        raise RuntimeError(f"{len(seen.repeated)} alerts came twice, {seen.repeated[0]} for one")
    if seen.wrong:
        raise RuntimeError(f"{len(seen.wrong)} totals of probes are wrong, {seen.wrong[0]} for one")
    counted = load.counted
    due_ms = {probe: sent.begin_ms + due_ns / 1e6 for probe, due_ns in counted.items()}
    packed = packed_ms(deployed.kafka, begins)
    readable_ms = {
        probe: sent.begin_ms + (seen.totals_ns[probe] - sent.begin_ns) / 1e6 for probe in counted
    }
    hops: dict[str, dict[str, float]] = {
        "event → pack written": {p: packed[p] - due_ms[p] for p in counted},
        "→ total written": {p: seen.totals_written_ms[p] - packed[p] for p in counted},
        "→ total readable": {p: readable_ms[p] - seen.totals_written_ms[p] for p in counted},
    }
    histograms = {
        name: Histogram.of_ns(
            at_ns[probe] - sent.begin_ns - due_ns for probe, due_ns in counted.items()
        )
        for name, at_ns in (("total", seen.totals_ns), ("alert", seen.alerts_ns))
    }
    seconds = load.warm_up_seconds + load.seconds
    return {
        "per_second": load.per_second,
        "seconds": load.seconds,
        "events": load.events,
        "probes": len(counted),
        "sender_lag_ms": sent.lag.summary_ms(),
        "latency_ms": {name: one.summary_ms() for name, one in histograms.items()},
        "curve_ms": {name: one.curve_ms() for name, one in histograms.items()},
        "hops_ms": {
            name: Histogram.of_ns(round(1e6 * ms) for ms in hop.values()).summary_ms()
            for name, hop in hops.items()
        },
        "cpu_share": {name: (cpu_after[name] - cpu_before[name]) / seconds for name in cpu_after}
        | {"sender": sent.cpu_seconds / seconds},
    }


def measure(
    flat_out: int,
    rates: list[int],
    seconds: float,
    warm_up_seconds: float,
    shards: int,
    first_warm_up_seconds: float,
    say: Console,
) -> dict[str, Any]:
    """The capacity, and every load, on one deployment."""
    with (
        deployment(shards) as deployed,
        Observer(deployed.kafka, shards) as observer,
        ProcessPoolExecutor(1, get_context("spawn")) as sender,
    ):
        say.print(f"Shards: {shards}. Warming up for {first_warm_up_seconds:g} s…")
        count = decided(deployed.kafka, shards)
        before = warm_up(first_warm_up_seconds, deployed, count, sender)
        say.print(f"Sending {flat_out:,} events at once…")
        most = capacity(flat_out, deployed, count, before, observer, sender)
        say.print(f"{most:,.0f} a second go through.")
        loads = []
        wanted = rates or [round(most * share) for share in SHARES]
        for number, rate in enumerate(wanted, _FLAT_OUT + 1):
            load = Load(number, rate, seconds, warm_up_seconds, min(rate, _PROBES_PER_SECOND))
            say.print(f"{rate:,} events a second for {warm_up_seconds + seconds:g} s…")
            loads.append(under(load, deployed, observer, sender) | {"of_capacity": rate / most})
    return {"shards": shards, "capacity_per_second": most, "loads": loads}


def _ends(deployed: Deployment, topic: str) -> dict[int, int]:
    """Where each shard's partition of a topic ends."""
    consumer = reader(deployed.kafka)
    try:
        # Whoever has not asked where a partition is may be told that it is not there.
        consumer.list_topics(topic, timeout=_ANSWER_SECONDS)
        return {shard: watermarks(consumer, topic, shard)[1] for shard in range(deployed.shards)}
    finally:
        consumer.close()


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seconds", type=duration, default=60, help="of each load that count")
    options.add_argument("--warm-up", type=duration_or_none, default=10, help="seconds before that")
    options.add_argument(
        "--first-warm-up",
        type=duration_or_none,
        default=_WARM_UP_SECONDS,
        help=f"seconds of {_WARM_UP_PER_SECOND:,} events each at first, until the broker's JVM has "
        "compiled what they need",
    )
    options.add_argument(
        "--flat-out", type=positive, default=2_000_000, help="events sent at once, for the capacity"
    )
    options.add_argument(
        "--rates",
        type=positive,
        nargs="+",
        default=[],
        help="events a second, not shares of capacity",
    )
    options.add_argument(
        "--shards",
        type=positive,
        nargs="+",
        default=[1, 4],
        help="each on a deployment of its own",
    )
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="where results are saved"
    )
    chosen = options.parse_args()
    load_before = os.getloadavg()[0]
    say = Console(stderr=True)
    results = {
        "flat_out": chosen.flat_out,
        "deployments": [
            measure(
                chosen.flat_out,
                chosen.rates,
                chosen.seconds,
                chosen.warm_up,
                shards,
                chosen.first_warm_up,
                say,
            )
            for shards in chosen.shards
        ],
        "load_average_before": load_before,
        "machine": machine(),
    }
    for measured in results["deployments"]:
        Console(highlight=False).print(table(measured))
    page = markdown(results)
    chart(results, chosen.folder / "latency.svg")
    (chosen.folder / "latency.json").write_text(json.dumps(results, indent=1) + "\n")
    (chosen.folder / "latency.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
