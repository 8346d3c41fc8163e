"""What the ClickHouse sink is given: packs and decisions as intake and tally write them.

    feed = Feed(1_000_000)
    for records in feed.round(0): sink.write(records, 0)

Making them is not part of any figure. A further round is the same events at later times and under
other ids, at further offsets, so that a long run needs neither time nor room to make more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from benchmarks.meters import DEFINITIONS
from benchmarks.workload import EVENTS_MAX, Workload
from pipeline.record import Outgoing, Record, Records
from schemas import topics
from schemas.frame import Frame, Kind, seal, unseal
from schemas.usage_event import STRUCTURED
from streams.intake import IntakeStage
from streams.tally import TallyStage

#: As intake's transactional shell reads them.
_EVENTS_AT_ONCE = 10_000

#: The topics that belong to events alone; the others are written for analysts, too.
EVENT_TOPICS = (topics.METERED.name, topics.DECISIONS.name)
ALL_TOPICS = (*EVENT_TOPICS, topics.TOTALS.name, topics.ALERTS.name)

_HEADERS = (("content-type", STRUCTURED.encode()),)
_ID_BEGIN = len(b'{"specversion":"1.0","id":"')
_ID_DIGITS = 16
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
#: `_OTHER_DIGIT[k, b]` is the hexadecimal digit b with the bits of k turned.
_OTHER_DIGIT = np.zeros((16, 256), dtype=np.uint8)
_OTHER_DIGIT[:, _HEX] = _HEX[np.arange(16)[:, None] ^ np.arange(16)]


class Feed:
    """The records of `events` events in writes of about `per_write`, in memory."""

    def __init__(self, events: int, per_write: int = 50_000) -> None:
        self.workload = Workload(events)
        self._intake, self._tally = IntakeStage(DEFINITIONS), TallyStage()
        for shard in range(topics.SHARDS):
            self._tally.restore(shard, iter(()))
        self._next = Counter[tuple[str, int]]()
        self._writes: list[list[Record]] = [self._counted(self._intake.announce())]
        for number, batch in enumerate(self.workload.batches(_EVENTS_AT_ONCE)):
            if number * _EVENTS_AT_ONCE % per_write == 0:
                self._writes.append([])
            self._writes[-1] += self._counted(self._intake.step(self._arrived(batch)))

    @property
    def first(self) -> list[Record]:
        """What comes before every round: the definitions."""
        return self._writes[0]

    def round(self, number: int, wanted: Collection[str] = EVENT_TOPICS) -> Iterator[list[Record]]:
        """One list of records for each write; those after round 0 have events alone.

        Raises:
            ValueError: the month of the events ends before this round does.
        """
        if (number + 1) * self.workload.events > EVENTS_MAX:
            raise ValueError(f"round {number} does not fit into the month of the events")
        for write in self._writes[1:]:
            if number == 0:
                yield [record for record in write if record.topic in wanted]
            else:
                yield [self._again(each, number) for each in write if each.topic in EVENT_TOPICS]

    def _arrived(self, rows: Sequence[tuple[bytes, bytes, int]]) -> Records:
        place = (topics.EVENTS.name, 0)
        begin = self._next[place]
        self._next[place] += len(rows)
        return Records(
            [
                Record(*place, begin + number, arrival_ms, key, event, _HEADERS)
                for number, (key, event, arrival_ms) in enumerate(rows)
            ]
        )

    def _counted(self, packed: Sequence[Outgoing]) -> list[Record]:
        """What intake wrote and what tally makes of it, both as the sink reads it."""
        metered = [self._written(outgoing) for outgoing in packed]
        counted = self._tally.step(Records(metered))
        return metered + [self._written(each) for each in counted if each.topic in ALL_TOPICS]

    def _written(self, outgoing: Outgoing) -> Record:
        place = (outgoing.topic, outgoing.partition or 0)
        self._next[place] += 1
        offset = self._next[place] - 1
        return Record(*place, offset, 0, outgoing.key, outgoing.value, outgoing.headers)

    def _again(self, record: Record, number: int) -> Record:
        place = (record.topic, record.partition)
        offset = record.offset + number * self._next[place]
        frame = unseal(record.value or b"")
        if frame.kind is Kind.PACK:
            value = seal(frame.kind, frame.header, [self._moved(frame, number)])
        else:
            shift = number * self._next[topics.METERED.name, record.partition]
            header = {**frame.header, "pack_offset": frame.header["pack_offset"] + shift}
            value = seal(frame.kind, header, frame.parts)
        return replace(record, offset=offset, value=value)

    def _moved(self, frame: Frame, number: int) -> pa.RecordBatch:
        batch = frame.parts[0]
        later_ms = number * self.workload.events
        for column, shift in (
            ("time", later_ms * 1_000_000),
            ("received_at", later_ms),
            ("source_offset", later_ms),
        ):
            moved = batch.column(column).to_numpy() + shift
            at = batch.schema.get_field_index(column)
            batch = batch.set_column(at, batch.schema.field(at), pa.array(moved))
        at = batch.schema.get_field_index("original")
        return batch.set_column(at, batch.schema.field(at), _renamed(batch.column(at), number))


def _renamed(originals: pa.Array, number: int) -> pa.Array:
    """The events with other ids: each digit is turned by a digit that belongs to the round."""
    _, offsets, content = originals.buffers()
    begins = np.frombuffer(offsets, dtype=np.int32, count=len(originals))
    octets = np.frombuffer(content, dtype=np.uint8).copy()
    places = begins[:, None] + _ID_BEGIN + np.arange(_ID_DIGITS)
    turned = np.random.default_rng(number).integers(0, 16, _ID_DIGITS)
    octets[places] = _OTHER_DIGIT[turned, octets[places]]
    return pa.Array.from_buffers(
        originals.type, len(originals), [None, offsets, pa.py_buffer(octets)]
    )
