"""What a client pays to send an event, and what packing saves it and everybody behind it.

    uv run python -m benchmarks.producers [--events 400000]

First the client alone, each way of sending in a process of its own, `--rounds` times in turn: bare
`produce()` of confluent-kafka with the same settings and the same bytes, our producer with one
event a record, and packed. CPU time is that of the whole process, background threads included,
without making the events; the best round counts. Then the same events end to end, once single and
once packed, each on a broker of its own: bytes on the broker, and the CPU time of intake and tally.
Whatever was sent, the totals must be those of a count in plain Python.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import confluent_kafka
from rich.console import Console
from rich.table import Table

from benchmarks import charts
from benchmarks.command import run
from benchmarks.options import folder, positive
from benchmarks.stages import SEED, Measured, events, expected, intake, machine, tally
from benchmarks.totals import check_totals, published_totals
from schemas import topics
from streams.cut import extents
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.producer import Producer
from streams.topics import create_topics

_LINGER_MS = 50
_BUFFER_FULL_SECONDS = 0.01


@dataclass(frozen=True)
class Way:
    """A way of sending; 0 `pack_events` is bare `produce()`."""

    name: str
    pack_events: int


BARE = Way("bare produce()", 0)
SINGLE = Way("Producer, one event a record", 1)
PACKED = Way("Producer, 500 events a record", 500)
WAYS = (BARE, SINGLE, Way("Producer, 50 events a record", 50), PACKED)


def send(address: str, topic: str, count: int, begin_ms: int, way: Way) -> Measured:
    """What this process pays to have all events acknowledged."""
    sent = [(customer, event) for customer, event, _ in events(count, begin_ms=begin_ms)]
    gc.freeze()
    return (_send_ours if way.pack_events else _send_bare)(address, topic, sent, way)


def _send_ours(address: str, topic: str, sent: list[tuple[bytes, bytes]], way: Way) -> Measured:
    began = time.process_time(), time.perf_counter()
    with Producer(
        address, topic=topic, linger_ms=_LINGER_MS, pack_events=way.pack_events
    ) as producer:
        for customer, event in sent:
            producer.send_raw(event, key=customer)
    return Measured(len(sent), time.process_time() - began[0], time.perf_counter() - began[1])


def _send_bare(address: str, topic: str, sent: list[tuple[bytes, bytes]], _: Way) -> Measured:
    began = time.process_time(), time.perf_counter()
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": _LINGER_MS,
            "partitioner": "murmur2_random",
        }
    )
    for customer, event in sent:
        while True:
            try:
                producer.produce(topic, event, customer)
                break
            except BufferError:
                producer.poll(_BUFFER_FULL_SECONDS)
    if producer.flush():
        raise RuntimeError("the broker did not take all events")
    return Measured(len(sent), time.process_time() - began[0], time.perf_counter() - began[1])


def clients(
    processes: Executor, count: int, begin_ms: int, rounds: int, say: Console
) -> dict[str, Any]:
    """The best round of each way."""
    best: dict[str, Measured] = {}
    with LocalKafka(jvm=FULL_SPEED) as broker:
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        for number in range(rounds):
            for way in WAYS:
                say.print(f"Round {number + 1} of {rounds}: {way.name}…")
                arguments = (broker.address, topics.EVENTS.name, count, begin_ms, way)
                found = processes.submit(send, *arguments).result()
                before = best.get(way.name, found)
                best[way.name] = min(found, before, key=lambda one: one.cpu_seconds)
    bare = best[BARE.name].cpu_seconds
    return {name: _figures(one) | {"of_bare": one.cpu_seconds / bare} for name, one in best.items()}


def end_to_end(
    processes: Executor, count: int, begin_ms: int, way: Way, say: Console
) -> dict[str, Any]:
    """What everybody pays for the events of one way of sending them.

    Raises:
        RuntimeError: the totals are not what was sent.
    """
    with LocalKafka(jvm=FULL_SPEED) as broker:
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, keep_for_ever=True)
        say.print(f"End to end: {way.name}…")
        arguments = (broker.address, topics.EVENTS.name, count, begin_ms, way)
        processes.submit(send, *arguments).result()
        records = sum(
            end - begin for begin, end in extents(kafka, [topics.EVENTS.name])[topics.EVENTS.name]
        )
        logs = broker.directory.glob(f"data/{topics.EVENTS.name}-*/*.log")
        size = sum(log.stat().st_size for log in logs)
        taken_in = processes.submit(intake, broker.address, count, records).result()
        counted = processes.submit(tally, broker.address, count).result()
        check_totals(published_totals(kafka), expected(count, begin_ms))
    return {
        "records": records,
        "broker_bytes_per_event": size / count,
        "intake": _figures(taken_in),
        "tally": _figures(counted),
    }


def measure(count: int, rounds: int, say: Console) -> dict[str, Any]:
    """All figures."""
    load_before = os.getloadavg()[0]
    # Events arrive when they are sent, so they must be of now to be in time.
    begin_ms = time.time_ns() // 1_000_000 - count
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        sending = clients(processes, count, begin_ms, rounds, say)
        single, packed = (
            end_to_end(processes, count, begin_ms, way, say) for way in (SINGLE, PACKED)
        )
    return {
        "events": count,
        "rounds": rounds,
        "clients": sending,
        "end_to_end": {"single": single, "packed": packed},
        "single_over_packed": {
            "broker_bytes": single["broker_bytes_per_event"] / packed["broker_bytes_per_event"],
            "intake_cpu": single["intake"]["cpu_us_per_event"]
            / packed["intake"]["cpu_us_per_event"],
            "client_cpu": sending[SINGLE.name]["cpu_us_per_event"]
            / sending[PACKED.name]["cpu_us_per_event"],
        },
        "seed": SEED,
        "load_average_before": load_before,
        "machine": machine(),
    }


def _figures(measured: Measured) -> dict[str, float]:
    return {
        "cpu_us_per_event": measured.cpu_seconds / measured.events * 1e6,
        "per_cpu_second": measured.per_cpu_second,
        "per_wall_second": measured.per_wall_second,
    }


def table(results: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    found = Table(title=f"{results['events']:,} events, CPU time of the whole process")
    for column in ("", "µs an event", "events/CPU s", "against bare"):
        found.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, one in results["clients"].items():
        cells = (f"{one['cpu_us_per_event']:.2f}", f"{one['per_cpu_second']:,.0f}")
        found.add_row(name, *cells, f"{one['of_bare']:.2f}")
    for name, one in results["end_to_end"].items():
        found.add_section()
        for stage in ("intake", "tally"):
            cells = (
                f"{one[stage]['cpu_us_per_event']:.2f}",
                f"{one[stage]['per_cpu_second']:,.0f}",
            )
            found.add_row(f"{stage}, {name}", *cells, "")
        found.add_row(
            f"broker, {name}: bytes an event", f"{one['broker_bytes_per_event']:.1f}", "", ""
        )
    return found


def chart(results: dict[str, Any], path: Path) -> None:
    """CPU time by who spends it."""
    rows = {name: one["cpu_us_per_event"] for name, one in results["clients"].items()}
    for name, one in results["end_to_end"].items():
        rows[f"intake, {name}"] = one["intake"]["cpu_us_per_event"]
    charts.bars(path, "CPU time per event", "microseconds", rows)


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument(
        "--events", type=positive, default=400_000, help="of each run (default 400000)"
    )
    options.add_argument("--rounds", type=positive, default=3, help="of the clients (default 3)")
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="for JSON and chart"
    )
    chosen = options.parse_args()
    results = measure(chosen.events, chosen.rounds, Console(stderr=True))
    console = Console(highlight=False)
    console.print(table(results))
    console.print(f"Load average before: {results['load_average_before']:.2f}. Totals are right.")
    chart(results, chosen.folder / "producers.svg")
    text = json.dumps(results, indent=1)
    (chosen.folder / "producers.json").write_text(f"{text}\n")


if __name__ == "__main__":
    run(main)
