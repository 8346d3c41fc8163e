"""Names that come again and again, as numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.groups import Groups

Name = TypeVar("Name", bound=Hashable)


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

    def numbers(self, names: Iterable[Name]) -> NDArray[np.int64]:
        """The numbers of `names`, new ones for those that were not known."""
        return np.array([self.number(name) for name in names], dtype=np.int64)

    def translated(self, other: Self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers here of the names that have `numbers` in another numbering."""
        occurring = Groups(numbers)
        own = self.numbers(map(other.__getitem__, occurring.distinct.tolist()))
        return own[occurring.numbers]
