"""The stages in memory, without Kafka: what an event costs as the load grows, and how they pause.

Both run as the transactional shell runs them: intake in batches of 10,000 records, tally in steps
over all shards. Time for making events and for checking totals does not count.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Any

import psutil
import pyarrow as pa

from benchmarks.histogram import Histogram
from benchmarks.meters import DEFINITIONS, expected
from benchmarks.totals import COLUMNS, check_totals
from benchmarks.workload import Workload
from pipeline.record import Outgoing, Record, Records
from schemas import topics
from schemas.frame import unseal
from schemas.usage_event import STRUCTURED
from streams.intake import IntakeStage
from streams.tally import TallyStage
from streams.transact import tune_process

#: As the shell's.
BATCH = 10_000

_HEADERS = (("content-type", STRUCTURED.encode()),)


@dataclass(frozen=True)
class Shape:
    """A load. Tally counts `per_step` events in one step, or as few as one batch of intake has."""

    events: int
    customers: int = 10_000
    shards: int = topics.SHARDS
    heaviest_share: float = 0
    batch: int = BATCH
    per_step: int = 5 * BATCH

    @property
    def workload(self) -> Workload:
        """Its events."""
        return Workload(self.events, self.customers, heaviest_share=self.heaviest_share)


def drive(shape: Shape, marks: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The figures after each of `marks` events, and at the end.

    Raises:
        RuntimeError: the totals are wrong.
    """
    _warm_up(shape)
    # It has no name, so that nothing of it is left where this process is killed.
    with TemporaryFile() as file:
        driven = _Driven(shape, file)
        found = []
        for number, batch in enumerate(shape.workload.batches(shape.batch)):
            driven.take_in(batch)
            done = min((number + 1) * shape.batch, shape.events)
            if done % shape.per_step == 0 or done == shape.events:
                driven.count()
            if done in marks or done == shape.events:
                found.append(driven.figures(done))
        driven.close()
        file.seek(0)
        check_totals(pa.ipc.open_stream(file), expected(shape.workload))
    return found


class _Driven:
    """Intake and tally with all shards, and what has been measured of them."""

    def __init__(self, shape: Shape, file: IO[bytes]) -> None:
        self._shape = shape
        self._intake = IntakeStage(DEFINITIONS, shape.shards)
        self._tally = TallyStage(shape.shards)
        for shard in range(shape.shards):
            self._tally.restore(shard, iter(()))
        self._offsets = Counter[tuple[str, int]]()
        self._waiting: list[Record] = []
        self._seconds = {"intake": 0.0, "tally": 0.0}
        self._bytes = Counter[str]()
        self._steps = {kind: Histogram() for kind in ("plain", "growth", "snapshot")}
        self._slots = dict[int, int]()
        self._file = file
        self._totals: pa.ipc.RecordBatchStreamWriter | None = None
        self._note(self._intake.announce())
        self.count()
        tune_process()
        self._memory_before = _memory_bytes()

    def take_in(self, rows: Sequence[tuple[bytes, bytes, int]]) -> None:
        """One batch of events through intake."""
        topic, offset = topics.EVENTS.name, self._offsets[topics.EVENTS.name, 0]
        records = [
            Record(topic, 0, offset + number, arrival_ms, key, event, _HEADERS)
            for number, (key, event, arrival_ms) in enumerate(rows)
        ]
        self._offsets[topic, 0] += len(rows)
        self._bytes[topic] += sum(len(event) for _, event, _ in rows)
        begin = time.process_time()
        outgoing = self._intake.step(Records(records))
        self._seconds["intake"] += time.process_time() - begin
        self._note(outgoing)

    def count(self) -> None:
        """All packs that wait through tally, in one step."""
        begin, cpu = time.perf_counter_ns(), time.process_time()
        outgoing = self._tally.step(Records(self._waiting))
        self._seconds["tally"] += time.process_time() - cpu
        duration_ns = time.perf_counter_ns() - begin
        self._waiting = []
        self._note(outgoing)
        headers = list(_headers(outgoing))
        grown = [True for each in headers if self._grows(each["shard"], each["slots"])]
        snapshot = any(each["from_offset"] == each["next_offset"] for each in headers)
        kind = "snapshot" if snapshot else "growth" if grown else "plain"
        self._steps[kind].record_ns(duration_ns)

    def figures(self, events: int) -> dict[str, Any]:
        """What has been measured up to now."""
        held = _memory_bytes() - self._memory_before
        return {
            "events": events,
            "customers": self._shape.customers,
            "shards": self._shape.shards,
            "heaviest_share": self._shape.heaviest_share,
            "per_step": self._shape.per_step,
            "cpu_us": {name: seconds / events * 1e6 for name, seconds in self._seconds.items()},
            "memory_bytes": held,
            "bytes_per_event": {topic: size / events for topic, size in self._bytes.items()},
            "step_ms": {
                kind: {"steps": len(steps), **steps.summary_ms()}
                for kind, steps in self._steps.items()
                if len(steps)
            },
        }

    def close(self) -> None:
        """All totals are in the file."""
        if self._totals is not None:
            self._totals.close()

    def _note(self, outgoing: Sequence[Outgoing]) -> None:
        for record in outgoing:
            self._bytes[record.topic] += len(record.value or b"")
            if record.topic == topics.METERED.name and record.partition is not None:
                place = (record.topic, record.partition)
                self._waiting.append(
                    Record(*place, self._offsets[place], 0, record.key, record.value)
                )
                self._offsets[place] += 1
            elif record.topic == topics.TOTALS.name:
                self._keep(unseal(record.value or b"").parts[0].select(COLUMNS))

    def _keep(self, totals: pa.RecordBatch) -> None:
        """On disk, as what is held in memory is measured."""
        if self._totals is None:
            self._totals = pa.ipc.new_stream(self._file, totals.schema)
        self._totals.write_batch(totals)

    def _grows(self, shard: int, slots: int) -> bool:
        before = self._slots.get(shard, slots)
        self._slots[shard] = slots
        return slots > before


def _warm_up(shape: Shape) -> None:
    """Whatever is imported or compiled at its first use is not part of an event's cost."""
    small = replace(shape, events=2_000, customers=100)
    with TemporaryFile() as file:
        driven = _Driven(small, file)
        for batch in small.workload.batches():
            driven.take_in(batch)
            driven.count()
        driven.close()


def _headers(outgoing: Sequence[Outgoing]) -> Iterator[dict[str, Any]]:
    """What a step's segments say of themselves."""
    for record in outgoing:
        if record.topic == topics.TALLY_STATE.name:
            yield unseal(record.value or b"").header


def _memory_bytes() -> int:
    """What this process holds now, without what only waits to be given back."""
    pa.default_memory_pool().release_unused()
    resident: int = psutil.Process().memory_info().rss
    return resident
