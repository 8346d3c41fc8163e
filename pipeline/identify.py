"""Who an event is, and what it says: hashes of its identity, (source, id), and of the rest.

See `pipeline.hash_parts` for the hash. An identity is all of it, 128 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.hash_parts import MIX, Hashes, hash_parts
from pipeline.words import WORD_BYTES, words_of


def hashes(*columns: Sequence[bytes]) -> Hashes:
    """Hashes of n events, of which each column has one part; shape (n,) both halves."""
    text = b"".join([*chain(*columns), bytes(WORD_BYTES)])
    lengths = np.array([[*map(len, column)] for column in columns], dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int32).reshape(lengths.shape)
    return hash_parts(words_of(text), ends - lengths, ends, np.arange(len(columns)))


def fingerprints(hashes: NDArray[np.uint64], times_ns: NDArray[np.int64]) -> NDArray[np.uint32]:
    """What each event says, in 32 bits: its type, customer and data, hashed, and its time.

    Shape (n,). Another payload under a known identity is taken for a resend with probability 2^-32.
    """
    mixed = hashes ^ (times_ns.view(np.uint64) * MIX)
    mixed *= MIX
    return (mixed >> np.uint64(32)).astype(np.uint32)
