"""A text as the eight-byte words that begin at each of its bytes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Little-endian, shape (n,).
Words: TypeAlias = NDArray[np.uint64]

WORD_BYTES = 8

#: Masks that leave the first n bytes of a word, by n.
FIRST_BYTES: Words = np.array([256**count - 1 for count in range(WORD_BYTES + 1)], dtype=np.uint64)


def words_of(text: bytes | memoryview) -> Words:
    """The words of a text of at least eight bytes; none begins in its last seven."""
    return np.ndarray((len(text) - WORD_BYTES + 1,), np.dtype("<u8"), text, 0, (1,))
