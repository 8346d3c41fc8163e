"""Names that come again and again, as numbers, and back as Arrow columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.groups import Groups

Name = TypeVar("Name", bound=Hashable)
Other = TypeVar("Other", bound=Hashable)


class Numbering(Generic[Name]):
    """Names with a number each, in the order in which they came."""

    def __init__(self, names: Iterable[Name] = ()) -> None:
        self._numbers: dict[Name, int] = {}
        self._names: list[Name] = []
        for name in names:
            self.number(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> Name:
        return self._names[number]

    def number(self, name: Name) -> int:
        """The number of a name, a new one if it was not known."""
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number

    def known(self, names: Collection[Name]) -> NDArray[np.int64]:
        """The numbers of `names`, -1 for one that has none."""
        return np.fromiter(map(self._numbers.get, names, repeat(-1)), np.int64, len(names))

    def numbers(self, names: Iterable[Name]) -> NDArray[np.int64]:
        """The numbers of `names`, new ones for those that were not known."""
        return np.array([self.number(name) for name in names], dtype=np.int64)

    def picked(self, numbers: NDArray[np.int64]) -> Picked[Name]:
        """The names of `numbers`, each distinct one once."""
        groups = Groups(numbers.astype(np.int64))
        return Picked([self._names[number] for number in groups.distinct.tolist()], groups.numbers)


@dataclass(frozen=True)
class Picked(Generic[Name]):
    """A column of names: `names[codes]`."""

    names: list[Name]
    codes: NDArray[np.int64]

    def __getitem__(self, rows: slice) -> Picked[Name]:
        return Picked(self.names, self.codes[rows])

    def mapped(self, to: Callable[[Name], Other]) -> Picked[Other]:
        """Each name as something else."""
        return Picked([to(name) for name in self.names], self.codes)

    def column(self, kind: pa.DataType) -> pa.Array:
        """As an Arrow array of `kind`."""
        return pa.array(self.names, kind).take(pa.array(self.codes))


def sizes(column: Picked[int]) -> NDArray[np.int64]:
    """A column of sizes as an array."""
    return np.array(column.names, dtype=np.int64)[column.codes]
