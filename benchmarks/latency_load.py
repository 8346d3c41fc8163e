"""An open-loop load on a fixed schedule, and when what became of its probes is readable.

Every so many events one is a probe: the first event of a customer of its own, large enough to cross
that customer's threshold, so that its total and its alert are told from all others by name. A probe
counts from the time at which the schedule wanted it sent, however late it was sent: a system that
holds up its own load generator does not look faster for it (coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from benchmarks.background import Background
from benchmarks.histogram import Histogram
from benchmarks.workload import Workload
from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import topics
from schemas.frame import Kind
from streams.read import read_to_end, reader, record_of

_PREFIX = "probe_"
_PROBE = (
    b'{"specversion":"1.0","id":"probe-%d-%d","source":"/gateway/eu-1","type":"llm.request",'
    b'"subject":"%b","time":"2026-11-02T00:00:00Z",'
    b'"data":{"value":%d,"model":"m-0","region":"eu-0"}}'
)
#: Over the first threshold of a customer.
_PROBE_VALUE = 80_000
#: What else is sent, again and again under other ids.
_POOL = Workload(100_000, duplicate_share=0)
#: Where the id stands in an event, 16 digits.
_ID = len('{"specversion":"1.0","id":"')
_TOPIC = topics.EVENTS.name
_SENDER: dict[str, str | int | bool] = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 5,
    "partitioner": "murmur2_random",
    "queue.buffering.max.messages": 1_000_000,
    "delivery.report.only.error": True,
    "log_level": 2,
}
_FLUSH_SECONDS = 60.0
_TICK_SECONDS = 0.001
_WAIT_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    """`per_second` events for `seconds`; of them `probes_per_second` are probes.

    `number` tells the probes of one load from those of another. What is due in the first
    `warm_up_seconds` is sent and not counted.
    """

    number: int
    per_second: int
    seconds: float
    warm_up_seconds: float
    probes_per_second: int

    @property
    def events(self) -> int:
        """How many events there are, probes among them."""
        return int(self.per_second * (self.warm_up_seconds + self.seconds))

    @property
    def spacing(self) -> int:
        """Every so many events one is a probe."""
        return max(1, self.per_second // self.probes_per_second)

    @property
    def probes(self) -> dict[str, int]:
        """Customer → when it is due, in nanoseconds since the first event; of all probes."""
        return {
            self.probe(number): self.due_ns(number)
            for number in range(0, self.events, self.spacing)
        }

    @property
    def counted(self) -> dict[str, int]:
        """The probes that are due after the warm-up."""
        begin_ns = self.warm_up_seconds * 1e9
        return {probe: due_ns for probe, due_ns in self.probes.items() if due_ns >= begin_ns}

    def probe(self, number: int) -> str:
        """The customer of event `number`, a probe."""
        return f"{_PREFIX}{self.number}_{number:09d}"

    def due_ns(self, number: int) -> int:
        """When event `number` is to be sent, in nanoseconds since the first one."""
        return number * 1_000_000_000 // self.per_second


@dataclass(frozen=True)
class Sent:
    """What a sender has done. Its first event was due at `begin_ns` on the monotonic clock."""

    begin_ns: int
    begin_ms: float
    lag: Histogram
    cpu_seconds: float


def send(address: str, load: Load) -> Sent:
    """Send a load; to be called in a process of its own, because it must keep up.

    Raises:
        RuntimeError: an event was not delivered.
    """
    pool = [
        (key, event[:_ID], event[_ID + 16 :], at) for key, event, at in _POOL.rows(0, _POOL.events)
    ]
    lag = Histogram()
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    # The client library alone: what it shares the machine with is measured, and not the load.
    producer = Producer({"bootstrap.servers": address} | _SENDER)
    cpu = time.process_time()
    begin_ns, begin_ms = time.monotonic_ns(), time.time_ns() / 1e6
    sent = 0
    while sent < load.events:
        elapsed_ns = time.monotonic_ns() - begin_ns
        due = min(load.events, 1 + elapsed_ns * load.per_second // 1_000_000_000)
        for number in range(sent, due):
            key, head, tail, arrival_ms = pool[number % len(pool)]
            event = b"%b%04x%012x%b" % (head, load.number, number, tail)
            if number % load.spacing == 0:
                key = load.probe(number).encode()
                event = _PROBE % (load.number, number, key, _PROBE_VALUE)
            while True:
                try:
                    producer.produce(
                        _TOPIC, event, key, timestamp=arrival_ms, on_delivery=delivered
                    )
                    break
                except BufferError:
                    # Whoever sends too much waits, and is behind the schedule.
                    producer.poll(_WAIT_SECONDS)
        if due > sent and load.due_ns(sent) >= load.warm_up_seconds * 1e9:
            lag.record_ns(time.monotonic_ns() - begin_ns - load.due_ns(sent))
        sent = due
        producer.poll(0)
        time.sleep(_TICK_SECONDS)
    unsent = producer.flush(_FLUSH_SECONDS)
    if unsent or failed:
        raise RuntimeError(f"{unsent} events were not sent, {len(failed)} failed: {failed[:1]}")
    return Sent(begin_ns, begin_ms, lag, time.process_time() - cpu)


@dataclass
class Seen:
    """When each probe's total and alert became readable, by customer, on the monotonic clock."""

    totals_ns: dict[str, int] = field(default_factory=dict)
    alerts_ns: dict[str, int] = field(default_factory=dict)
    #: The timestamp of the record with the total, in milliseconds since 1970.
    totals_written_ms: dict[str, int] = field(default_factory=dict)
    #: Alerts that came a second time. There must be none.
    repeated: list[str] = field(default_factory=list)
    #: Probes of which a total is not what was sent. There must be none.
    wrong: list[str] = field(default_factory=list)


