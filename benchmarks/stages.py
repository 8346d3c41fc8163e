"""Events per CPU second of intake and tally, beside bare consume + decode of the same topic.

    uv run python -m benchmarks.stages [--events 3000000] [--json]

Starts a local Kafka, fills `usage.events` with seeded events, and lets each of three programs, in a
process of its own, read it from the first to the last: one that only consumes and decodes with
msgspec (the roofline, measured before and after the others), intake, and tally. CPU time is that
of the whole process, user and system, background threads included, without imports and restore.
In the end the totals must be those of a count in plain Python.
Rates of one run compare with each other; between machines only the ratios do.
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.command import run
from benchmarks.options import positive
from benchmarks.peers.consume import consume
from benchmarks.totals import Key, check_totals, published_totals
from pipeline.record import Outgoing, Record, Records
from schemas import topics
from schemas.definitions import Definitions
from streams import kafka_distribution
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.producer import Producer
from streams.read import read_to_end
from streams.stage import Stage
from streams.tally import TallyStage
from streams.topics import create_topics
from streams.transact import Transactor, tune_process

CUSTOMERS = 10_000
SEED = 20_261_120
DUPLICATE_SHARE = 0.01

#: 2026-11-20T09:30:00Z; a thousand events a second arrive from here on.
_BEGIN_MS = 1_795_167_000_000

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm.request",
                "aggregation": "sum",
                "value": "$.tokens",
                "group_by": {"model": "$.model"},
            }
        ],
        "plans": [
            {
                "slug": "free",
                "limits": [{"meter": "tokens", "limit": 100_000, "thresholds": ["80%", "100%"]}],
            }
        ],
        "default_plan": "free",
    }
)


@dataclass(frozen=True)
class Measured:
    """One program's run. Rates are events per second."""

    events: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def per_cpu_second(self) -> float:
        """What one core does if nothing else holds it up."""
        return self.events / self.cpu_seconds

    @property
    def per_wall_second(self) -> float:
        """What this process did beside its broker on this machine."""
        return self.events / self.wall_seconds


class _Data(msgspec.Struct, gc=False):
    tokens: int
    model: str


