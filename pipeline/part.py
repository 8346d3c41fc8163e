"""Packs of some shards that are counted at once: their events side by side in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from pipeline.batch import Batch
from pipeline.pack import Pack

_EVENTS_AT_ONCE = 16_384


class Placed(NamedTuple):
    """A pack, and where in which shard's log it lies."""

    shard: int
    offset: int
    pack: Pack


class Span(NamedTuple):
    """The events of one shard in a batch, from `begin` to before `end`."""

    shard: int
    begin: int
    end: int


class Part:
    """Some packs, shard by shard and in the order of each log."""

    def __init__(self, packs: Sequence[Placed]) -> None:
        self.packs = packs
        self.lengths = [len(each.pack) for each in packs]
        self.batch = Batch([each.pack for each in packs])
        self.spans = list(_spans(packs))


def parts(packs: Sequence[Placed]) -> Iterator[Part]:
    """Consecutive packs, so many that their columns stay in the processor's cache."""
    begin = events = 0
    for at, (_, _, pack) in enumerate(packs):
        if events and events + len(pack) > _EVENTS_AT_ONCE:
            yield Part(packs[begin:at])
            begin, events = at, 0
        events += len(pack)
    yield Part(packs[begin:])


def _spans(packs: Sequence[Placed]) -> Iterator[Span]:
    begin = 0
    for shard, run in groupby(packs, key=attrgetter("shard")):
        end = begin + sum(len(each.pack) for each in run)
        yield Span(shard, begin, end)
        begin = end
