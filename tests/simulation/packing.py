"""Lines become records of usage.events: some alone, some packed with others of their partition."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from zlib import crc32

import msgspec

from pipeline.ingest_file import Line
from pipeline.record import Outgoing, Record
from schemas import topics
from schemas.usage_event import PACKED

_HEADERS = (("content-type", PACKED.encode()),)
_ARRIVAL = re.compile(rb'"receivedat":"[^"]*"')
_is_json = msgspec.json.Decoder(msgspec.Raw)

#: What is sent, and when it arrives, in milliseconds since 1970.
Sent = tuple[Outgoing, int | None]


def together(lines: Iterable[bytes], rng: Random) -> Iterator[bytes]:
    """`lines`, of which some arrive with the one before, because what is packed arrives at once.

    In half of all histories none do: more records give faults more places to strike.
    """
    share = rng.choice((0, 0.5))
    arrival = None
    for line in lines:
        own = _ARRIVAL.search(line)
        if own is None:
            yield line
            continue
        if arrival is None or rng.random() >= share:
            arrival = own[0]
        yield line.replace(own[0], arrival)


def packed(lines: Iterable[Line], partitions: int) -> Iterator[Sent]:
    """Records in an order that keeps that of each partition."""
    waiting: dict[int, list[Line]] = {}
    for line in lines:
        partition = crc32(line.key or b"") % partitions
        before = waiting.setdefault(partition, [])
        if before and not (before[-1].timestamp_ms == line.timestamp_ms and _may_be_packed(line)):
            yield _record(before, partition)
            before.clear()
        before.append(line)
        if not _may_be_packed(line):
            yield _record(before, partition)
            before.clear()
    for partition, left in waiting.items():
        if left:
            yield _record(left, partition)


def events_in(record: Record) -> int:
    """How many events were sent in a record."""
    if record.headers != _HEADERS:
        return 1
    return len(json.loads((record.value or b"").decode(errors="replace")))


def _record(lines: Sequence[Line], partition: int) -> Sent:
    first = lines[0]
    if len(lines) == 1:
        return Outgoing(topics.EVENTS.name, first.value, key=first.key), first.timestamp_ms
    value = b"[" + b",".join(line.value for line in lines) + b"]"
    outgoing = Outgoing(topics.EVENTS.name, value, partition=partition, headers=_HEADERS)
    return outgoing, first.timestamp_ms


def _may_be_packed(line: Line) -> bool:
    """What is no JSON would take its neighbours with it."""
    try:
        _is_json.decode(line.value)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return line.timestamp_ms is not None
