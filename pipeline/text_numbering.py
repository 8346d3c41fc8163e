"""Texts that come again and again, as numbers, without a Python object a text.

All texts stand in one buffer, one after the other; an open addressing table finds a text's number
by its hash.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.gather import gather
from pipeline.hash_parts import hash_parts
from pipeline.scan_event import Bytes, Places
from pipeline.words import WORD_BYTES, words_of

_SLOTS_AT_FIRST = 16
_BYTES_AT_FIRST = 256
_FREE = -1

_ONLY_PART = np.array([0])
_NOTHING = pa.array([], pa.string())


class TextNumbering:
    """Texts with a number each, in the order in which they came."""

    def __init__(self) -> None:
        self._text = np.zeros(_BYTES_AT_FIRST, dtype=np.uint8)
        #: Where each text begins; the last one says where the next text will.
        self._bounds = np.zeros(_SLOTS_AT_FIRST // 2 + 1, dtype=np.int64)
        self._hashes = np.zeros(_SLOTS_AT_FIRST // 2, dtype=np.uint64)
        self._slots = np.full(_SLOTS_AT_FIRST, _FREE, dtype=np.int32)
        self._count = 0
        # Machine code is made now, and within no step.
        self.numbers(_NOTHING)

    def __len__(self) -> int:
        return self._count

    def known(self, texts: pa.Array) -> NDArray[np.int64]:
        """The numbers of an array of n strings, -1 for one that has none."""
        return self._look_up(*_parts(texts), adds=False)

    def numbers(self, texts: pa.Array) -> NDArray[np.int64]:
        """The numbers of an array of n strings, new ones for those that were not known."""
        text, bounds, hashes = _parts(texts)
        self._reserve(len(texts), int(bounds[-1]))
        return self._look_up(text, bounds, hashes, adds=True)

    def sizes(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bytes the texts of `numbers` have."""
        sizes: NDArray[np.int64] = self._bounds[numbers + 1] - self._bounds[numbers]
        return sizes

    def column(self, numbers: NDArray[np.int64]) -> pa.Array:
        """The texts of `numbers` as an array of strings, of less than 2 GiB together."""
        return gather(self._text, self._bounds[numbers], self._bounds[numbers + 1], pa.string())

    def _look_up(
        self, text: Bytes, bounds: Places, hashes: NDArray[np.uint64], *, adds: bool
    ) -> NDArray[np.int64]:
        numbers = np.empty(len(hashes), dtype=np.int64)
        kept = self._text, self._bounds, self._hashes, self._slots
        self._count = _look_up(text, bounds, hashes, *kept, self._count, adds, numbers)
        return numbers

    def _reserve(self, texts: int, size: int) -> None:
        """Have room for so many more texts of so many bytes."""
        used = int(self._bounds[self._count])
        if used + size > len(self._text):
            self._text = _grown(self._text, used, used + size)
        count = self._count + texts
        if count > len(self._hashes):
            self._hashes = _grown(self._hashes, self._count, count)
            self._bounds = _grown(self._bounds, self._count + 1, len(self._hashes) + 1)
            self._slots = np.full(1 << (2 * len(self._hashes)).bit_length(), _FREE, dtype=np.int32)
            _refill(self._hashes, self._count, self._slots)


def _grown(column: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """`column` with room for `needed`, and for twice as much as it had."""
    grown = np.zeros(max(needed, 2 * len(column)), dtype=column.dtype)
    grown[:used] = column[:used]
    return grown


def _parts(texts: pa.Array) -> tuple[Bytes, Places, NDArray[np.uint64]]:
    """The bytes of n strings, where each begins and the last one ends, and their hashes."""
    _, offsets, content = texts.buffers()
    bounds = np.zeros(len(texts) + 1, dtype=np.int32)
    if len(texts):
        bounds = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
    sent = memoryview(content or b"")[bounds[0] : bounds[-1]]
    text = b"".join([sent, bytes(WORD_BYTES)])
    bounds = bounds - bounds[0]
    hashes, _ = hash_parts(words_of(text), bounds[None, :-1], bounds[None, 1:], _ONLY_PART)
    return np.frombuffer(text, dtype=np.uint8), bounds, hashes


@compiled
def _is(kept: Bytes, kept_begin: Any, text: Bytes, begin: Any, length: Any) -> Any:
    """Whether so many bytes are the same there."""
    place = 0
    while place < length and kept[kept_begin + place] == text[begin + place]:
        place += 1
    return place == length


@compiled
def _look_up(
    text: Bytes,
    bounds: Places,
    hashes: NDArray[np.uint64],
    kept: Bytes,
    kept_bounds: NDArray[np.int64],
    kept_hashes: NDArray[np.uint64],
    slots: NDArray[np.int32],
    count: int,
    adds: bool,
    numbers: NDArray[np.int64],
) -> int:
    """Fill `numbers`; how many texts are kept then. A text that is not kept is added, or has -1.

    The first two loops find most texts: each load from memory waits for none of another row, so
    they wait together. One by one, a row of a large table waits four times.
    """
    mask = len(slots) - 1
    for row in range(len(hashes)):
        numbers[row] = slots[np.int64(hashes[row] & np.uint64(mask))]
    for row in range(len(hashes)):
        number = numbers[row]
        if number >= 0 and (
            kept_hashes[number] != hashes[row]
            or kept_bounds[number + 1] - kept_bounds[number] != bounds[row + 1] - bounds[row]
        ):
            numbers[row] = _FREE
    for row in range(len(hashes)):
        begin, length = bounds[row], bounds[row + 1] - bounds[row]
        number = numbers[row]
        if number >= 0 and _is(kept, kept_bounds[number], text, begin, length):
            continue
        at = np.int64(hashes[row] & np.uint64(mask))
        while slots[at] >= 0:
            number = slots[at]
            kept_begin = kept_bounds[number]
            if (
                kept_hashes[number] == hashes[row]
                and kept_bounds[number + 1] == kept_begin + length
                and _is(kept, kept_begin, text, begin, length)
            ):
                break
            at = (at + 1) & mask
        if slots[at] < 0 and adds:
            slots[at] = count
            kept_hashes[count] = hashes[row]
            kept_begin = kept_bounds[count]
            for place in range(length):
                kept[kept_begin + place] = text[begin + place]
            count += 1
            kept_bounds[count] = kept_begin + length
        numbers[row] = slots[at]
    return count


@compiled
def _refill(hashes: NDArray[np.uint64], count: int, slots: NDArray[np.int32]) -> None:
    """Enter the first `count` texts into `slots`, which are free."""
    mask = len(slots) - 1
    for number in range(count):
        at = np.int64(hashes[number] & np.uint64(mask))
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = number
