"""Where the parts of many events lie, and what they are: the machine code with its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.scan_event import ATTRIBUTES, DATA, EVENT, MEMBERS, Bytes, Places, scan_events
from pipeline.words import SENTINEL, WORD_BYTES, Texts, words_of

#: The names of members, from one that stands in data on; what a path passes through has a path too.
Path: TypeAlias = tuple[bytes, ...]


class Parts(NamedTuple):
    """What was found in n events, by the number of a name.

    `usual`, shape (n,), says which events have the usual form. `kinds`, `begins`, `ends` and
    `integers` have shape (names, n); of an unusual event they may say anything.
    """

    usual: NDArray[np.bool_]
    kinds: Bytes
    begins: Places
    ends: Places
    integers: NDArray[np.int64]


class PartFinder:
    """Looks for attributes, and for `members` that stand in data or, by their path, in another one.

    The numbers of `ATTRIBUTES` come first, then those of members in their order.
    """

    def __init__(self, members: Sequence[Path]) -> None:
        numbers = {(): DATA, **{path: MEMBERS + n for n, path in enumerate(members)}}
        names = [*ATTRIBUTES, *(path[-1] for path in members)]
        self._parents = np.array([EVENT] * MEMBERS + [numbers[path[:-1]] for path in members])
        self._count = len(names)
        self._names = np.frombuffer(b"".join([*names, SENTINEL]), dtype=np.uint8)
        self._bounds = np.cumsum([0, *map(len, names)])
        self._words = np.array([_word(name) for name in names], dtype=np.uint64)

    def find(self, events: Texts) -> Parts:
        """The parts of n events."""
        octets, bounds = events
        shape = (self._count, len(bounds) - 1)
        parts = Parts(
            np.zeros(shape[1], dtype=np.bool_),
            np.zeros(shape, dtype=np.uint8),
            np.zeros(shape, dtype=np.int32),
            np.zeros(shape, dtype=np.int32),
            np.zeros(shape, dtype=np.int64),
        )
        scan_events(
            octets,
            words_of(octets),
            bounds,
            self._names,
            self._bounds,
            self._words,
            self._parents,
            *parts,
        )
        return parts


def _word(name: bytes) -> int:
    """The first eight bytes, little-endian, with zeros behind a shorter name."""
    return int.from_bytes(name[:WORD_BYTES].ljust(WORD_BYTES, b"\0"), "little")
