"""Looks at the positions of usage.events: the cut that all of them have passed, and what came of
each one below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.open_frame import open_frame
from pipeline.reconcile_ledger import Positions, lowest, places
from pipeline.reconcile_report import InFlight
from pipeline.record import Record
from pipeline.reject import Position, open_letter
from pipeline.unpack import events_in
from schemas import topics
from schemas.frame import Kind
from streams.chain import Span, Tail, read_spans
from streams.cut import extents
from streams.kept import kept_from

#: Records after which positions are folded into sums, so that a long log is never held.
_FOLD_EVERY = 1_000


@dataclass(frozen=True)
class Passed:
    """Confirmed positions, each partition → the next offset to be read.

    Of intake in usage.events, of tally and of the ClickHouse sink in usage.metered, and of the sink
    in usage.rejected.
    """

    taken_in: Mapping[int, int]
    decided: Mapping[int, int]
    stored: Mapping[int, int]
    rejections_stored: Mapping[int, int]


class PositionLook:
    """Counts positions on and on, look by look."""

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = kafka
        self._positions = Positions()
        self._tail: Tail | None = None

    def cut(self, passed: Passed) -> tuple[Positions, InFlight]:
        """Move the cut to behind all that has come through; what has not."""
        names = (topics.EVENTS.name, topics.METERED.name, topics.REJECTED.name)
        events, metered, rejected = (extents(self._kafka, [name])[name] for name in names)
        waiting = {
            (topics.METERED.name, shard): Span(passed.stored.get(shard, 0), extent.end)
            for shard, extent in enumerate(metered)
        } | {
            (topics.REJECTED.name, shard): Span(passed.rejections_stored.get(shard, 0), extent.end)
            for shard, extent in enumerate(rejected)
        }
        bounds = dict(passed.taken_in)
        not_decided = not_stored = 0
        for record in read_spans(self._kafka, waiting):
            if record.topic == topics.REJECTED.name:
                partition, offset, _ = _original(record)
                lowest(bounds, [partition], [offset])
                not_stored += 1
                continue
            frame = open_frame(record)
            if frame.kind is Kind.PACK:
                partitions, offsets, _ = places(frame)
                lowest(bounds, partitions.tolist(), offsets.tolist())
                if record.offset < passed.decided.get(record.partition, 0):
                    not_stored += len(offsets)
                else:
                    not_decided += len(offsets)
        unread = {
            (topics.EVENTS.name, partition): Span(passed.taken_in.get(partition, 0), extent.end)
            for partition, extent in enumerate(events)
        }
        not_taken_in = sum(map(events_in, read_spans(self._kafka, unread)))
        if self._tail is None:
            self._begin(bounds)
        self._positions.advance(bounds)
        return self._positions, InFlight(not_taken_in, not_decided, not_stored)

    def read(self, passed: Passed) -> None:
        """Count what lies below the cut, and is new."""
        assert self._tail is not None
        for number, record in enumerate(self._tail.read(topics.DECISIONS.name)):
            self._positions.take_decisions(record.partition, open_frame(record))
            self._fold(number)
        for number, record in enumerate(self._tail.read(topics.METERED.name, passed.stored)):
            self._positions.take_pack(record.partition, record.offset, open_frame(record))
            self._fold(number)
        ends = passed.rejections_stored
        for number, record in enumerate(self._tail.read(topics.REJECTED.name, ends)):
            self._positions.take_rejection(*_original(record))
            self._fold(number)
        for record in self._tail.read(topics.EVENTS.name, self._positions.cut):
            self._positions.take_input(record.partition, record.offset, events_in(record))
        self._positions.fold()

    def _begin(self, bounds: Mapping[int, int]) -> None:
        """Find out where counting can begin."""
        kept = kept_from(self._kafka)
        first = {
            # Of a partition that nothing tells of, from now on.
            partition: bounds.get(partition, 0) if begin is None else begin
            for partition, begin in kept.first.items()
        }
        self._positions.first = first
        self._positions.packs_from = dict(kept.packs)
        starts = {(topics.EVENTS.name, partition): at for partition, at in first.items()}
        starts |= {(topics.METERED.name, shard): at for shard, at in kept.packs.items()}
        self._tail = Tail(self._kafka, starts)

    def _fold(self, number: int) -> None:
        if number % _FOLD_EVERY == 0:
            self._positions.fold()


def _original(rejected: Record) -> Position:
    """The position in usage.events of a rejection."""
    return open_letter(rejected).position
