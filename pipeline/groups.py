"""Equal codes brought together."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Groups:
    """The places of a column of codes by code.

    `codes` has shape (n,), each at least 0. `distinct` are the g codes that occur, ascending;
    `order` the places code by code, each code's in their order; those of code i are
    `order[begins[i]:ends[i]]`.
    """

    def __init__(self, codes: NDArray[np.int64]) -> None:
        count = len(codes)
        bits = count.bit_length()
        if int(codes.max(initial=0)) >> (62 - bits):
            self.order = np.argsort(codes, kind="stable")
            ordered = codes[self.order]
        else:
            # Ten times as fast: vector instructions sort plain integers, each with its place.
            both = np.sort(codes << bits | np.arange(count))
            self.order = both & ((1 << bits) - 1)
            ordered = both >> bits
        self._count = count
        self.begins = first_places(ordered)
        self.distinct = ordered[self.begins]

    def __len__(self) -> int:
        return len(self.begins)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Where in `order` the places of each code end, shape (g,)."""
        ends = np.empty_like(self.begins)
        ends[:-1] = self.begins[1:]
        ends[-1:] = self._count
        return ends

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many places each code has."""
        sizes: NDArray[np.int64] = self.ends - self.begins
        return sizes

    @property
    def numbers(self) -> NDArray[np.int64]:
        """For each place the number of its code among the distinct ones, shape (n,)."""
        numbers = np.empty_like(self.order)
        numbers[self.order] = np.repeat(np.arange(len(self)), self.sizes)
        return numbers

    def places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of some of the g codes, code after code, and where each begins and ends."""
        sizes = self.sizes[numbers]
        bounds = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=bounds[1:])
        shifts = np.repeat(self.begins[numbers] - bounds[:-1], sizes)
        return self.order[np.arange(bounds[-1]) + shifts], bounds


def first_places(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places at which another number begins than stood before, the first one included."""
    begins = np.empty(len(ordered), dtype=np.bool_)
    begins[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    places: NDArray[np.int64] = begins.nonzero()[0]
    return places
