"""What the packs of the shard logs say of the events of one partition of usage.events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.place import offset_of


class Range(NamedTuple):
    """Offsets of one partition of usage.events: what is compared."""

    begin: int
    end: int


@dataclass(frozen=True)
class Noted:
    """Events as packs have them, each column of shape (n,), 28 bytes an event.

    `numbers` are their places (`pipeline.place`). `versions` number the definitions that the packs
    were cut with, `offsets` are those of the packs.
    """

    numbers: NDArray[np.int64]
    digests: NDArray[np.uint64]
    versions: NDArray[np.int16]
    shards: NDArray[np.uint16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def joined(cls, parts: Sequence[Noted]) -> Noted:
        """The events of `parts`, of which there is one."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def at(self, rows: NDArray[Any]) -> Noted:
        """Some of them: by a mask, or in the order of `rows`."""
        return Noted(
            self.numbers[rows],
            self.digests[rows],
            self.versions[rows],
            self.shards[rows],
            self.offsets[rows],
        )

    def rows_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where `numbers` stand among these, which are sorted; -1 for one that does not."""
        rows = np.searchsorted(self.numbers, numbers)
        is_there = rows < len(self)
        is_there[is_there] = self.numbers[rows[is_there]] == numbers[is_there]
        return np.where(is_there, rows, -1)


class Notes:
    """Takes notes of a range of a partition, in any order."""

    def __init__(self, extent: Range) -> None:
        self._extent = extent
        nothing = np.zeros(0, np.int64)
        self._parts = [
            Noted(
                nothing,
                nothing.astype(np.uint64),
                nothing.astype(np.int16),
                nothing.astype(np.uint16),
                nothing,
            )
        ]

    def add(self, noted: Noted) -> None:
        """Note events; those outside of the range are deleted, or were taken in after the cut."""
        offsets = offset_of(noted.numbers)
        within = (offsets >= self._extent.begin) & (offsets < self._extent.end)
        self._parts.append(noted.at(within))

    def settle(self) -> tuple[Noted, Noted]:
        """Each event once, sorted by number; and what says so of one that was noted before."""
        noted = Noted.joined(self._parts)
        self._parts.clear()
        noted = noted.at(np.argsort(noted.numbers, kind="stable"))
        is_again = np.diff(noted.numbers, prepend=-1) == 0
        return noted.at(~is_again), noted.at(is_again)
