"""Packs and what was decided about them: two topics, read side by side, paired by pack offset.

Both topics have the same partitions and the same order, so the next decisions record of a
partition always belongs to its oldest waiting pack. Whichever comes first waits for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.errors import Stop
from pipeline.open_frame import open_frame
from pipeline.record import Record
from schemas import topics
from schemas.decisions import Status
from schemas.frame import Frame, Kind

#: What may wait in one partition, in bytes, before the topic that is ahead should not be read on.
WAITING_BYTES_MAX = 8 * 1024 * 1024


class WaitingPack(NamedTuple):
    """A pack without decisions. `size` is in bytes."""

    offset: int
    frame: Frame
    size: int


class WaitingDecisions(NamedTuple):
    """Decisions about the pack at `pack_offset`, which was not read yet. `size` is in bytes."""

    offset: int
    pack_offset: int
    frame: Frame
    size: int


class Decided(NamedTuple):
    """A pack and the decisions about it."""

    pack: Frame
    decisions: Frame


@dataclass(frozen=True, slots=True)
class Pairing:
    """What waits in one partition. Immutable: work that fails after a step leaves no trace in it.

    Packs wait while tally is behind intake, decisions while a backlog is read: memory is bounded
    by not reading the topic that is `ahead`.
    """

    partition: int
    #: Oldest first, both.
    packs: tuple[WaitingPack, ...] = ()
    decisions: tuple[WaitingDecisions, ...] = ()
    #: Next offset to read of each topic; None before its first record.
    next_metered: int | None = None
    next_decisions: int | None = None
    #: Packs below this offset are written.
    undecided_from: int = 0

    def ahead(self) -> str | None:
        """The topic not to be read before the other one has caught up, if there is one."""
        if sum(pack.size for pack in self.packs) > WAITING_BYTES_MAX:
            return topics.METERED.name
        if sum(decisions.size for decisions in self.decisions) > WAITING_BYTES_MAX:
            return topics.DECISIONS.name
        return None

    def positions(self) -> dict[tuple[str, int], int]:
        """Where to read on: what waits is read again after a restart."""
        reached = {
            topics.METERED.name: self.packs[0].offset if self.packs else self.next_metered,
            topics.DECISIONS.name: (
                self.decisions[0].offset if self.decisions else self.next_decisions
            ),
        }
        return {
            (topic, self.partition): offset
            for topic, offset in reached.items()
            if offset is not None
        }

    def step(self, records: Sequence[Record]) -> tuple[Pairing, list[Decided]]:
        """Take the partition's next records of both topics: what waits now, and what is decided.

        Records that were taken before, and decisions about packs that are already written, are
        skipped: positions may be slightly behind after a restart.

        Raises:
            Stop: a record is no frame of its topic, a pack or its decisions are missing, or the
                two do not fit.
        """
        return self._take(records)._decide()

    def _take(self, records: Sequence[Record]) -> Pairing:
        packs, decisions = list(self.packs), list(self.decisions)
        next_metered, next_decisions = self.next_metered, self.next_decisions
        undecided_from = self.undecided_from
        for record in records:
            if record.topic == topics.METERED.name:
                if next_metered is None:
                    undecided_from = record.offset
                elif record.offset < next_metered:
                    continue
                next_metered = record.offset + 1
                frame = open_frame(record)
                if frame.kind == Kind.PACK:
                    packs.append(WaitingPack(record.offset, frame, len(record.value or b"")))
            elif next_decisions is None or record.offset >= next_decisions:
                next_decisions = record.offset + 1
                frame = open_frame(record)
                pack_offset, size = frame.header["pack_offset"], len(record.value or b"")
                decisions.append(WaitingDecisions(record.offset, pack_offset, frame, size))
        return Pairing(
            self.partition,
            tuple(packs),
            tuple(decisions),
            next_metered,
            next_decisions,
            undecided_from,
        )

    def _decide(self) -> tuple[Pairing, list[Decided]]:
        decided: list[Decided] = []
        undecided_from = self.undecided_from
        taken = 0
        for decisions in self.decisions:
            if decisions.pack_offset >= undecided_from:
                if len(decided) == len(self.packs) and self._is_unread(decisions.pack_offset):
                    break
                decided.append(self._pair(self.packs[len(decided) :], decisions))
                undecided_from = decisions.pack_offset + 1
            taken += 1
        waiting = replace(
            self,
            packs=self.packs[len(decided) :],
            decisions=self.decisions[taken:],
            undecided_from=undecided_from,
        )
        return waiting, decided

    def _is_unread(self, pack_offset: int) -> bool:
        return self.next_metered is None or pack_offset >= self.next_metered

    def _pair(self, packs: Sequence[WaitingPack], decisions: WaitingDecisions) -> Decided:
        """The oldest of `packs` with the decisions about it."""
        offset = decisions.pack_offset
        if packs and packs[0].offset < offset:
            raise Stop(
                f"The pack at offset {packs[0].offset} of partition {self.partition} has no "
                f"decisions; the next ones are about offset {offset}.",
                # Tally may have gone on behind records that were lost; only Kafka knows of them.
                remedy="Start this sink again: if retention took the pack meanwhile, it says so "
                "and what to do. Else find the missing record of usage.decisions, or let tally "
                "decide again from this pack; skipping it would lose its events.",
            )
        if not packs or packs[0].offset > offset:
            raise Stop(
                f"There are decisions about a pack at offset {offset} of partition "
                f"{self.partition}, but usage.metered has no such pack.",
                remedy="Find out whether usage.metered lost records, for instance to its "
                "retention; skipping them would lose events.",
            )
        pack = packs[0].frame
        status, late = decisions.frame.parts
        indices = late.column("index").to_numpy()
        if (
            status.num_rows != pack.parts[0].num_rows
            or (status.column("status").to_numpy() > max(Status)).any()
            or ((indices < 0) | (indices >= status.num_rows)).any()
        ):
            raise Stop(
                f"The decisions about the pack at offset {offset} of partition {self.partition} "
                "do not fit its events.",
                remedy="Run tally and this sink in the same version of Meterline.",
            )
        return Decided(pack, decisions.frame)
