"""Where an event lies in a partition of usage.events, as one number: its record's offset, and its
index in a record that holds many, else 0.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

#: No log has so many records, and no record so many events that it would not fit 64 bits.
INDEX_BITS = 48

Numbers = TypeVar("Numbers", NDArray[np.int64], np.int64)


def numbers_of(offsets: NDArray[np.int64], indices: NDArray[np.int32]) -> NDArray[np.int64]:
    """The number of each event, shape (n,): offset + index * 2^48."""
    return offsets + (indices.astype(np.int64) << INDEX_BITS)


def offset_of(number: Numbers) -> Numbers:
    """The offset in one number, or in many."""
    return number & ((1 << INDEX_BITS) - 1)


def index_of(number: Numbers) -> Numbers:
    """The index in one number, or in many."""
    return number >> INDEX_BITS
