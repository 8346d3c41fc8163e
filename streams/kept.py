"""From when on Kafka still has everything about the positions of usage.events.

Retention deletes old records of each partition at moments of its own. A position can be accounted
for only if its pack and the decisions about it are still there, so counting begins at a moment
after which nothing was deleted anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.open_frame import open_frame
from pipeline.reconcile_ledger import places
from schemas import topics
from schemas.frame import Kind
from streams.chain import Span, first_record, offsets_at, read_spans
from streams.cluster import look_at
from streams.cut import Extent, extents

#: Intake's clocks may differ, and a partition may pass from one to another: packs cut within this
#: after the last deletion tell which positions had been taken in by then, and are not counted.
_APART_MS = 86_400_000

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Kept:
    """Where counting begins.

    `first` has the first position of each partition of usage.events, None for one of which nothing
    tells where it begins; `packs` the first offset of each shard of usage.metered.
    """

    first: Mapping[int, int | None]
    packs: Mapping[int, int]


def kept_from(kafka: Mapping[str, str]) -> Kept:
    """Where counting begins on this broker; at the very beginning while nothing was deleted.

    Raises:
        KafkaException: the broker does not answer.
    """
    metered, decisions, events = topics.METERED.name, topics.DECISIONS.name, topics.EVENTS.name
    found = extents(kafka, [metered, decisions, events])
    first: dict[int, int | None] = {p: extent.begin for p, extent in enumerate(found[events])}
    packs = {
        shard: _first_pack(kafka, shard, *both)
        for shard, both in enumerate(zip(found[metered], found[decisions], strict=True))
    }
    if not any(packs.values()):
        return Kept(first, packs)
    begin_ms = max(_kept_since_ms(kafka, shard, begin) for shard, begin in packs.items() if begin)
    begins = offsets_at(kafka, metered, begin_ms + _APART_MS)
    starts = {
        shard: found[metered][shard].end if (at := begins[shard]) is None else max(at, packs[shard])
        for shard in packs
    }
    spans = {(metered, shard): Span(packs[shard], starts[shard]) for shard in packs}
    taken_in: dict[int, int] = {}
    for record in read_spans(kafka, spans):
        frame = open_frame(record)
        if frame.kind is Kind.PACK:
            partitions, offsets, _ = places(frame)
            for partition, offset in zip(partitions, offsets, strict=True):
                taken_in[int(partition)] = max(int(offset) + 1, taken_in.get(int(partition), 0))
    for partition, extent in enumerate(found[events]):
        known = taken_in.get(partition)
        first[partition] = None if known is None else max(known, extent.begin)
    return Kept(first, starts)


def _first_pack(kafka: Mapping[str, str], shard: int, metered: Extent, decisions: Extent) -> int:
    """The first offset of usage.metered whose pack and decisions are both there."""
    if not decisions.begin:
        return metered.begin
    record = first_record(kafka, topics.DECISIONS.name, shard, decisions.begin)
    if record is None:
        return metered.end
    return max(metered.begin, int(open_frame(record).header["pack_offset"]))


def _kept_since_ms(kafka: Mapping[str, str], shard: int, begin: int) -> int:
    """A moment since when nothing was deleted from a shard."""
    record = first_record(kafka, topics.METERED.name, shard, begin)
    if record is not None:
        return record.timestamp_ms
    states = look_at(kafka, [topics.METERED.name, topics.DECISIONS.name], _ANSWER_SECONDS).topics
    retention_ms = min(
        int(state.config.get("retention.ms", topics.METERED.retention_ms))
        for state in states.values()
    )
    return time.time_ns() // 1_000_000 - retention_ms
