"""Tally: a fold over shards' logs. Packs and definitions in; decisions, totals, alerts out.

Each event is decided once, in this order: seen before (duplicate, or conflict if it says something
else), customer unknown, too late for all its meters, else accepted. It reads no clock: what is late
follows from when its Kafka record arrived, so a replay decides the same.

A shard depends on its own log alone. That many are counted side by side only saves time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.announced import UNANNOUNCED
from pipeline.batch import Batch
from pipeline.count import Counting
from pipeline.cross import Crosser
from pipeline.decide import decisions
from pipeline.dedupe import those
from pipeline.errors import Stop
from pipeline.expire import advance, expiry
from pipeline.limits import Limits
from pipeline.pack import Pack
from pipeline.part import Part, Placed, parts
from pipeline.record import Outgoing
from pipeline.route import homes, require_home
from pipeline.shard import Changed, Shard, read_document, segment, snapshot
from pipeline.total_columns import kept
from pipeline.totals import Totals
from schemas import topics
from schemas.decisions import Status
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind
from schemas.meter import Meter

#: A snapshot is due when reading what came after the last one takes as long as reading this many
#: identities, and this many times as long as reading all that is held. So a restore reads three
#: times what it needs at most, and snapshots cost half of what segments do.
_SNAPSHOT_IDS = 200_000
_READ_AGAIN = 2

#: A piece of a snapshot has about so many identities and totals, at least, and so many slots are
#: looked at for what can be forgotten: each takes some milliseconds.
_PIECE_IDS = 16_384

_MISROUTED = (
    "Find out what else writes to usage.metered, or with which number of shards intake ran: the "
    "topic was filled for another one. Start from a backup of this deployment."
)

#: A segment takes as long to open as this many identities to restore (measured: 0.2 ms, 1 us).
_SEGMENT_IDS = 200


class Tally:
    """Some shards being counted."""

    def __init__(self, shards: int | None = None) -> None:
        """Of so many shards each has its own customers; if that is not said, whoever comes."""
        self._shard_count = shards
        self._shards: dict[int, Shard] = {}
        #: What all of them have counted, if they are joined; and the shard of each share of it.
        self._totals = Totals()
        self._numbers: list[int] = []
        self._are_joined = True
        #: By the version of the definitions that are in force.
        self._crossers: dict[str, Crosser] = {}

    @property
    def shards(self) -> Mapping[int, Shard]:
        """What each shard remembers."""
        return self._shards

    def add(self, number: int, shard: Shard) -> None:
        """Count a shard from where it stands."""
        self._shards[number] = shard
        self._are_joined = False

    def drop(self, number: int) -> None:
        """Count a shard no longer, if it was."""
        self._shards.pop(number, None)
        self._are_joined = False

    def step(self, logs: Mapping[int, Sequence[tuple[int, Frame]]]) -> list[Outgoing]:
        """Count the next records of some shards' logs, (offset, frame) each, in order.

        Raises:
            Stop: a pack names definitions that its log never announced, or has customers of another
                shard; or definitions are from the future.
        """
        self._join()
        changed = {number: Changed(self._shards[number].next_offset) for number in logs}
        outgoing: list[Outgoing] = []
        for packs in self._runs(logs, changed):
            outgoing += self._count(packs, changed)
        for number, log in logs.items():
            outgoing += self._finish(number, log[-1][0] + 1, changed[number])
        return outgoing

    def move_on(self, number: int, next_offset: int) -> list[Outgoing]:
        """Go on at an offset before which a shard's log has nothing more to count."""
        self._join()
        changed = Changed(self._shards[number].next_offset)
        return list(self._finish(number, next_offset, changed))

    def _join(self) -> None:
        """Have one table of what all shards have counted, after some came or went."""
        if self._are_joined:
            return
        self._totals = Totals.joined((each.totals, each.share) for each in self._shards.values())
        self._numbers = list(self._shards)
        for share, shard in enumerate(self._shards.values()):
            # Rows have other numbers now, so a snapshot that is under way begins anew.
            shard.totals, shard.share, shard.walk = self._totals, share, None
        self._crossers.clear()
        self._are_joined = True

    def _runs(
        self, logs: Mapping[int, Sequence[tuple[int, Frame]]], changed: Mapping[int, Changed]
    ) -> Iterator[list[Placed]]:
        """Packs that can be counted at once; definitions come into force in between.

        They were cut by the same definitions, and the same ones are in force in their shards.
        """
        runs = [
            [(number, *key, list(run)) for key, run in groupby(log, key=_kind_and_version)]
            for number, log in sorted(logs.items())
        ]
        for side_by_side in zip_longest(*runs):
            alike: dict[tuple[str, str | None], list[Placed]] = {}
            for number, kind, version, run in filter(None, side_by_side):
                if kind is Kind.DEFINITIONS:
                    for offset, frame in run:
                        self._define(number, offset, frame, changed[number])
                    continue
                self._require_announced(number, run[0][0], version)
                packs = alike.setdefault((version, self._shards[number].current), [])
                packs += [Placed(number, offset, Pack(frame)) for offset, frame in run]
            yield from alike.values()

    def _require_announced(self, number: int, offset: int, version: str) -> None:
        shard = self._shards[number]
        if not {version, shard.current} <= shard.documents.keys():
            raise Stop(
                f"{_at(number, offset)} has a pack cut with definitions {version}, which its log "
                "never announced.",
                remedy=UNANNOUNCED,
            )

    def _define(self, number: int, offset: int, frame: Frame, changed: Changed) -> None:
        version = frame.header["version"]
        shard = self._shards[number]
        if version not in shard.documents:
            shard.documents[version] = read_document(frame.header["document"], _at(number, offset))
            changed.documents.append(version)
        if version != shard.current:
            shard.current = version
            self._totals.forget_limits(shard.share)
            for known in self._crossers.keys() - {each.current for each in self._shards.values()}:
                del self._crossers[known]

    def _count(self, packs: list[Placed], changed: Mapping[int, Changed]) -> Iterator[Outgoing]:
        """Count packs that were cut by the same definitions and lie under the same ones."""
        number, _, first = packs[0]
        shard = self._shards[number]
        in_force = shard.current or ""
        definitions, current = (
            shard.documents[version] for version in (first.definitions_version, in_force)
        )
        if in_force not in self._crossers:
            self._crossers[in_force] = Crosser(self._totals, Limits(current))
        crosser = self._crossers[in_force]
        counting = Counting(self._totals, crosser)
        known = len(self._totals)
        for part in parts(packs):
            status = self._decide(part, definitions, crosser.limits, counting, changed)
            late_for = _count_in_time(definitions.meters, part.batch, status, counting)
            for number, frame in decisions(part, status, late_for):
                yield Outgoing(topics.DECISIONS.name, frame, partition=number)
            yield from crosser.alerts(part.batch)
        by_share = counting.changed
        if not by_share.shares:
            return
        versions = {self._shards[number].share: offset for number, offset, _ in packs}
        for share, frame in counting.frames(by_share, versions):
            yield Outgoing(topics.TOTALS.name, frame, partition=self._numbers[share])
        columns = kept(self._totals, by_share.rows, known)
        for share, begin, end in by_share.shares:
            changed[self._numbers[share]].totals += columns.parts(begin, end)

    def _decide(
        self,
        part: Part,
        definitions: Definitions,
        limits: Limits,
        counting: Counting,
        changed: Mapping[int, Changed],
    ) -> NDArray[np.uint8]:
        """The status of each event, as far as it does not depend on a meter; shape (n,)."""
        batch = part.batch
        shares = [self._shards[span.shard].share for span in part.spans]
        sizes = [end - begin for _, begin, end in part.spans]
        self._require_home(part, counting.begin(batch, np.repeat(shares, sizes)))
        today = advance(self._shards, part)
        ids = (*batch.ids, expiry(definitions, batch, today))
        status = np.empty(len(batch), dtype=np.uint8)
        for number, begin, end in part.spans:
            of_shard = those(ids, slice(begin, end))
            found = self._shards[number].ids.claim(of_shard, today[begin:end])
            changed[number].ids.append(those(of_shard, found == Status.ACCEPTED))
            status[begin:end] = found
        known = limits.knows(batch.customer_names)
        status[(status == Status.ACCEPTED) & ~known[batch.customers]] = Status.UNKNOWN
        return status

    def _require_home(self, part: Part, is_at_home: NDArray[np.bool_]) -> None:
        """All customers belong to the shards they are in, as do those of whom that is known."""
        if self._shard_count is None or is_at_home.all():
            return
        strange = np.flatnonzero(~is_at_home)
        names, codes = part.batch.customer_names, part.batch.customers[strange]
        occurs = np.zeros(len(names), dtype=np.bool_)
        occurs[codes] = True
        home = np.zeros(len(names), dtype=np.int64)
        home[occurs] = homes(names.filter(pa.array(occurs)), self._shard_count)
        for number, begin, end in part.spans:
            first, last = np.searchsorted(strange, (begin, end)).tolist()
            away = np.flatnonzero(home[codes[first:last]] != number)
            if len(away):
                offsets = [offset for shard, offset, _ in part.packs if shard == number]
                where = f"{_at(number, offsets[0])} to {offsets[-1]}"
                stranger = names.slice(codes[first + away[0]], 1)
                require_home(number, self._shard_count, stranger, where, _MISROUTED)

    def _finish(self, number: int, next_offset: int, changed: Changed) -> Iterator[Outgoing]:
        """What a shard's changelog is told after a step; a piece of a snapshot where one is due."""
        shard = self._shards[number]
        shard.ids.sweep(_piece(changed.id_count))
        shard.next_offset = next_offset
        shard.since_snapshot += _SEGMENT_IDS + changed.id_count + changed.total_count
        for frame in segment(shard, changed):
            yield Outgoing(topics.TALLY_STATE.name, frame, partition=number)
        begins = shard.walk is None
        held = len(shard.ids) + shard.totals.size(shard.share)
        if begins and shard.since_snapshot < max(_SNAPSHOT_IDS, _READ_AGAIN * held):
            return
        frames = list(snapshot(shard, _piece(changed.id_count)))
        for frame in frames:
            yield Outgoing(
                topics.TALLY_STATE.name,
                frame,
                partition=number,
                begins=begins and frame is frames[0],
                completes=shard.walk is None and frame is frames[-1],
            )


