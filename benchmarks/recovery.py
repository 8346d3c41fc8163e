"""How large tally's state is, how fast it is restored, and how long no one counts after a death.

    uv run python -m benchmarks.recovery [--ids 10000000] [--takeovers 50] [--json]

Fills the changelog of a local Kafka with ids as tally writes them, restores it, and then kills real
`meterline run tally` processes while events keep coming. A shard counts again when a decision on a
new event is readable for a `read_committed` consumer; the slowest shard is what is measured.
`--report FILE` writes the figures as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from benchmarks.command import run
from benchmarks.options import file, positive, positive_or_none
from benchmarks.recovery_report import markdown, table
from benchmarks.stages import CUSTOMERS, DEFINITIONS, SEED, machine
from benchmarks.under_load import Feed, Processes, Watch, memory_bytes, settings_for
from pipeline.open_frame import open_frame
from pipeline.record import Outgoing
from pipeline.route import Router
from pipeline.shard import Restore, Shard, snapshot
from pipeline.total_columns import keep
from schemas import topics
from schemas.quantity import NANOS
from schemas.segment import TOTAL_COLUMNS
from streams.clients import Clients
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.local_kafka import FULL_SPEED, LocalKafka
from streams.mirrored import MirroredClients
from streams.read import topic_id
from streams.stage import SESSION_TIMEOUT_MS
from streams.topics import create_topics
from streams.transact import tune_process

_STATE = topics.TALLY_STATE.name
_MODELS = ("small", "medium", "large")
_EVENTS_PER_SECOND = 400
_DAY_MS = 86_400_000
_PIECE = 10_000


@dataclass(frozen=True)
class Restored:
    """All shards restored, one after the other, by one process."""

    seconds: float
    cpu_seconds: float
    ids: int
    totals: int
    table_bytes: int


@dataclass
class Results:
    """All figures; durations are in seconds."""

    ids: int
    totals: int = 0
    changelog_bytes: int = 0
    kafka_disk_bytes: int = 0
    mirror_bytes: int = 0
    table_bytes: int = 0
    process_bytes: int = 0
    empty_process_bytes: int = 0
    from_kafka: Restored | None = None
    from_mirror: Restored | None = None
    restarts: list[float] = field(default_factory=list)
    restarts_without_mirror: list[float] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)
    handovers: list[float] = field(default_factory=list)
    session_timeout: float = SESSION_TIMEOUT_MS / 1000
    load_before: float = 0
    load_after: float = 0


def fill(address: str, ids: int) -> tuple[int, int]:
    """Write a snapshot of every shard; totals, and bytes of the changelog.

    As if tally had counted `ids` events of `CUSTOMERS` customers up to now.
    """
    writer = ConfluentClients({"bootstrap.servers": address}).writer("benchmark", "fill")
    writer.write(IntakeStage(DEFINITIONS).announce())
    now_ms = time.time_ns() // 1_000_000
    random = np.random.default_rng(SEED)
    router = Router(topics.SHARDS)
    written = totals = 0
    for number in range(topics.SHARDS):
        # The definitions are the one record of the shard's log so far.
        shard = Shard(next_offset=1, watermark_ms=now_ms, current=DEFINITIONS.version)
        shard.documents[DEFINITIONS.version] = DEFINITIONS
        shard.belong_to(number, topics.SHARDS)
        count = ids // topics.SHARDS + (number < ids % topics.SHARDS)
        # In pieces, so that the table grows as it does when events come.
        for begin in range(0, count, _PIECE):
            size = min(_PIECE, count - begin)
            high, low = random.integers(0, 2**64, (2, size), dtype=np.uint64)
            fingerprints = random.integers(0, 2**32, size, dtype=np.uint32)
            days = np.full(size, now_ms // _DAY_MS + 35, dtype=np.uint16)
            shard.ids.insert((high, low, fingerprints, days))
        month = np.datetime64(now_ms, "ms").astype("datetime64[M]").astype("datetime64[ms]")
        rows = [
            {
                "row": row,
                "customer": customer,
                "meter": "tokens",
                "period_start_ms": int(month.astype(int)),
                "group": group,
                "nanos": 2_000 * NANOS,
                "events": 1,
                "latest_ns": now_ms * 1_000_000,
                "as_of_ms": now_ms,
                "fired": (),
            }
            for row, (customer, group) in enumerate(
                (customer, group)
                for customer in (f"cus_{rank:05d}" for rank in range(CUSTOMERS))
                if router[customer] == number
                for group in (None, *((model,) for model in _MODELS))
            )
        ]
        keep(shard.totals, pa.RecordBatch.from_pylist(rows, schema=TOTAL_COLUMNS))
        shard.totals.connect()
        totals += len(shard.totals)
        frames = [Outgoing(_STATE, frame, partition=number) for frame in snapshot(shard)]
        written += sum(len(frame.value or b"") for frame in frames)
        writer.write(frames)
    return totals, written


def restore(address: str, directory: str) -> Restored:
    """Restore every shard, with mirrors in `directory`, as `meterline run tally` does."""
    pa.array([1]).to_pandas()  # imports what pyarrow otherwise imports on the first record
    kafka = {"bootstrap.servers": address}
    clients: Clients = MirroredClients(
        ConfluentClients(kafka), Path(directory), _STATE, lambda: topic_id(kafka, _STATE)
    )
    tune_process()
    wall, cpu = time.perf_counter(), time.process_time()
    shards = [
        Restore(map(open_frame, clients.read_to_end(_STATE, number, 0))).shard()
        for number in range(topics.SHARDS)
    ]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return Restored(
        seconds,
        cpu_seconds,
        sum(len(shard.ids) for shard in shards),
        sum(len(shard.totals) for shard in shards),
        sum(shard.ids.bytes_held for shard in shards),
    )


def measure(ids: int, restarts: int, takeovers: int, handovers: int, say: Console) -> Results:
    """Everything, one after the other, on one broker."""
    results = Results(ids, load_before=os.getloadavg()[0])
    with (
        tempfile.TemporaryDirectory(prefix="meterline-recovery-") as scratch,
        LocalKafka(Path(scratch, "kafka"), jvm=FULL_SPEED) as broker,
    ):
        create_topics({"bootstrap.servers": broker.address}, keep_for_ever=True)
        directory, states = Path(scratch), Path(scratch, "states")
        settings = settings_for(broker.address, DEFINITIONS, directory)
        with Processes(settings, directory / "processes.log") as processes:
            pid = processes.start("tally", "a")
            processes.wait_for_members("tally", 1)
            results.empty_process_bytes = memory_bytes(pid)
            processes.kill("a")
            say.print(f"Filling the changelog with {ids:,} ids…")
            results.totals, results.changelog_bytes = fill(broker.address, ids)
            results.kafka_disk_bytes = _size(broker.directory / "data", f"{_STATE}-*/*.log")
            _restore(results, broker.address, directory, say)
            with (
                Feed(broker.address, _EVENTS_PER_SECOND, CUSTOMERS),
                Watch({"bootstrap.servers": broker.address}, topics.SHARDS) as watch,
            ):
                processes.start("intake", "a-intake")
                _restart(results, processes, watch, states, restarts, say)
                _change_hands(results, processes, watch, takeovers, handovers, say)
    results.load_after = os.getloadavg()[0]
    return results


def _restore(results: Results, address: str, directory: Path, say: Console) -> None:
    mirrors = directory / "mirrors"
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        say.print("Restoring from Kafka…")
        results.from_kafka = processes.submit(restore, address, str(mirrors)).result()
        results.mirror_bytes = _size(mirrors, "*")
        say.print("Restoring from the mirrors…")
        results.from_mirror = processes.submit(restore, address, str(mirrors)).result()
    if results.from_kafka.ids != results.ids or results.from_mirror.ids != results.ids:
        raise RuntimeError("ids are missing after the restore")
    results.table_bytes = results.from_kafka.table_bytes


def _restart(
    results: Results,
    processes: Processes,
    watch: Watch,
    states: Path,
    restarts: int,
    say: Console,
) -> None:
    """One process has all shards; it is killed and started again at once.

    As often with its mirrors as without.
    """
    pid = processes.start("tally", "a")
    watch.wait_for_all(time.monotonic())
    results.process_bytes = memory_bytes(pid)
    for number in range(2 * restarts):
        killed_at = processes.kill("a")
        durations = results.restarts
        if number % 2:
            shutil.rmtree(states)
            durations = results.restarts_without_mirror
        processes.start("tally", "a")
        durations.append(watch.seconds_until_all_count(killed_at))
        say.print(f"counts again {durations[-1]:.1f} s after kill -9 and restart")


def _change_hands(
    results: Results,
    processes: Processes,
    watch: Watch,
    takeovers: int,
    handovers: int,
    say: Console,
) -> None:
    """Two processes share the shards; one dies, or leaves, and the other takes over."""
    processes.start("tally", "b")
    instances = ["a", "b"]
    for number in range(takeovers + handovers):
        processes.wait_for_members("tally", 2)
        watch.wait_for_all(time.monotonic())
        leaving = instances[number % 2]
        if number < takeovers:
            durations, left_at = results.takeovers, processes.kill(leaving)
        else:
            durations, left_at = results.handovers, processes.terminate(leaving)
        durations.append(watch.seconds_until_all_count(left_at))
        how = "kill -9" if number < takeovers else "SIGTERM"
        say.print(f"{number + 1}: taken over {durations[-1]:.1f} s after {how}")
        processes.start("tally", leaving)


def _size(directory: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(pattern))


def figures(results: Results) -> dict[str, Any]:
    """All of it, with what is quoted worked out."""
    found = asdict(results)
    per_id = {
        name: getattr(results, f"{name}_bytes") / results.ids
        for name in ("changelog", "kafka_disk", "mirror", "table")
    }
    per_id["process"] = (results.process_bytes - results.empty_process_bytes) / results.ids
    found["bytes_per_id"] = per_id
    found["p50_and_worst_seconds"] = {
        name: [median(durations), max(durations)]
        for name in ("restarts", "restarts_without_mirror", "takeovers", "handovers")
        if (durations := getattr(results, name))
    }
    found["machine"] = machine()
    return found


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--ids", type=positive, default=10_000_000)
    for name, times, help_text in (
        ("--restarts", 5, "kill -9 of the only process"),
        ("--takeovers", 50, "kill -9 of one of two processes"),
        ("--handovers", 2, "SIGTERM of one of two processes"),
    ):
        options.add_argument(name, type=positive_or_none, default=times, help=help_text)
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_argument("--report", type=file, help="also write them to this file, as Markdown")
    chosen = options.parse_args()
    results = figures(
        measure(
            chosen.ids,
            chosen.restarts,
            chosen.takeovers,
            chosen.handovers,
            Console(stderr=True),
        )
    )
    if chosen.json:
        print(json.dumps(results, indent=1))
    else:
        console = Console(highlight=False)
        console.print(table(results))
        for name, value in results["machine"].items():
            console.print(f"{name}: {value}")
    if chosen.report is not None:
        chosen.report.write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    run(main)
