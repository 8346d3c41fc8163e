"""Events for a long run: sent steadily, and found again on the log in the order that counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from benchmarks.background import Background
from pipeline.generate import Shares, customer_id, generate
from pipeline.ingest_file import Line, read_ndjson
from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import rejection, topics
from schemas.frame import Kind
from streams.producer import Producer
from streams.read import partition_count, read_to_end

CUSTOMERS = 40

#: When the first events arrive, and what has no arrival time of its own. Not in the past: a broker
#: that restarts forgets who wrote records of more than a day ago (producer.id.expiration.ms),
#: and an idempotent producer may then double or lose some.
BEGIN = datetime(2030, 1, 5, 12, tzinfo=UTC)

_SHARES = Shares(duplicate=0.05, conflict=0.02, late=0.02, delayed=0.02, unknown=0.02, broken=0.02)
#: A chunk of events spans less than an hour, and the next one arrives three hours later: a long
#: run sees many days, and every day its customers cross their thresholds anew.
_CHUNK_EVENTS = 1_500
_CHUNK_STEP = timedelta(hours=3)
#: Of all lines, those that were sent in an earlier chunk.
_SENT_AGAIN = 0.02
_TICK_SECONDS = 0.1


def definitions() -> dict[str, Any]:
    """Meters of all kinds, many thresholds, and two thirds of the customers billed."""
    by_model = {"group_by": {"model": "$.model"}}
    tokens = {"event_type": "llm.request", "aggregation": "sum", "value": "$.tokens"}
    requests = {"event_type": "llm.request", "aggregation": "count"}
    thresholds = sorted({round(10 * 1.25**step) for step in range(40)})
    return {
        "meters": [
            {"slug": "tokens", **tokens, **by_model, "stripe": {"event_name": "llm_tokens"}},
            {"slug": "requests", **requests, "stripe": {"event_name": "llm_requests"}},
            {"slug": "requests_a_day", **requests, "period": "day", "grace_hours": 24},
            {
                "slug": "peak_context",
                **(tokens | {"aggregation": "max", "value": "$.context_tokens"}),
                "period": "day",
                "grace_hours": 24,
            },
        ],
        "plans": [
            {
                "slug": "pro",
                "limits": [
                    {"meter": "requests", "limit": 1_000, "thresholds": thresholds},
                    {"meter": "requests_a_day", "limit": 100, "thresholds": thresholds},
                    {
                        "meter": "tokens",
                        "limit": 1_000_000,
                        "thresholds": ["1%", "10%", "50%", "100%", 5_000_000, 20_000_000],
                    },
                    {"meter": "peak_context", "limit": 8_000, "thresholds": ["50%", "90%"]},
                ],
            }
        ],
        "customers": [
            {"id": customer_id(rank), "plan": "pro"}
            | ({"stripe_customer_id": f"cus_stripe_{rank:02d}"} if rank % 3 else {})
            for rank in range(1, CUSTOMERS + 1)
        ],
    }


class Feed(Background):
    """Sends events at `per_second` from a thread of its own, while it is not held."""

    def __init__(self, address: str, seed: int, per_second: float) -> None:
        super().__init__("feed", self._work)
        self.lines: list[bytes] = []
        self._unsent = _without_end(seed)
        self._newest_ms = 0
        self._per_second = per_second
        self._address = address
        self._producer = self._connected()
        self._flowing = threading.Event()
        self._resting = threading.Event()
        self._stale = threading.Event()
        self._failure: BaseException | None = None

    def now_ms(self) -> int:
        """The arrival of the newest event: the time that it is for Stripe."""
        return self._newest_ms or int(BEGIN.timestamp() * 1000)

    def flow(self) -> None:
        """Send from now on."""
        self._resting.clear()
        self._flowing.set()

    def hold(self) -> int:
        """Send no more for now; how many events are safe on the log.

        Raises:
            DeliveryFailed: an event did not arrive there.
        """
        self._flowing.clear()
        self._resting.wait()
        if self._failure is not None:
            raise self._failure
        return len(self.lines)

    def reconnect(self) -> None:
        """Go on as a new client, which knows all partitions: an old one looks every 5 minutes."""
        self._stale.set()

    def _connected(self) -> Producer:
        return Producer(self._address, kafka={"log_level": "2"})

    def _wake(self) -> None:
        self._flowing.set()

    def _close(self) -> None:
        self._producer.close()

    def _work(self) -> None:
        try:
            while not self._end.is_set():
                if not self._flowing.is_set():
                    self._producer.flush()
                    self._resting.set()
                    self._flowing.wait()
                    continue
                if self._stale.is_set():
                    self._producer.close()
                    self._producer = self._connected()
                    self._stale.clear()
                self._send(max(1, round(self._per_second * _TICK_SECONDS)))
                self._end.wait(_TICK_SECONDS)
        except BaseException as failure:
            self._failure = failure
            self._resting.set()

    def _send(self, count: int) -> None:
        for _ in range(count):
            raw, line = next(self._unsent)
            self._producer.send_raw(line.value, key=line.key, timestamp_ms=line.timestamp_ms)
            self._newest_ms = max(self._newest_ms, line.timestamp_ms or 0)
            self.lines.append(raw)


def _without_end(seed: int) -> Iterator[tuple[bytes, Line]]:
    """Lines, each with what is sent of it."""
    rng = Random(seed)
    earlier: list[bytes] = []
    number = 0
    while True:
        arrives = BEGIN + number * _CHUNK_STEP
        chunk = list(
            generate(_CHUNK_EVENTS, CUSTOMERS, rng.getrandbits(32), arrives, None, _SHARES)
        )
        for raw in chunk:
            for line in read_ndjson([raw]):
                yield raw, line
            if earlier and rng.random() < _SENT_AGAIN:
                again = rng.choice(earlier)
                for line in read_ndjson([again]):
                    yield again, line
        earlier += rng.sample(chunk, 100)
        number += 1


@dataclass(frozen=True)
class Input:
    """What came to lie on usage.events."""

    #: In an order that is right for every customer.
    lines: list[bytes]
    #: Records that Kafka has twice: a broker that was killed may forget what it had from whom.
    doubled: int
    complaints: list[str]


def read_input(kafka: Mapping[str, str], lines: list[bytes]) -> Input:
    """The log as input, compared with the lines that were sent, and with what intake took from it.

    Customers who moved to another partition of usage.events have their order in their shard's log
    only. Intake may not change the order of one partition, and must take each position once.
    """
    names: dict[tuple[bytes, int | None], bytes] = {}
    unseen: Counter[tuple[bytes, int | None]] = Counter()
    for raw in lines:
        for line in read_ndjson([raw]):
            names[line.value, line.timestamp_ms] = raw
            unseen[line.value, line.timestamp_ms] += 1
    waiting: dict[tuple[int, int], bytes] = {}
    complaints: list[str] = []
    for record in _records(kafka, topics.EVENTS.name):
        value = record.value or b""
        name = (value, record.timestamp_ms if (value, record.timestamp_ms) in names else None)
        if name in names:
            waiting[record.partition, record.offset] = names[name]
            unseen[name] -= 1
        else:
            complaints.append(f"event {record.partition}/{record.offset} was never sent")
    if lost := sum(count for count in unseen.values() if count > 0):
        complaints.append(f"{lost} events that were sent are not on the log")
    doubled = -sum(count for count in unseen.values() if count < 0)
    ordered: list[bytes] = []
    taken: Counter[tuple[int, int]] = Counter()
    last: dict[tuple[int, int], int] = {}
    for shard, place in _taken_in(kafka):
        taken[place] += 1
        if place in waiting:
            ordered.append(waiting.pop(place))
        if shard >= 0:
            if place[1] <= last.get((shard, place[0]), -1):
                complaints.append(f"shard {shard} has event {place} after a later one")
            last[shard, place[0]] = place[1]
    complaints += [f"event {place} was taken in {n} times" for place, n in taken.items() if n > 1]
    complaints += [f"event {place} was never taken in" for place in waiting]
    return Input(ordered + list(waiting.values()), doubled, complaints)


def _taken_in(kafka: Mapping[str, str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """(shard, position) of every event that intake has packed or, with shard -1, rejected."""
    for record in _records(kafka, topics.METERED.name):
        frame = open_frame(record)
        if frame.kind is Kind.PACK:
            columns = [frame.parts[0].column(f"source_{name}") for name in ("partition", "offset")]
            for place in zip(*(column.to_pylist() for column in columns), strict=True):
                yield record.partition, place
    for record in _records(kafka, topics.REJECTED.name):
        headers = dict(record.headers)
        partition, offset = (
            int(headers[name]) for name in (rejection.HEADER_PARTITION, rejection.HEADER_OFFSET)
        )
        yield -1, (partition, offset)


def _records(kafka: Mapping[str, str], topic: str) -> Iterator[Record]:
    for partition in range(partition_count(kafka, topic)):
        yield from read_to_end(kafka, topic, partition)
