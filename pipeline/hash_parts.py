"""A 128-bit hash of several texts of each event, straight from where they lie.

MurmurHash3 (x64, 128 bits, seed 0; A. Appleby, 2011, public domain) of each text's length as eight
bytes, little-endian, and the text, filled with zeros to a multiple of eight bytes. So no text can
be mistaken for another one's end, and all is read in words.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.words import FIRST_BYTES, WORD_BYTES, Words

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_ADD1 = np.uint64(0x52DCE729)
_ADD2 = np.uint64(0x38495AB5)
_MIX1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX2 = np.uint64(0xC4CEB9FE1A85EC53)
_FIVE = np.uint64(5)
_27, _31, _33, _37 = np.uint64(27), np.uint64(31), np.uint64(33), np.uint64(37)

#: Odd, with well mixed bits: 2^64 divided by the golden ratio, as in Fibonacci hashing.
MIX = np.uint64(0x9E3779B97F4A7C15)

#: Both halves of n hashes, shape (n,) each.
Hashes: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.uint64]]


@compiled
def hash_parts(
    words: Words,
    begins: NDArray[np.int32],
    ends: NDArray[np.int32],
    parts: NDArray[np.int64],
) -> Hashes:
    """The hashes of n events.

    `words` are the words that begin at each byte of a text, in which event i has part p from
    `begins[p, i]` to `ends[p, i]`; `parts` says which of them are hashed, in this order.
    """
    count = begins.shape[1]
    first = np.empty(count, dtype=np.uint64)
    second = np.empty(count, dtype=np.uint64)
    for row in range(count):
        h1 = np.uint64(0)
        h2 = np.uint64(0)
        k1 = np.uint64(0)
        read = 0
        for part in parts:
            at = begins[part, row]
            left = ends[part, row] - at
            word = np.uint64(left)
            while True:
                # A block is two words.
                if read & 1 == 0:
                    k1 = word * _C1
                    k1 = ((k1 << _31) | (k1 >> _33)) * _C2
                else:
                    h1 ^= k1
                    h1 = ((h1 << _27) | (h1 >> _37)) + h2
                    h1 = h1 * _FIVE + _ADD1
                    k2 = word * _C2
                    k2 = ((k2 << _33) | (k2 >> _31)) * _C1
                    h2 ^= k2
                    h2 = ((h2 << _31) | (h2 >> _33)) + h1
                    h2 = h2 * _FIVE + _ADD2
                read += 1
                if left <= 0:
                    break
                word = words[at]
                if left < WORD_BYTES:
                    word &= FIRST_BYTES[left]
                at += WORD_BYTES
                left -= WORD_BYTES
        if read & 1:
            h1 ^= k1
        length = np.uint64(read * WORD_BYTES)
        h1 ^= length
        h2 ^= length
        h1 += h2
        h2 += h1
        h1 = (h1 ^ (h1 >> _33)) * _MIX1
        h1 = (h1 ^ (h1 >> _33)) * _MIX2
        h1 ^= h1 >> _33
        h2 = (h2 ^ (h2 >> _33)) * _MIX1
        h2 = (h2 ^ (h2 >> _33)) * _MIX2
        h2 ^= h2 >> _33
        h1 += h2
        h2 += h1
        first[row] = h1
        second[row] = h2
    return first, second
