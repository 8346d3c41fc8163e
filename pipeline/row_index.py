"""Rows by number, found by a key of 64 bits: an open addressing table, 12 bytes a slot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.hash_parts import MIX

_SLOTS_AT_FIRST = 16
_FREE = -1

_HALF = np.uint64(32)


class RowIndex:
    """Rows by key. Keys are at least 0; none is ever taken away."""

    def __init__(self) -> None:
        self._keys = np.full(_SLOTS_AT_FIRST, _FREE, dtype=np.int64)
        self._rows = np.zeros(_SLOTS_AT_FIRST, dtype=np.int32)
        self._count = 0
        # Machine code is made now, and within no step.
        nothing = np.zeros(0, dtype=np.int64)
        self.add(nothing, nothing)
        self.find(nothing)

    def __len__(self) -> int:
        return self._count

    def find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of n keys, -1 for one that has none."""
        return _find(keys, self._keys, self._rows)

    def add(self, keys: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Enter n keys that are distinct and not there yet, a row each."""
        self._count += len(keys)
        if 2 * self._count > len(self._keys):
            old, held = self._keys, self._rows
            self._keys = np.full(1 << (2 * self._count).bit_length(), _FREE, dtype=np.int64)
            self._rows = np.zeros(len(self._keys), dtype=np.int32)
            taken = old >= 0
            _add(old[taken], held[taken].astype(np.int64), self._keys, self._rows)
        _add(keys, rows, self._keys, self._rows)


@compiled
def _find(
    keys: NDArray[np.int64], slots: NDArray[np.int64], held: NDArray[np.int32]
) -> NDArray[np.int64]:
    found = np.empty(len(keys), dtype=np.int64)
    mask = len(slots) - 1
    for number in range(len(keys)):
        at = np.int64((np.uint64(keys[number]) * MIX) >> _HALF) & mask
        while slots[at] != keys[number] and slots[at] != _FREE:
            at = (at + 1) & mask
        found[number] = held[at] if slots[at] != _FREE else _FREE
    return found


@compiled
def _add(
    keys: NDArray[np.int64],
    rows: NDArray[np.int64],
    slots: NDArray[np.int64],
    held: NDArray[np.int32],
) -> None:
    mask = len(slots) - 1
    for number in range(len(keys)):
        at = np.int64((np.uint64(keys[number]) * MIX) >> _HALF) & mask
        while slots[at] != _FREE:
            at = (at + 1) & mask
        slots[at] = keys[number]
        held[at] = rows[number]
