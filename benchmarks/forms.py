"""What intake takes for events in the forms in which services send them.

    uv run python -m benchmarks.forms [--events 300000]

The same events in each form: first as flat JSON in ASCII with whole numbers, which all other
benchmarks have, then with what services add to that or write in another way, and in binary mode.
Each on a broker of its own, read by intake in a process of its own as in `benchmarks.stages`. Tally
counts what became of them, and the totals must be those of a count in plain Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from typing import Any, NamedTuple

import confluent_kafka
from rich.console import Console
from rich.table import Table

from benchmarks import charts
from benchmarks.command import run
from benchmarks.options import folder, positive
from benchmarks.stages import SEED, events, expected, intake, machine, tally
from benchmarks.totals import check_totals, published_totals
from pipeline.record import PLAIN_HEADERS, Headers
from schemas import topics
from schemas.usage_event import HEADER_PREFIX
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.topics import create_topics

#: The event and its headers, of an event in the first form.
Written = tuple[bytes, Headers]


class Form(NamedTuple):
    """A way of writing an event, in which its quantity is so many times as large."""

    name: str
    write: Callable[[bytes], Written]
    scale: Decimal = Decimal(1)


def _with(pattern: bytes, replacement: bytes) -> Callable[[bytes], Written]:
    found = re.compile(pattern)
    return lambda event: (found.sub(replacement, event), PLAIN_HEADERS)


def _in_binary_mode(event: bytes) -> Written:
    attributes = json.loads(event)
    data = event[event.index(b'"data":') + len(b'"data":') : -1]
    del attributes["data"]
    headers = ((HEADER_PREFIX + name, text.encode()) for name, text in attributes.items())
    return data, (*headers, ("content-type", b"application/json"))


def _traced(event: bytes) -> Written:
    trace = b"00-%032x-%016x-01" % (hash(event) % 2**64, len(event))
    return event, (*PLAIN_HEADERS, ("traceparent", trace))


FORMS = (
    Form("flat, whole numbers", lambda event: (event, PLAIN_HEADERS)),
    Form(
        "decimals",
        lambda event: (
            re.sub(rb'"tokens":(\d+)', lambda found: b'"tokens":0.%04d' % int(found[1]), event),
            PLAIN_HEADERS,
        ),
        Decimal("0.0001"),
    ),
    Form("decimal strings", _with(rb'"tokens":(\d+)', rb'"tokens":"\1"')),
    Form("nested data", _with(rb"}}$", b',"stream":true,"parts":[{"kind":"text","n":1},null]}}')),
    Form(
        "not ASCII, escapes in data",
        _with(rb"}}$", ',"prompt":"Zürich\\\\n\\\\"schön\\\\""}}'.encode()),
    ),
    Form("times with an offset", _with(rb'Z","data"', b'000+00:00","data"')),
    Form("a header of tracing", _traced),
    Form("binary mode", _in_binary_mode),
    Form("escapes in attributes, read alone", _with(rb'"/gateway/', rb'"\\/gateway\\/')),
)


def send(address: str, count: int, form: Form) -> None:
    """All events in one form."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 50}
    )
    for customer, event, arrival_ms in events(count):
        value, headers = form.write(event)
        while True:
            try:
                producer.produce(
                    topics.EVENTS.name, value, customer, headers=list(headers), timestamp=arrival_ms
                )
                break
            except BufferError:
                producer.poll(0.01)
    if producer.flush():
        raise RuntimeError("the broker did not take all events")


def measure_form(processes: Executor, count: int, form: Form) -> dict[str, float]:
    """What intake takes for one form.

    Raises:
        RuntimeError: the totals are wrong.
    """
    with LocalKafka(jvm=FULL_SPEED) as broker:
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, keep_for_ever=True)
        send(broker.address, count, form)
        taken_in = processes.submit(intake, broker.address, count).result()
        processes.submit(tally, broker.address, count).result()
        right = {key: value * form.scale for key, value in expected(count).items()}
        check_totals(published_totals(kafka), right)
    return {
        "cpu_us_per_event": taken_in.cpu_seconds / count * 1e6,
        "per_cpu_second": taken_in.per_cpu_second,
    }


def measure(count: int, say: Console) -> dict[str, Any]:
    """All figures."""
    load_before = os.getloadavg()[0]
    found: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for form in FORMS:
            say.print(f"{form.name}…")
            found[form.name] = measure_form(processes, count, form)
    first = found[FORMS[0].name]["cpu_us_per_event"]
    for one in found.values():
        one["of_first"] = one["cpu_us_per_event"] / first
    return {
        "events": count,
        "forms": found,
        "seed": SEED,
        "load_average_before": load_before,
        "machine": machine(),
    }


def _table(results: Mapping[str, Any]) -> Table:
    found = Table(title=f"{results['events']:,} events, CPU time of intake")
    for column in ("", "µs/event", "events/CPU s", "of first"):
        found.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, one in results["forms"].items():
        cells = (f"{one['cpu_us_per_event']:.2f}", f"{one['per_cpu_second']:,.0f}")
        found.add_row(name, *cells, f"{one['of_first']:.2f}")
    return found


def main() -> None:
    """Measures, prints and saves."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--events", type=positive, default=300_000, help="default: 300,000")
    options.add_argument(
        "--folder", type=folder, default="docs/benchmarks", help="for JSON and chart"
    )
    chosen = options.parse_args()
    results = measure(chosen.events, Console(stderr=True))
    console = Console(highlight=False)
    console.print(_table(results))
    console.print(f"Load average before: {results['load_average_before']:.2f}. Totals are right.")
    rows = {name: one["cpu_us_per_event"] for name, one in results["forms"].items()}
    charts.bars(chosen.folder / "forms.svg", "Intake's CPU time per event", "microseconds", rows)
    text = json.dumps(results, indent=1)
    (chosen.folder / "forms.json").write_text(f"{text}\n")


if __name__ == "__main__":
    run(main)
