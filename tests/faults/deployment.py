"""intake and tally as processes on a broker, fed with generated events, under a test's control."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import datetime
from itertools import islice
from multiprocessing.process import BaseProcess
from random import Random
from types import TracebackType
from typing import Any, Self

from pipeline.generate import Shares, generate
from pipeline.ingest_file import read_ndjson
from schemas import topics
from schemas.definitions import Definitions
from streams.backlog import backlog
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.topics import create_topics
from tests.faults.outcome import differences
from tests.faults.stage_process import STOPPED, Life
from tests.oracle_rules import expect
from tests.streams.on_kafka import read, wait_until

SHARDS = 4
EVENT_PARTITIONS = 3
CATALOGUE = topics.sized(shards=SHARDS, event_partitions=EVENT_PARTITIONS)
CUSTOMERS = 20
NOW = "2026-11-20T12:00:00+00:00"

#: Many thresholds, so that almost every transaction of tally has alerts.
DEFINITIONS: dict[str, Any] = {
    "meters": [
        {
            "slug": "tokens",
            "event_type": "llm.request",
            "aggregation": "sum",
            "value": "$.tokens",
            "group_by": {"model": "$.model"},
        },
        {"slug": "requests", "event_type": "llm.request", "aggregation": "count"},
        {
            "slug": "peak",
            "event_type": "llm.request",
            "aggregation": "max",
            "value": "$.context_tokens",
            "period": "day",
            "grace_hours": 24,
        },
    ],
    "plans": [
        {
            "slug": "pro",
            "limits": [
                {
                    "meter": "requests",
                    "limit": 100,
                    "thresholds": [f"{percent}%" for percent in range(5, 400, 5)],
                },
                {"meter": "tokens", "limit": 50_000, "thresholds": ["50%", "100%", 400_000]},
                {"meter": "peak", "limit": 8_000, "thresholds": ["50%", "100%"]},
            ],
        }
    ],
    "customers": [{"id": f"cus_{rank:02d}", "plan": "pro"} for rank in range(1, CUSTOMERS + 1)],
}

SHARES = Shares(duplicate=0.05, conflict=0.02, late=0.02, delayed=0.02, unknown=0.02, broken=0.02)


class Deployment:
    """The processes of one broker, and the events for them; a context manager."""

    def __init__(self, broker: LocalKafka, events: int, seed: int) -> None:
        self.address = broker.address
        self._kafka = {"bootstrap.servers": self.address}
        end = datetime.fromisoformat(NOW)
        self._lines = list(generate(events, CUSTOMERS, seed, end, shares=SHARES))
        self._unsent = read_ndjson(self._lines)
        self._sent = 0
        self._lives: dict[BaseProcess, Life] = {}
        self._seed = seed
        #: How often a process died, and how often one asked for a person.
        self.deaths = self.stops = 0
        create_topics(self._kafka, CATALOGUE, keep_for_ever=True)
        self._producer = Producer(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._lives:
            process.kill()
            process.join()
        self._producer.close()

    def start(self, stage: str, **how: Any) -> BaseProcess:
        """Start a process of a stage, with small batches; `how` is of a `Life`."""
        definitions = Definitions.model_validate(DEFINITIONS)
        usual: dict[str, Any] = {"shards": SHARDS, "seed": f"{self._seed}.{stage}"}
        usual |= {"batch_max": 100 if stage == "intake" else 4}
        return self._start(Life(stage, self.address, definitions, **(usual | how)))

    def kill_one(self, rng: Random) -> None:
        """kill -9 of a process that `rng` picks."""
        process = rng.choice(list(self._lives))
        process.kill()
        process.join()

    def end(self, process: BaseProcess) -> None:
        """End a process in order, and do not start it again."""
        process.terminate()
        process.join()
        del self._lives[process]

    def revive(self, *, deaths_max: int) -> None:
        """Start again what has died; after `deaths_max` deaths no process kills itself any more."""
        for process, life in list(self._lives.items()):
            if process.exitcode is None:
                continue
            assert process.exitcode in (-signal.SIGKILL, STOPPED), "a fault of the test's own"
            self.deaths += 1
            self.stops += process.exitcode == STOPPED
            del self._lives[process]
            dies_within = life.dies_within if self.deaths < deaths_max else 0
            self._start(life.again(self.deaths, dies_within))

    def are_all_alive(self) -> bool:
        """Whether no process has ended."""
        return all(process.exitcode is None for process in self._lives)

    def send(self, count: int) -> int:
        """Send the next events; how many there were."""
        batch = list(islice(self._unsent, count))
        for line in batch:
            self._producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
        self._producer.flush()
        self._sent += len(batch)
        return len(batch)

    def is_done(self) -> bool:
        """Whether both stages have confirmed everything."""
        stages = {"intake": topics.EVENTS, "tally": topics.METERED}
        return not any(backlog(self._kafka, stage, [topic.name]) for stage, topic in stages.items())

    def wait_until_done(self) -> None:
        """Wait until both stages have confirmed everything."""
        wait_until(self.is_done, "both stages have confirmed everything")

    def differences(self) -> list[str]:
        """What is wrong in the end, against brute force over the lines that were sent."""
        lines = self._lines[: self._sent]
        counts = Counter(record.partition for record in read(self.address, topics.EVENTS.name))
        assert counts.total() == len(lines)
        sent = [counts[partition] for partition in range(EVENT_PARTITIONS)]
        return differences(self.address, expect(DEFINITIONS, lines, now=NOW), sent)

    def _start(self, life: Life) -> BaseProcess:
        process = life.start()
        self._lives[process] = life
        return process
