"""Several packs side by side: one set of columns, one code for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pack import Pack, Quantities


class Batch:
    """The events of `packs`, in order; columns of shape (n,), texts as codes."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._packs = packs
        self.times_ns: NDArray[np.int64] = _joined(packs, "time")
        self.received_ms: NDArray[np.int64] = _joined(packs, "received_at")
        self.ids: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]] = (
            _joined(packs, "id_high"),
            _joined(packs, "id_low"),
            _joined(packs, "fingerprint"),
        )
        self.customers, self.customer_names = self.codes("customer")
        self._types, self._type_names = self.codes("type")

    def codes(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        """A text column as codes that hold over all packs, and the texts they stand for."""
        numbering: dict[str, int] = {}
        parts = []
        for pack in self._packs:
            codes, texts = pack.codes(column)
            numbers = [numbering.setdefault(text, len(numbering)) for text in texts]
            parts.append(np.array(numbers, dtype=np.int64)[codes])
        return np.concatenate(parts), list(numbering)

    def of_type(self, event_type: str) -> NDArray[np.bool_]:
        """Which events are of a type."""
        if event_type not in self._type_names:
            return np.zeros(len(self._types), dtype=bool)
        mask: NDArray[np.bool_] = self._types == self._type_names.index(event_type)
        return mask

    def quantities(self, path: str) -> Quantities:
        """The values at a path."""
        return Quantities.joined([pack.quantities(path) for pack in self._packs])

    def original(self, row: int) -> bytes:
        """One event in structured mode."""
        for pack in self._packs:
            if row < len(pack):
                original: bytes = pack.originals[row].as_py()
                return original
            row -= len(pack)
        raise IndexError(row)


def _joined(packs: Sequence[Pack], column: str) -> NDArray[Any]:
    return np.concatenate([pack.numbers(column) for pack in packs])
