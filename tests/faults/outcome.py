"""What intake and tally have written, against brute force: every difference as a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import rejection, topics
from schemas.alert import Alert
from schemas.decisions import Status
from schemas.frame import Kind
from schemas.total import read_totals
from tests.oracle_rules import Expected
from tests.streams.on_kafka import read

Position = tuple[int, int]


def differences(address: str, expected: Expected, sent: Sequence[int]) -> list[str]:
    """[] if all is exact. `sent` is the number of records in each partition of usage.events."""
    found = [*_of_positions(address, sent), *_of_totals(address, expected)]
    ledger, complaints = _ledger(address)
    found += complaints
    for status in sorted(expected.ledger.keys() | ledger.keys()):
        if status != "sent" and ledger[status] != expected.ledger[status]:
            found.append(f"{ledger[status]} {status}, not {expected.ledger[status]}")
    alerts: Counter[tuple[str, ...]] = Counter()
    for record in read(address, topics.ALERTS.name):
        alert = Alert.model_validate_json(record.value or b"")
        start = f"{alert.period_start:%Y-%m-%dT%H:%M:%SZ}"
        alerts[alert.customer, alert.meter, start, alert.threshold, alert.value] += 1
    return found + _uneven("alert", expected.alerts, alerts)


def _ledger(address: str) -> tuple[Counter[str], list[str]]:
    """How many events ended how, and which packs were decided more or less than once."""
    ledger = Counter({"rejected": len(read(address, topics.REJECTED.name))})
    decisions = _frames(address, topics.DECISIONS.name)
    times_decided = Counter(
        (record.partition, frame.header["pack_offset"]) for record, frame in decisions
    )
    for _, frame in decisions:
        for status in frame.parts[0].column("status").to_pylist():
            ledger[Status(status).name.lower()] += 1
    complaints = [
        f"pack {place} was decided {times_decided[place]} times"
        for place in [(record.partition, record.offset) for record, _ in _packs(address)]
        if times_decided[place] != 1
    ]
    return ledger, complaints


def _of_positions(address: str, sent: Sequence[int]) -> Iterator[str]:
    seen: Counter[Position] = Counter()
    for _, frame in _packs(address):
        columns = [frame.parts[0].column(f"source_{name}") for name in ("partition", "offset")]
        seen.update(zip(*(column.to_pylist() for column in columns), strict=True))
    for record in read(address, topics.REJECTED.name):
        headers = dict(record.headers)
        place = (headers[rejection.HEADER_PARTITION], headers[rejection.HEADER_OFFSET])
        seen[int(place[0]), int(place[1])] += 1
    for partition, count in enumerate(sent):
        for offset in range(count):
            if seen[partition, offset] != 1:
                yield f"event {partition}/{offset} was taken in {seen[partition, offset]} times"
    if seen.total() > sum(sent):
        yield f"{seen.total()} events were taken in, but {sum(sent)} were sent"


def _of_totals(address: str, expected: Expected) -> list[str]:
    totals: dict[tuple[str, ...], Any] = {}
    complaints = []
    for _, frame in _frames(address, topics.TOTALS.name):
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


def _packs(address: str) -> list[tuple[Record, Any]]:
    return [entry for entry in _frames(address, topics.METERED.name) if entry[1].kind is Kind.PACK]


def _frames(address: str, topic: str) -> list[tuple[Record, Any]]:
    return [(record, open_frame(record)) for record in read(address, topic)]