class _Clock:
    """CPU time since the consumer's start, because events are fetched before they are given out;
    wall time since the first event, because joining a group takes seconds of waiting."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._wall = 0.0

    def first(self) -> None:
        """Events are here; only the first call counts."""
        self._wall = self._wall or time.perf_counter()

    def stop(self, events: int) -> Measured:
        """All are done."""
        return Measured(events, time.process_time() - self._cpu, time.perf_counter() - self._wall)


class _Watched:
    """A stage with a clock, which sees when all records have been handed to it."""

    def __init__(self, stage: Stage, records: int) -> None:
        self.name, self.input_topic, self.state_topic = (
            stage.name,
            stage.input_topic,
            stage.state_topic,
        )
        self.trace = stage.trace
        self._stage = stage
        self._left = records
        self.clock = _Clock()
        self.all_given = False

    def announce(self) -> Sequence[Outgoing]:
        announced = self._stage.announce()
        self.clock = _Clock()
        return announced

    def restore(self, partition: int, changelog: Iterator[Record]) -> int | None:
        restored = self._stage.restore(partition, changelog)
        self.clock = _Clock()
        return restored

    def forget(self, partition: int) -> None:
        self._stage.forget(partition)

    def parts(self, records: Records) -> Iterator[Records]:
        self.clock.first()
        yield from self._stage.parts(records)
        # Asked for one more part, it has transacted all of them.
        self._left -= len(records)
        self.all_given = self._left <= 0

    def step(self, records: Sequence[Record]) -> Sequence[Outgoing]:
        return self._stage.step(records)

    def move_on(self, partition: int, offset: int) -> Sequence[Outgoing]:
        return self._stage.move_on(partition, offset)


class _Committed(threading.Event):
    """Set once the shell asks after it committed the transaction with the last record."""

    def __init__(self, stage: _Watched, events: int) -> None:
        super().__init__()
        self._stage = stage
        self._events = events
        self.measured: Measured | None = None

    def is_set(self) -> bool:
        if self._stage.all_given and self.measured is None:
            self.measured = self._stage.clock.stop(self._events)
            self.set()
        return super().is_set()


def events(
    count: int, seed: int = SEED, begin_ms: int = _BEGIN_MS
) -> Iterator[tuple[bytes, bytes, int]]:
    """(customer, event, arrival in ms since 1970), the same for the same seed and begin."""
    random = Random(seed)
    sent: list[tuple[bytes, bytes]] = []
    for number in range(count):
        arrival_ms = begin_ms + number
        if sent and random.random() < DUPLICATE_SHARE:
            customer, event = random.choice(sent)
        else:
            seconds, milliseconds = divmod(arrival_ms, 1_000)
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
            name = f"cus_{random.randrange(CUSTOMERS):05d}"
            model = random.choice(("small", "medium", "large"))
            event = (
                f'{{"specversion":"1.0","id":"{random.getrandbits(64):016x}",'
                f'"source":"/gateway/eu-1","type":"llm.request","subject":"{name}",'
                f'"time":"{at}.{milliseconds:03d}Z",'
                f'"data":{{"tokens":{random.randrange(1, 4_000)},"model":"{model}"}}}}'
            ).encode()
            customer = name.encode()
            sent.append((customer, event))
        yield customer, event, arrival_ms


def expected(count: int, begin_ms: int = _BEGIN_MS) -> Counter[Key]:
    """The right totals of these events: each once, in plain Python."""
    found = Counter[Key]()
    for text in {event for _, event, _ in events(count, begin_ms=begin_ms)}:
        event = json.loads(text)
        group = f'{{"model":"{event["data"]["model"]}"}}'
        found[event["subject"], "tokens", group] += event["data"]["tokens"]
    return found


def bare(address: str, count: int) -> Measured:
    """Consume and decode with msgspec, and nothing else."""
    clock = _Clock()
    consume(address, topics.EVENTS.name, count, _Data, clock.first)
    return clock.stop(count)


def intake(address: str, count: int, records: int | None = None) -> Measured:
    """The intake stage in the transactional shell, as `meterline run intake` wires it.

    `count` events lie in so many `records`, by default one in each.
    """
    return _run(IntakeStage(DEFINITIONS), address, records=records or count, count=count)


def tally(address: str, count: int) -> Measured:
    """The tally stage in the transactional shell, as `meterline run tally` wires it."""
    kafka = {"bootstrap.servers": address}
    records = sum(
        1 for shard in range(topics.SHARDS) for _ in read_to_end(kafka, topics.METERED.name, shard)
    )
    return _run(TallyStage(), address, records=records, count=count)


def _run(stage: Stage, address: str, *, records: int, count: int) -> Measured:
    pa.array([1]).to_pandas()  # imports what pyarrow otherwise imports on the first record
    watched = _Watched(stage, records)
    stop = _Committed(watched, count)
    tune_process()
    clients = ConfluentClients({"bootstrap.servers": address})
    Transactor(watched, clients, instance="benchmark", stop=stop).run()
    if stop.measured is None:
        raise RuntimeError(f"{stage.name} ended before its last record")
    return stop.measured


def measure(count: int, say: Console) -> dict[str, Measured]:
    """All programs, one after the other, on one broker.

    Raises:
        RuntimeError: the totals are wrong.
    """
    with (
        LocalKafka(jvm=FULL_SPEED) as broker,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes,
    ):
        kafka = {"bootstrap.servers": broker.address}
        create_topics(kafka, keep_for_ever=True)
        say.print(f"Sending {count:,} events…")
        with Producer(broker.address, linger_ms=50, kafka={"log_level": "2"}) as producer:
            for customer, event, arrival_ms in events(count):
                producer.send_raw(event, key=customer, timestamp_ms=arrival_ms)
        results = {}
        for name, program in (
            ("consume + decode, before", bare),
            ("intake", intake),
            ("tally", tally),
            ("consume + decode, after", bare),
        ):
            say.print(f"Measuring {name}…")
            results[name] = processes.submit(program, broker.address, count).result()
        check_totals(published_totals(kafka), expected(count))
        return results


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu_info = Path("/proc/cpuinfo")
    models = [
        line.partition(": ")[2]
        for line in (cpu_info.read_text().splitlines() if cpu_info.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "machine": f"{len(models) or '?'} x {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "kafka": f"Apache Kafka {kafka_distribution.VERSION}, {' '.join(FULL_SPEED)}",
        **{name: version(name) for name in ("confluent-kafka", "msgspec", "pyarrow", "numpy")},
    }


def _table(results: Mapping[str, Measured], roofline: float, events: int) -> Table:
    table = Table(title=f"{events:,} events of {CUSTOMERS:,} customers, 1 % duplicates")
    for column in ("", "events/CPU s", "of roofline", "events/s (wall)"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, measured in results.items():
        table.add_row(
            name,
            f"{measured.per_cpu_second:,.0f}",
            f"{measured.per_cpu_second / roofline:.0%}",
            f"{measured.per_wall_second:,.0f}",
        )
    return table


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--events", type=positive, default=3_000_000, help="default: 3,000,000")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    chosen = options.parse_args()
    results = measure(chosen.events, Console(stderr=True))
    bares = [one.per_cpu_second for name, one in results.items() if name.startswith("consume")]
    roofline = sum(bares) / len(bares)
    if chosen.json:
        figures: dict[str, Any] = {
            name: asdict(one)
            | {
                "per_cpu_second": one.per_cpu_second,
                "per_wall_second": one.per_wall_second,
                "of_roofline": one.per_cpu_second / roofline,
            }
            for name, one in results.items()
        }
        print(json.dumps({"machine": machine(), "seed": SEED, "measured": figures}, indent=1))
        return
    console = Console(highlight=False)
    console.print(_table(results, roofline, chosen.events))
    for name, value in machine().items():
        console.print(f"{name}: {value}")


if __name__ == "__main__":
    run(main)
