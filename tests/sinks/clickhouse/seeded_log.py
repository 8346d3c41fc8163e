"""A seeded log of everything the ClickHouse sink reads, and the rows it must end as.

Packs are cut by intake itself. What became of each event, and all totals, alerts, deliveries, are
made up here: the sink must write them as they are, whatever they say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.client import Client

from pipeline.intake import Intake
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.alert import Alert
from schemas.billing import Delivery
from schemas.decisions import LATE_COLUMNS, STATUS_COLUMNS, Status
from schemas.definitions import Definitions
from schemas.frame import Kind, seal, unseal
from schemas.total import TOTAL_COLUMNS

Place = tuple[str, int]
#: Table → key of a row → the rest of the row.
Rows = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]

SHARDS = 3
_START = datetime(2026, 11, 28, 21, 0, 0, tzinfo=UTC)

#: How each table is read, and how many of the columns are its key.
_QUERIES = {
    "events": (
        2,
        """SELECT source_partition, source_offset, customer, type, toUnixTimestamp64Nano(time),
        source, id, data, toUnixTimestamp64Milli(received_at), arraySort(late_for)
        FROM events FINAL""",
    ),
    "set_aside": (
        2,
        """SELECT source_partition, source_offset, customer, type, toUnixTimestamp64Nano(time),
        source, id, data, toUnixTimestamp64Milli(received_at), toString(status)
        FROM set_aside FINAL""",
    ),
    "rejections": (
        2,
        """SELECT source_partition, source_offset, reason, hex(original),
        toUnixTimestamp64Milli(received_at) FROM rejections FINAL""",
    ),
    "totals": (
        4,
        """SELECT customer, meter, toUnixTimestamp64Milli(period_start), group_key, `group`,
        toString(value), toString(usage), events, version FROM totals FINAL""",
    ),
    "alerts": (
        4,
        """SELECT customer, meter, period_start, threshold, period_end, plan, toString(`limit`),
        toString(value), crossed_at, event_source, event_id FROM alerts FINAL""",
    ),
    "deliveries": (
        1,
        """SELECT identifier, customer, stripe_customer_id, meter, event_name, period_start,
        toString(value), outcome, reason, remedy, at FROM deliveries FINAL""",
    ),
}


def rows_in(client: Client) -> Rows:
    """What ClickHouse has now, under FINAL."""
    found: Rows = {}
    for table, (key, query) in _QUERIES.items():
        rows = client.query(query).result_rows
        found[table] = {tuple(row[:key]): tuple(row[key:]) for row in rows}
        assert len(found[table]) == len(rows), f"{table} has two rows of one key under FINAL"
    return found


class SeededLog:
    """Records of all topics by place, and in `expected` the rows that they must end as."""

    def __init__(self, seed: int, batches: int = 10) -> None:
        self.records: dict[Place, list[Record]] = {}
        self.expected: Rows = {table: {} for table in _QUERIES}
        self._rng = random.Random(seed)
        self._inputs = 0
        intake = Intake(Definitions(), shards=SHARDS)
        for outgoing in intake.announce():
            self.append(outgoing)
        for _ in range(batches):
            inputs = [self._input() for _ in range(self._rng.choice([1, 5, 40, 300]))]
            for outgoing in intake.step(inputs):
                if outgoing.topic == topics.REJECTED.name:
                    self.append(outgoing, self._rng.randrange(SHARDS))
                else:
                    self._decide(outgoing, inputs)
            self._alert()
            self._deliver()

    def append(self, outgoing: Outgoing, partition: int | None = None) -> int:
        """The offset at which it lies now: transaction markers leave gaps in a log."""
        partition = outgoing.partition if partition is None else partition
        assert partition is not None
        records = self.records.setdefault((outgoing.topic, partition), [])
        offset = (records[-1].offset + 1 if records else 0) + self._rng.choice([0, 0, 1])
        records.append(
            Record(
                outgoing.topic, partition, offset, 0, outgoing.key, outgoing.value, outgoing.headers
            )
        )
        return offset

    def batches(self, positions: Mapping[Place, int], rng: random.Random) -> Iterator[list[Record]]:
        """What is left from `positions` on, as any consumer may get it: ordered in each place."""
        left = {
            place: [record for record in records if record.offset >= positions.get(place, 0)]
            for place, records in self.records.items()
        }
        while any(left.values()):
            batch = []
            for place in rng.sample(sorted(left), len(left)):
                count = rng.choice([0, 0, 1, 4])
                batch += left[place][:count]
                del left[place][:count]
            if batch:
                yield batch

    def _input(self) -> Record:
        """An event, valid nearly always, about two months around the turn of one."""
        rng = self._rng
        self._inputs += 1
        received_ms = int(_START.timestamp() * 1000) + self._inputs * 7
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"id-{self._inputs}",
            "source": f"/service/{rng.randrange(3)}",
            "type": rng.choice(["call", "upload"]),
            "subject": f"cus_{rng.randrange(8)}",
            "time": (_START + timedelta(minutes=rng.randrange(60 * 24 * 40))).isoformat(),
        }
        if rng.random() < 0.9:
            event["data"] = {"tokens": rng.randrange(1000)}
        value = json.dumps(event).encode()
        if rng.random() < 0.02:
            value = value[:-1]
            self.expected["rejections"][(0, self._inputs)] = (
                "malformed_json",
                value.hex().upper(),
                received_ms,
            )
        return Record(topics.EVENTS.name, 0, self._inputs, received_ms, None, value)

    def _decide(self, pack: Outgoing, inputs: list[Record]) -> None:
        rng = self._rng
        offset = self.append(pack)
        assert pack.partition is not None
        assert pack.value is not None
        by_offset = {record.offset: record for record in inputs}
        statuses, late = [], []
        events = unseal(pack.value).parts[0]
        for index, source_offset in enumerate(events.column("source_offset").to_pylist()):
            status = rng.choice([Status.ACCEPTED] * 5 + list(Status))
            late_for = rng.choice([[], [], [], ["tokens"], ["calls", "tokens"]])
            late_for = late_for if status == Status.ACCEPTED else []
            statuses.append(status)
            late += [(index, meter) for meter in late_for]
            self._expect(by_offset[source_offset], status, late_for)
        rng.shuffle(late)
        decisions = [
            pa.record_batch([pa.array(statuses, pa.uint8())], schema=STATUS_COLUMNS),
            pa.record_batch(
                [
                    pa.array([index for index, _ in late], pa.int32()),
                    pa.array([meter for _, meter in late], pa.string()),
                ],
                schema=LATE_COLUMNS,
            ),
        ]
        frame = seal(Kind.DECISIONS, {"pack_offset": offset}, decisions)
        self.append(Outgoing(topics.DECISIONS.name, frame), pack.partition)
        self._total(offset, pack.partition)

    def _expect(self, record: Record, status: Status, late_for: list[str]) -> None:
        """The row of one event, read by other means than the sink's."""
        event = json.loads(record.value or b"")
        since = datetime.fromisoformat(event["time"]) - datetime(1970, 1, 1, tzinfo=UTC)
        row = (
            event["subject"],
            event["type"],
            since // timedelta(microseconds=1) * 1000,
            event["source"],
            event["id"],
            json.dumps(event["data"]) if "data" in event else "",
            record.timestamp_ms,
        )
        key = (record.partition, record.offset)
        if status == Status.ACCEPTED:
            self.expected["events"][key] = (*row, late_for)
        else:
            self.expected["set_aside"][key] = (*row, status.name.lower())

    def _total(self, version: int, shard: int) -> None:
        """A frame of totals; customers belong to one shard each."""
        rng = self._rng
        rows = []
        for customer in rng.sample(range(6), 4):
            start = datetime(2026, rng.choice([11, 12]), 1, tzinfo=UTC)
            group = rng.choice([{}, {"model": "m"}, {"model": "ü\0", "region": "'"}])
            value = f"{rng.randrange(10 ** rng.choice([1, 30]))}.{rng.randrange(1, 10)}"
            row = {
                "customer": f"cus_{shard}_{customer}",
                "meter": rng.choice(["tokens", "calls"]),
                "period_start": start,
                "period_end": start + timedelta(days=31),
                "group": json.dumps(group, sort_keys=True, ensure_ascii=False),
                "value": f"-{value}",
                "usage": value,
                "events": rng.randrange(1, 10**6),
                "as_of": _START,
            }
            rows.append(row)
            start_ms = int(start.timestamp() * 1000)
            key = (row["customer"], row["meter"], start_ms, row["group"])
            self.expected["totals"][key] = (group, row["value"], value, row["events"], version)
        unique = {tuple(row[name] for name in TOTAL_COLUMNS.names[:5]): row for row in rows}
        batch = pa.RecordBatch.from_pylist(list(unique.values()), schema=TOTAL_COLUMNS)
        frame = seal(Kind.TOTALS, {"version": version}, [batch])
        self.append(Outgoing(topics.TOTALS.name, frame), shard)

    def _alert(self) -> None:
        alert = Alert(
            customer=f"cus_{self._inputs}",
            meter="tokens",
            period_start=datetime(2026, 11, 1, tzinfo=UTC),
            period_end=datetime(2026, 12, 1, tzinfo=UTC),
            plan="free",
            limit="100000",
            threshold="80%",
            value=f"{self._inputs}.000000001",
            crossed_at=_START + timedelta(milliseconds=self._inputs),
            event_source="/service/0",
            event_id=f"id-{self._inputs}",
        )
        outgoing = Outgoing(topics.ALERTS.name, alert.model_dump_json().encode())
        self.append(outgoing, self._rng.randrange(SHARDS))
        cells = alert.model_dump()
        key = tuple(cells.pop(name) for name in ("customer", "meter", "period_start", "threshold"))
        self.expected["alerts"][key] = tuple(cells.values())

    def _deliver(self) -> None:
        """A few identifiers, each of which changes its outcome now and then."""
        number = self._rng.randrange(4)
        delivery = Delivery(
            identifier=f"tokens-{number}",
            customer="cus_1",
            stripe_customer_id="cus_stripe_1",
            meter="tokens",
            event_name="llm_tokens",
            period_start=datetime(2026, 10 + number % 2, 1, tzinfo=UTC),
            value="812",
            outcome=self._rng.choice(["held", "delivered", "refused"]),
            at=_START + timedelta(microseconds=self._inputs),
        )
        outgoing = Outgoing(topics.DELIVERIES.name, delivery.model_dump_json().encode())
        self.append(outgoing, number % SHARDS)
        cells = delivery.model_dump()
        key = (cells.pop("identifier"),)
        self.expected["deliveries"][key] = tuple(cells.values())
