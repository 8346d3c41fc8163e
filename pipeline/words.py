"""Texts one after the other, and a text as the eight-byte words that begin at each of its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

#: Little-endian, shape (n,).
Words: TypeAlias = NDArray[np.uint64]

WORD_BYTES = 8

#: Masks that leave the first n bytes of a word, by n.
FIRST_BYTES: Words = np.array([256**count - 1 for count in range(WORD_BYTES + 1)], dtype=np.uint64)

#: Ends texts that are read word by word, or up to a quote, so that nothing runs on behind them.
SENTINEL = b'"' * 2 * WORD_BYTES


class Texts(NamedTuple):
    """n texts of less than 2 GiB together: `octets`, which end with `SENTINEL`, cut by `bounds`.

    Text i is from `bounds[i]` to before `bounds[i + 1]`.
    """

    octets: NDArray[np.uint8]
    bounds: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Iterable[bytes | msgspec.Raw | None]) -> Self:
        """Texts of which each is a Python object; None is an empty one."""
        some = [text or b"" for text in texts]
        bounds = np.zeros(len(some) + 1, dtype=np.int32)
        np.cumsum(np.fromiter(map(len, some), np.int32, len(some)), out=bounds[1:])
        return cls(np.frombuffer(b"".join([*some, SENTINEL]), dtype=np.uint8), bounds)


def words_of(text: bytes | memoryview | NDArray[np.uint8]) -> Words:
    """The words of a text of at least eight bytes; none begins in its last seven."""
    return np.ndarray((len(text) - WORD_BYTES + 1,), np.dtype("<u8"), text, 0, (1,))
