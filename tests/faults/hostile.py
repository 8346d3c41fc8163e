"""Hostile records in Meterline's own topics: what is written, and what a stop must be like."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
from confluent_kafka import Producer

from pipeline.errors import Stop
from pipeline.intake import Intake
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Kind, seal
from streams.bill import BillStage
from streams.confluent import ConfluentClients
from streams.stage import Stage
from streams.tally import TallyStage
from streams.transact import Transactor
from streams.write import write
from tests.streams.on_kafka import committed, read, run_to_its_end

SHARDS = 2
#: Which of them is told lies; the other one is in order.
BAD = 1

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "stripe": {"event_name": "llm_tokens"},
            }
        ],
        "customers": [
            {"id": f"cus_{n}", "stripe_customer_id": f"cus_stripe_{n}"} for n in range(1, 21)
        ],
    }
)

Tamper = Callable[[list[Outgoing]], list[Outgoing]]


def events(ids: Sequence[int]) -> list[Record]:
    each = [
        {
            "specversion": "1.0",
            "id": str(number),
            "source": "/hostile",
            "type": "llm",
            "subject": f"cus_{number % 20 + 1}",
            "time": "2026-11-20T12:00:00Z",
            "data": {"n": number},
        }
        for number in ids
    ]
    arrived_ms = 1_795_176_000_000
    return [
        Record(topics.EVENTS.name, 0, n, arrived_ms, None, json.dumps(event).encode())
        for n, event in zip(ids, each, strict=True)
    ]


def counted(shards: int = SHARDS) -> dict[str, list[Outgoing]]:
    """What intake, tally and bill write for three batches of events, by topic."""
    intake, tally = Intake(DEFINITIONS, shards), TallyStage(shards)
    bill = BillStage(DEFINITIONS, shards)
    for shard in range(shards):
        tally.restore(shard, iter(()))
        bill.restore(shard, iter(()))
    written: dict[str, list[Outgoing]] = {}
    ends: dict[tuple[str, int], int] = {}

    def appended(outgoing: Sequence[Outgoing]) -> list[Record]:
        records = []
        for each in outgoing:
            written.setdefault(each.topic, []).append(each)
            place = (each.topic, each.partition or 0)
            records.append(Record(*place, ends.get(place, 0), 0, each.key, each.value))
            ends[place] = ends.get(place, 0) + 1
        return records

    batches = [intake.announce(), *(intake.step(events(range(n, n + 40))) for n in (1, 41, 81))]
    for batch in batches:
        for record in appended(batch):
            totals = [r for r in appended(tally.step([record])) if r.topic == topics.TOTALS.name]
            if totals:
                appended(bill.step(totals))
    return written


def publish(address: str, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
    return write(Producer({"bootstrap.servers": address, "enable.idempotence": True}), outgoing)


def everything(address: str) -> dict[str, list[Record]]:
    return {topic.name: read(address, topic.name) for topic in topics.CATALOGUE}


def stop_of(address: str, stage: Stage) -> Stop:
    """How a stage ends; it must have written nothing."""
    before = everything(address)
    stop = threading.Event()
    clients = ConfluentClients({"bootstrap.servers": address, "log_level": "0"})
    # It would gather for a minute: all that is there is one batch.
    loop = Transactor(stage, clients, instance="a", stop=stop, linger_ms=500)
    with pytest.raises(Stop) as stopped:
        run_to_its_end(loop, stop)
    assert everything(address) == before
    assert set(committed(address, stage.name, stage.input_topic).values()) == {(0, "")}
    return stopped.value


def require(stop: Stop, *words: str) -> None:
    """A person is told where it is, what is wrong, and what to do."""
    for word in words:
        assert re.search(word, str(stop)), stop
    assert stop.remedy


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


#: What is written in the place of a frame, and what the stop must say of it.
FRAMES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a flipped bit": (flipped, "checksum mismatch"),
    "cut short": (lambda value: value[:-20], "checksum mismatch"),
    "cut within its envelope": (lambda value: value[:9], "not a Meterline frame"),
    "a version from the future": (
        lambda value: value[:2] + b"\x02" + value[3:],
        "frame version 2, this program reads 1.*Upgrade",
    ),
    "garbage": (lambda _: b"\x00\xffgarbage" * 50, "not a Meterline frame"),
    "nothing": (lambda _: b"", "not a Meterline frame"),
    "a tombstone": (lambda _: None, "not a Meterline frame"),
    "another kind": (
        lambda _: seal(Kind.DECISIONS, {"pack_offset": 1}),
        "decisions, which does not belong",
    ),
    "a header without what must be in it": (
        lambda value: seal(
            Kind(value[3]), {"other": 1}, [pa.record_batch({"n": [1]})] * (value[3] == 4)
        ),
        "has not what",
    ),
}
#: For stages that open frames in the same way as tally.
SOME = ("a flipped bit", "a version from the future")


def tampered(written: list[Outgoing], how: str) -> tuple[list[Outgoing], int]:
    """The last record of the bad shard is replaced; its offset."""
    of_shard = [number for number, each in enumerate(written) if each.partition == BAD]
    last = written[of_shard[-1]]
    changed = Outgoing(last.topic, FRAMES[how][0](last.value or b""), last.key, BAD)
    result = list(written)
    result[of_shard[-1]] = changed
    return result, len(of_shard) - 1


def record_of(outgoing: Outgoing) -> Record:
    return Record(outgoing.topic, outgoing.partition or 0, 0, 0, outgoing.key, outgoing.value)
