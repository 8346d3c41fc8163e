"""Stages as processes on a broker, fed with generated events, under a test's control."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import groupby, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from pydantic import SecretStr

from pipeline.generate import Shares, generate
from pipeline.ingest_file import read_ndjson
from pipeline.record import Record
from schemas import topics
from schemas.definitions import Definitions
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.migrate import migrate
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.stand_in import StripeStandIn
from streams.backlog import backlog
from streams.delivery_failures import DeliveryFailed
from streams.local_kafka import LocalKafka
from streams.producer import Producer
from streams.read import partition_count
from streams.topics import create_topics
from tests.faults.cluster import Cluster
from tests.faults.outcome import differences, of_bill, of_clickhouse, of_stripe
from tests.faults.stage_process import STOPPED, STRIPE_KEY, Life
from tests.oracle_rules import expect
from tests.streams.on_kafka import WAIT_SECONDS_MAX, read, wait_until

SHARDS = 4
EVENT_PARTITIONS = 3
CATALOGUE = topics.sized(shards=SHARDS, event_partitions=EVENT_PARTITIONS)
CUSTOMERS = 20
ENDING_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)

#: Many thresholds, so that almost every transaction of tally has alerts.
DEFINITIONS: dict[str, Any] = {
    "meters": [
        {
            "slug": "tokens",
            "event_type": "llm.request",
            "aggregation": "sum",
            "value": "$.tokens",
            "group_by": {"model": "$.model"},
            "stripe": {"event_name": "llm_tokens"},
        },
        {
            "slug": "requests",
            "event_type": "llm.request",
            "aggregation": "count",
            "stripe": {"event_name": "llm_requests"},
        },
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
    "customers": [
        {"id": f"cus_{rank:02d}", "plan": "pro", "stripe_customer_id": f"cus_stripe_{rank:02d}"}
        for rank in range(1, CUSTOMERS + 1)
    ],
}

SHARES = Shares(duplicate=0.05, conflict=0.02, late=0.02, delayed=0.02, unknown=0.02, broken=0.02)


#: Stage → what it reads, in the order in which one is done after the other.
READS = {
    "intake": [topics.EVENTS.name],
    "tally": [topics.METERED.name],
    "bill": [topics.TOTALS.name],
    "stripe": [topics.OUTBOX.name],
    "clickhouse": list(ClickHouseSink.topics),
}
#: So many records a batch that there are many.
_BATCHES_MAX = {"intake": 100, "tally": 4, "bill": 10, "stripe": 20, "clickhouse": 200}


class Deployment:
    """The processes of one broker, and the events for them; a context manager.

    The last event arrives at `ending_at`. Where the broker dies, that must be within its day: it
    forgets producers of older records, and takes what they send again for new.
    """

    def __init__(
        self,
        broker: LocalKafka | Cluster,
        events: int,
        seed: int,
        ending_at: datetime = ENDING_AT,
    ) -> None:
        self.address = broker.address
        self._kafka = {"bootstrap.servers": self.address}
        self._now = ending_at.isoformat()
        self._lines = list(generate(events, CUSTOMERS, seed, ending_at, shares=SHARES))
        self._unsent = read_ndjson(self._lines)
        self._sent = 0
        self._lives: dict[BaseProcess, Life] = {}
        self._seed = seed
        #: How often a process died, and how often one asked for a person.
        self.deaths = self.stops = 0
        #: Stage → the deaths that its next lives are to die: (point, number).
        self._plans: dict[str, deque[tuple[str, int]]] = {}
        self._exits = ExitStack()
        directory = Path(self._exits.enter_context(TemporaryDirectory(prefix="meterline-faults-")))
        self._clickhouse_url = f"chdb://{directory}/clickhouse"
        self._witness = directory / "points"
        self._stripe = self._exits.enter_context(StripeStandIn(STRIPE_KEY))
        copies = broker.copies if isinstance(broker, Cluster) else 1
        create_topics(self._kafka, CATALOGUE, keep_for_ever=True, replication_factor=copies)
        self._producer = Producer(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()
        self._producer.close()
        self._exits.close()

    def start(self, stage: str, deaths: Iterable[tuple[str, int]] = (), **how: Any) -> BaseProcess:
        """Start a process of a stage, with small batches; `how` is of a `Life`.

        One life after the other ends in one of `deaths`: (point, the so manieth time).
        """
        definitions = Definitions.model_validate(DEFINITIONS)
        usual: dict[str, Any] = {"shards": SHARDS, "seed": f"{self._seed}.{stage}"}
        usual |= {"address": self.address, "batch_max": _BATCHES_MAX[stage]}
        usual |= {"clickhouse_url": self._clickhouse_url, "stripe_url": self._stripe.url}
        if stage == "clickhouse":
            with self._clickhouse() as client:
                migrate(client)
        self._plans[stage] = deque(deaths)
        life = Life(stage, definitions=definitions, witness=self._witness, **(usual | how))
        return self._start(self._next_death(life))

    def died_at(self) -> Counter[str]:
        """Where processes have died, as `stage: point`."""
        return Counter(self._witness.read_text().splitlines() if self._witness.exists() else ())

    def has_deaths_to_come(self) -> bool:
        """Whether a process still has a death before it that was planned."""
        return any(life.dies_at for life in self._lives.values()) or any(self._plans.values())

    def _next_death(self, life: Life) -> Life:
        plan = self._plans[life.stage]
        if not plan:
            return life
        dies_at, dies_in = plan.popleft()
        return replace(life, dies_at=dies_at, dies_in=dies_in)

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
            self._start(self._next_death(life.again(self.deaths, dies_within)))

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

    def send_while_the_broker_may_die(self, count: int) -> None:
        """As `send`, but take no refusal for a fault; `send_refused` must follow."""
        for line in list(islice(self._unsent, count)):
            with suppress(DeliveryFailed):
                self._producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
            self._sent += 1
        with suppress(DeliveryFailed):
            self._producer.flush()

    def send_refused(self) -> None:
        """Send again what is not on the log, as the producer's error advises."""
        records = read(self.address, topics.EVENTS.name)
        there = Counter((record.key, record.value) for record in records)
        for line in read_ndjson(self._lines[: self._sent]):
            if not there[line.key, line.value]:
                self._producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
            else:
                there[line.key, line.value] -= 1
        self._producer.flush()

    def repartition(self, partitions: int) -> None:
        """Give usage.events more partitions, and send to all of them from now on."""
        self.wait_until_done()  # A customer's later events may be read before the earlier ones.
        admin = AdminClient({"bootstrap.servers": self.address})
        more = NewPartitions(topics.EVENTS.name, partitions)
        for done in admin.create_partitions([more]).values():
            done.result(WAIT_SECONDS_MAX)
        known = partial(partition_count, self._kafka, topics.EVENTS.name)
        wait_until(lambda: known() == partitions, "the broker knows the new partitions")
        self._producer.close()
        # A client that knows a topic looks for new partitions every five minutes.
        self._producer = Producer(self.address)

    def is_done(self) -> bool:
        """Whether intake, tally and whatever else was started have confirmed everything."""
        stages = [stage for stage in READS if stage in {"intake", "tally", *self._plans}]
        return not any(backlog(self._kafka, stage, READS[stage]) for stage in stages)

    def wait_until_done(self) -> None:
        """Wait until the stages have confirmed everything."""
        wait_until(self.is_done, "the stages have confirmed everything")

    def differences(self) -> list[str]:
        """What is wrong in the end, against brute force over the lines that were sent."""
        arrived = read(self.address, topics.EVENTS.name)
        counts = Counter(record.partition for record in arrived)
        assert counts.total() == self._sent, counts
        sent = [[1] * counts[partition] for partition in range(max(counts) + 1)]
        expected = expect(DEFINITIONS, self._as_they_lie(arrived), now=self._now)
        of_topic = cache(partial(read, self.address))
        found = differences(of_topic, expected, sent)
        if "bill" in self._plans:
            found += of_bill(of_topic, expected)
        if "stripe" in self._plans:
            found += of_stripe(of_topic, self._stripe.journal)
        if "clickhouse" in self._plans:
            self._kill()
            with self._clickhouse() as client:
                found += of_clickhouse(of_topic, client)
        return found

    def _as_they_lie(self, arrived: Sequence[Record]) -> list[bytes]:
        """The lines that were sent, those of each partition in its order.

        That is not always the one in which they were sent: what a partition's first leader refuses
        is sent again, behind what it took meanwhile (`streams.write.has_place`).
        """
        lines = self._lines[: self._sent]
        numbers: defaultdict[tuple[bytes | None, bytes | None], deque[int]] = defaultdict(deque)
        for number, line in enumerate(read_ndjson(lines)):
            numbers[line.key, line.value].append(number)
        lying = list(lines)
        for _, records in groupby(arrived, key=lambda record: record.partition):
            found = [numbers[record.key, record.value].popleft() for record in records]
            for place, number in zip(sorted(found), found, strict=True):
                lying[place] = lines[number]
        return lying

    @contextmanager
    def _clickhouse(self) -> Iterator[Client]:
        """The database, while no process has it open."""
        connection = Connection(self._clickhouse_url, SecretStr(""))
        try:
            with connection.client() as client:
                yield client
        finally:
            connection.close()

    def _kill(self) -> None:
        """kill -9 of every process."""
        for process in self._lives:
            process.kill()
            process.join()
        self._lives.clear()

    def _start(self, life: Life) -> BaseProcess:
        process = life.start()
        self._lives[process] = life
        return process
