"""What the stages have written, against brute force: every difference as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client

from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import rejection, topics
from schemas.alert import Alert
from schemas.billing import Delivery, Delta
from schemas.decisions import Status
from schemas.frame import Kind
from schemas.quantity import from_plain, plain
from schemas.total import Total, read_totals
from sinks.clickhouse import read as clickhouse
from sinks.stripe.account import MeterEvent
from tests.oracle_rules import Expected

#: Partition and offset in usage.events, and the place in a record that held many events.
Position = tuple[int, ...]
POSITION = ("source_partition", "source_offset", "source_index")

#: All committed records of a topic, partition by partition.
Read = Callable[[str], Sequence[Record]]


def differences(read: Read, expected: Expected, sent: Sequence[Sequence[int]]) -> list[str]:
    """[] if all is exact. `sent`: per partition of usage.events, the events of each record."""
    found = [*_of_positions(read, sent), *_of_totals(read, expected)]
    ledger, complaints = _ledger(read)
    found += complaints
    for status in sorted(expected.ledger.keys() | ledger.keys()):
        if status != "sent" and ledger[status] != expected.ledger[status]:
            found.append(f"{ledger[status]} {status}, not {expected.ledger[status]}")
    alerts: Counter[tuple[str, ...]] = Counter()
    for record in read(topics.ALERTS.name):
        alert = Alert.model_validate_json(record.value or b"")
        start = f"{alert.period_start:%Y-%m-%dT%H:%M:%SZ}"
        alerts[alert.customer, alert.meter, start, alert.threshold, alert.value] += 1
    return found + _uneven("alert", expected.alerts, alerts)


def _ledger(read: Read) -> tuple[Counter[str], list[str]]:
    """How many events ended how, and which packs were decided more or less than once."""
    ledger = Counter({"rejected": len(read(topics.REJECTED.name))})
    decisions = _frames(read, topics.DECISIONS.name)
    times_decided = Counter(
        (record.partition, frame.header["pack_offset"]) for record, frame in decisions
    )
    for _, frame in decisions:
        for status in frame.parts[0].column("status").to_pylist():
            ledger[Status(status).name.lower()] += 1
    complaints = [
        f"pack {place} was decided {times_decided[place]} times"
        for place in [(record.partition, record.offset) for record, _ in _packs(read)]
        if times_decided[place] != 1
    ]
    return ledger, complaints


def _of_positions(read: Read, sent: Sequence[Sequence[int]]) -> Iterator[str]:
    seen: Counter[Position] = Counter()
    for _, frame in _packs(read):
        columns = [frame.parts[0].column(name) for name in POSITION]
        seen.update(zip(*(column.to_pylist() for column in columns), strict=True))
    seen += _places(read)
    places = {
        (partition, offset, index)
        for partition, records in enumerate(sent)
        for offset, events in enumerate(records)
        for index in range(events)
    }
    for place in sorted(places):
        if seen[place] != 1:
            yield f"event {'/'.join(map(str, place))} was taken in {seen[place]} times"
    if seen.total() > len(places):
        yield f"{seen.total()} events were taken in, but {len(places)} were sent"


def _of_totals(read: Read, expected: Expected) -> list[str]:
    totals: dict[tuple[str, ...], Any] = {}
    complaints = []
    for _, frame in _frames(read, topics.TOTALS.name):
        for total in read_totals(frame):
            start = f"{total.period_start:%Y-%m-%dT%H:%M:%SZ}"
            group = json.dumps(total.group, sort_keys=True)
            key = (total.customer, total.meter, start, group)
            before = totals.get(key)
            if before and (before.version >= total.version or before.events >= total.events):
                complaints.append(f"the total {key} went from {before} to {total}")
            totals[key] = total
    found = Counter((*key, total.value) for key, total in totals.items())
    return complaints + _uneven("total", expected.totals, found)


def _uneven(what: str, expected: Counter[Any], found: Counter[Any]) -> list[str]:
    return [
        f"{what} {key}: {found[key]} times, not {expected[key]}"
        for key in sorted(expected.keys() | found.keys())
        if found[key] != expected[key]
    ]


def _packs(read: Read) -> list[tuple[Record, Any]]:
    return [entry for entry in _frames(read, topics.METERED.name) if entry[1].kind is Kind.PACK]


def _frames(read: Read, topic: str) -> list[tuple[Record, Any]]:
    return [(record, open_frame(record)) for record in read(topic)]


def of_bill(read: Read, expected: Expected) -> list[str]:
    """What is wrong in the outbox: each total is frozen once, in deltas that sum up to it."""
    deltas = _deltas(read)
    names = Counter(delta.identifier for delta in deltas)
    found = [f"{name} was frozen {times} times" for name, times in names.items() if times != 1]
    frozen: dict[tuple[str, str, str], list[Delta]] = {}
    for delta in deltas:
        start = f"{delta.period_start:%Y-%m-%dT%H:%M:%SZ}"
        key = (delta.stripe_customer_id, delta.event_name, start)
        frozen.setdefault(key, []).append(delta)
    for key in sorted(expected.stripe.keys() | frozen.keys()):
        of_key = frozen.get(key, [])
        billed = sum(from_plain(delta.value) for delta in of_key)
        wanted = from_plain(f"{expected.stripe.get(key, 0):f}")
        if billed != wanted:
            found.append(f"{key}: {plain(billed)} billed, not {plain(wanted)}")
        if [delta.sequence for delta in of_key] != list(range(len(of_key))):
            found.append(f"{key}: the sequence of deltas has a gap")
    return found


def of_stripe(read: Read, journal: Sequence[MeterEvent]) -> list[str]:
    """What is wrong at Stripe: every delta counts once, and is known to be delivered."""
    frozen = Counter((delta.identifier, from_plain(delta.value)) for delta in _deltas(read))
    counted = Counter((event.identifier, from_plain(f"{event.value:f}")) for event in journal)
    outcomes = {
        (delivery.identifier, delivery.outcome)
        for record in read(topics.DELIVERIES.name)
        if (delivery := Delivery.model_validate_json(record.value or b""))
    }
    delivered = Counter(name for name, outcome in outcomes if outcome == "delivered")
    return [
        *_uneven("meter event", frozen, counted),
        *_uneven("delivery", Counter(name for name, _ in frozen), delivered),
        *(f"{name} is {outcome}" for name, outcome in outcomes if outcome != "delivered"),
    ]


def of_clickhouse(read: Read, client: Client) -> list[str]:
    """What is wrong in ClickHouse under FINAL: it has what Kafka has, each once."""
    packs = {(record.partition, record.offset): frame for record, frame in _packs(read)}
    decided: Counter[tuple[Any, ...]] = Counter()
    for record, frame in _frames(read, topics.DECISIONS.name):
        events = packs[record.partition, frame.header["pack_offset"]].parts[0]
        places = [events.column(name).to_pylist() for name in POSITION]
        names = [Status(s).name.lower() for s in frame.parts[0].column("status").to_pylist()]
        decided.update(zip(*places, names, strict=True))
    rows = client.query(
        f"SELECT {', '.join(POSITION)}, 'accepted' FROM events FINAL UNION ALL "
        f"SELECT {', '.join(POSITION)}, toString(status) FROM set_aside FINAL"
    ).result_rows
    newest: dict[tuple[str, ...], Total] = {}
    for _, frame in _frames(read, topics.TOTALS.name):
        for total in read_totals(frame):
            newest[_key(total)] = total
    alerts = [Alert.model_validate_json(record.value or b"") for record in read(topics.ALERTS.name)]
    names_delivered = {record.key.decode() for record in read(topics.DELIVERIES.name) if record.key}
    in_deliveries = client.query("SELECT identifier FROM deliveries FINAL").result_rows
    rejected = client.query(f"SELECT {', '.join(POSITION)} FROM rejections FINAL")
    return [
        *_uneven("event", decided, Counter(map(tuple, rows))),
        *_uneven("total", _figures(newest.values()), _figures(clickhouse.totals(client))),
        *_uneven("alert", _crossings(alerts), _crossings(clickhouse.alerts(client))),
        *_uneven(
            "delivery",
            Counter(names_delivered),
            Counter(identifier for (identifier,) in in_deliveries),
        ),
        *_uneven("rejection", _places(read), Counter(map(tuple, rejected.result_rows))),
    ]


def _deltas(read: Read) -> list[Delta]:
    return [Delta.model_validate_json(record.value or b"") for record in read(topics.OUTBOX.name)]


def _places(read: Read) -> Counter[tuple[int, ...]]:
    """The source positions of what was rejected."""
    every = [dict(record.headers) for record in read(topics.REJECTED.name)]
    names = (rejection.HEADER_PARTITION, rejection.HEADER_OFFSET, rejection.HEADER_INDEX)
    return Counter(tuple(int(headers[name]) for name in names) for headers in every)


def _key(total: Total) -> tuple[str, ...]:
    group = json.dumps(total.group, sort_keys=True)
    return total.customer, total.meter, total.period_start.isoformat(), group


def _figures(totals: Iterable[Total]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (*_key(t), from_plain(t.value), from_plain(t.usage), t.events, t.as_of, t.version)
        for t in totals
    )


def _crossings(alerts: Iterable[Alert]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (a.customer, a.meter, a.period_start, a.threshold, from_plain(a.value), a.event_id)
        for a in alerts
    )