def _count_in_time(
    meters: Sequence[Meter],
    batch: Batch,
    status: NDArray[np.uint8],
    counting: Counting,
) -> list[tuple[str, NDArray[np.int64]]]:
    """Count what is accepted and in time; the events that are so for some meters only.

    What is too late for all meters becomes `LATE` in `status`.
    """
    late_for: list[tuple[str, NDArray[np.int64]]] = []
    too_late = np.zeros(len(status), dtype=bool)
    in_time = np.zeros(len(status), dtype=bool)
    accepted = status == Status.ACCEPTED
    for meter in meters:
        events = np.flatnonzero(accepted & batch.of_type(meter.event_type))
        if not len(events):
            continue
        periods = batch.periods(meter.period)
        closes_ms = periods.ends_ms + meter.grace_ms
        if batch.received_ms.max() > closes_ms.min():
            late = batch.received_ms[events] > closes_ms[periods.codes[events]]
            too_late[events[late]] = True
            late_for.append((meter.slug, events[late]))
            events = events[~late]
        in_time[events] = True
        if len(events):
            counting.count(batch, meter, events)
    status[too_late & ~in_time] = Status.LATE
    return [(slug, events[in_time[events]]) for slug, events in late_for]


def _at(shard: int, offset: int) -> str:
    return f"{topics.METERED.name}-{shard} at offset {offset}"


def _piece(id_count: int) -> int:
    """How much of a shard a step walks through, in which it grew by so many identities.

    Twice as fast as it grows, or a walk would never end.
    """
    return max(_PIECE_IDS, 2 * id_count)


def _kind_and_version(entry: tuple[int, Frame]) -> tuple[Kind, str]:
    frame = entry[1]
    if frame.kind is Kind.PACK:
        return frame.kind, frame.header["definitions"]
    if frame.kind is Kind.DEFINITIONS:
        return frame.kind, ""
    raise Stop(
        f"usage.metered holds a frame of kind {frame.kind.name}.",
        remedy="Find out what else writes to usage.metered; only intake may.",
    )
