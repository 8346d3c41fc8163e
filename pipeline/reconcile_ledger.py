"""Reconciliation, positions: each record of usage.events and how it ended, up to a cut. Pure.

A cut is a position for each partition of usage.events below which everything has come through: was
taken in, decided and stored. All sides are compared below the cut, so nothing in flight is a
difference. Compared are how many positions there are and the sum of their numbers, as in
`pipeline.place`, so that one position lost and another one doubled do not look right together.

A record that holds many events has a position for each of them. They are decided in several packs,
but the cut lies before or behind all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.pack import source_indices
from pipeline.place import INDEX_BITS, numbers_of
from pipeline.reconcile import OUTCOMES
from schemas.decisions import Status
from schemas.frame import Frame, Kind

_MODULUS = 2**64

_REJECTED = OUTCOMES.index("rejected")
_CODE_OF_STATUS = np.array([OUTCOMES.index(s.name.lower()) for s in Status], np.uint8)


class Tally(NamedTuple):
    """How many positions, and the sum of their numbers modulo 2^64."""

    events: int = 0
    checksum: int = 0

    def plus(self, events: int, checksum: int) -> Tally:
        """With more positions."""
        return Tally(self.events + events, (self.checksum + checksum) % _MODULUS)


class Places(NamedTuple):
    """Positions of usage.events, each column of shape (n,)."""

    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    indices: NDArray[np.int32]


class Rows(NamedTuple):
    """Positions of usage.events, each column of shape (n,); `outcomes` index `OUTCOMES`."""

    partitions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    indices: NDArray[np.int32]
    outcomes: NDArray[np.uint8]

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """Some of them."""
        return Rows(
            self.partitions[mask], self.offsets[mask], self.indices[mask], self.outcomes[mask]
        )


#: (input partition, outcome) → positions.
Outcomes = dict[tuple[int, str], Tally]


@dataclass
class Positions:
    """A fold: what is known of the positions from `first` on, per input partition."""

    first: dict[int, int] = field(default_factory=dict)
    #: Per shard, the first pack that is looked at: what came before may have been deleted.
    packs_from: dict[int, int] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)
    input: dict[int, Tally] = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=dict)
    _waiting: list[Rows] = field(default_factory=list)
    _packs: dict[tuple[int, int], Places] = field(default_factory=dict)
    _decisions: dict[tuple[int, int], NDArray[np.uint8]] = field(default_factory=dict)

    def take_pack(self, shard: int, offset: int, frame: Frame) -> None:
        """A record of usage.metered."""
        if frame.kind is Kind.PACK:
            self._packs[shard, offset] = places(frame)
            self._pair(shard, offset)

    def take_decisions(self, shard: int, frame: Frame) -> None:
        """A record of usage.decisions."""
        offset = frame.header["pack_offset"]
        if offset < self.packs_from.get(shard, 0):
            return
        statuses = frame.parts[0].column("status").to_numpy()
        self._decisions[shard, offset] = _CODE_OF_STATUS[statuses]
        self._pair(shard, offset)

    def take_rejection(self, partition: int, offset: int, index: int = 0) -> None:
        """The position of a record of usage.rejected."""
        self._waiting.append(
            Rows(
                np.array([partition], np.int64),
                np.array([offset], np.int64),
                np.array([index], np.int32),
                np.array([_REJECTED], np.uint8),
            )
        )

    def take_input(self, partition: int, offset: int, events: int = 1) -> None:
        """A record of usage.events below the cut, with so many events."""
        indices = events * (events - 1) // 2
        before = self.input.get(partition, Tally())
        self.input[partition] = before.plus(events, events * offset + (indices << INDEX_BITS))

    def advance(self, cut: Mapping[int, int]) -> None:
        """Move the cut, which never goes back; what lies above it waits for a later one."""
        self.cut = {p: max(at, self.cut.get(p, 0), self.first.get(p, 0)) for p, at in cut.items()}
        self.fold()

    def fold(self) -> None:
        """Count what waits below the cut, so that a long log need not be held."""
        if not any(len(rows.offsets) for rows in self._waiting):
            return
        rows = Rows(*(np.concatenate(columns) for columns in zip(*self._waiting, strict=True)))
        size = max(int(rows.partitions.max()), *self.cut, *self.first, 0) + 1
        begins, ends = (
            np.array([bound.get(partition, 0) for partition in range(size)])
            for bound in (self.first, self.cut)
        )
        rows = rows.where(rows.offsets >= begins[rows.partitions])
        below = rows.offsets < ends[rows.partitions]
        self._waiting = [rows.where(~below)]
        rows = rows.where(below)
        for partition in np.unique(rows.partitions).tolist():
            for code, outcome in enumerate(OUTCOMES):
                picked = rows.where((rows.partitions == partition) & (rows.outcomes == code))
                if len(picked.offsets):
                    before = self.outcomes.get((partition, outcome), Tally())
                    numbers = numbers_of(picked.offsets, picked.indices)
                    checksum = int(numbers.astype(np.uint64).sum(dtype=np.uint64))
                    self.outcomes[partition, outcome] = before.plus(len(numbers), checksum)

    def _pair(self, shard: int, offset: int) -> None:
        """Once both are there. Decisions of another length than their pack are none."""
        pack = self._packs.get((shard, offset))
        codes = self._decisions.get((shard, offset))
        if pack is not None and codes is not None and len(codes) == len(pack.offsets):
            self._waiting.append(Rows(*pack, codes))
            del self._packs[shard, offset], self._decisions[shard, offset]


def places(pack: Frame) -> Places:
    """Where each event of a pack lies in usage.events."""
    batch: pa.RecordBatch = pack.parts[0]
    return Places(
        batch.column("source_partition").to_numpy().astype(np.int64),
        batch.column("source_offset").to_numpy(),
        source_indices(batch).to_numpy(),
    )


def lowest(bounds: dict[int, int], partitions: Iterable[int], offsets: Iterable[int]) -> None:
    """Lower each partition's bound to the lowest of its offsets."""
    for partition, offset in zip(partitions, offsets, strict=True):
        if offset < bounds.get(partition, offset + 1):
            bounds[partition] = offset