class Observer(Background):
    """A `read_committed` consumer of totals and alerts; a context manager."""

    def __init__(self, kafka: Mapping[str, str], shards: int) -> None:
        super().__init__("observer", self._work)
        self.seen = Seen()
        self._consumer: Consumer = reader(kafka)
        self._consumer.assign(
            [
                TopicPartition(topic.name, shard, OFFSET_END)
                for topic in (topics.TOTALS, topics.ALERTS)
                for shard in range(shards)
            ]
        )

    def wait_for(self, probes: Collection[str], patience_seconds: float) -> None:
        """Wait until totals and alerts of all probes were readable.

        Raises:
            TimeoutError: some are not after so many seconds.
        """
        give_up = time.monotonic() + patience_seconds
        for name, found in (("total", self.seen.totals_ns), ("alert", self.seen.alerts_ns)):
            while missing := sum(probe not in found for probe in probes):
                if time.monotonic() > give_up:
                    raise TimeoutError(f"of {len(probes)} probes {missing} have no {name}")
                time.sleep(_WAIT_SECONDS)

    def _work(self) -> None:
        while not self._end.is_set():
            # Asking for many at first would wait for all of them.
            messages = self._consumer.consume(1, _WAIT_SECONDS)
            now_ns = time.monotonic_ns()
            messages += self._consumer.consume(1_000, 0)
            for message in messages:
                error = message.error()
                if error is None:
                    self._note(record_of(message), now_ns)
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)

    def _close(self) -> None:
        self._consumer.close()

    def _note(self, record: Record, now_ns: int) -> None:
        seen = self.seen
        if record.topic == topics.ALERTS.name:
            customer = (record.key or b"").decode()
            if customer in seen.alerts_ns:
                seen.repeated.append(customer)
            elif customer.startswith(_PREFIX):
                seen.alerts_ns[customer] = now_ns
            return
        probes = _probes_in(open_frame(record).parts[0])
        values = probes.column("value").to_pylist()
        for customer, value in zip(_customers(probes), values, strict=True):
            if value != str(_PROBE_VALUE):
                seen.wrong.append(customer)
            seen.totals_ns.setdefault(customer, now_ns)
            seen.totals_written_ms.setdefault(customer, record.timestamp_ms)


def packed_ms(kafka: Mapping[str, str], begins: Mapping[int, int]) -> dict[str, int]:
    """When intake wrote each probe, in milliseconds since 1970, from `begins` (shard → offset)."""
    written = {}
    for shard, begin in begins.items():
        for record in read_to_end(kafka, topics.METERED.name, shard, begin):
            frame = open_frame(record)
            if frame.kind is Kind.PACK:
                for customer in _customers(_probes_in(frame.parts[0])):
                    written[customer] = record.timestamp_ms
    return written


def _probes_in(batch: pa.RecordBatch) -> pa.RecordBatch:
    customers = pc.cast(batch.column("customer"), pa.string())
    return batch.filter(pc.starts_with(customers, _PREFIX))


def _customers(batch: pa.RecordBatch) -> list[str]:
    found: list[str] = batch.column("customer").to_pylist()
    return found
