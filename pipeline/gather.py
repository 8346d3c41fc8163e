"""Pieces of a text, one after the other: Arrow columns without a Python object a piece."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compiled import compiled


def gather(
    text: bytes | memoryview | NDArray[np.uint8],
    begins: NDArray[np.int32] | NDArray[np.int64],
    ends: NDArray[np.int32] | NDArray[np.int64],
    kind: pa.DataType,
) -> pa.Array:
    """The pieces between `begins` and `ends`, shape (n,) each, as an array of a binary `kind`.

    For strings the pieces must be UTF-8, which is not looked at.
    """
    offsets, pieces = _gather(np.frombuffer(text, dtype=np.uint8), begins, ends)
    return pa.Array.from_buffers(
        kind, len(begins), [None, pa.py_buffer(offsets), pa.py_buffer(pieces)]
    )


@compiled
def renumber(
    codes: NDArray[np.int32], count: int, bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Codes below `count`, numbered anew from 0 in each of the parts that `bounds` cut.

    Returns the new codes, what they stand for, part after part, and the bounds of that; a negative
    code stays what it is.
    """
    own = np.empty(len(codes), dtype=np.int32)
    occurring = np.empty(len(codes), dtype=np.int32)
    own_bounds = np.zeros(len(bounds), dtype=np.int64)
    number_of = np.empty(count, dtype=np.int32)
    last_part = np.full(count, -1, dtype=np.int32)
    found = 0
    for part in range(len(bounds) - 1):
        for row in range(bounds[part], bounds[part + 1]):
            code = codes[row]
            if code < 0:
                own[row] = code
                continue
            if last_part[code] != part:
                last_part[code] = part
                number_of[code] = found - own_bounds[part]
                occurring[found] = code
                found += 1
            own[row] = number_of[code]
        own_bounds[part + 1] = found
    return own, occurring[:found], own_bounds


@compiled
def _gather(
    text: NDArray[np.uint8],
    begins: NDArray[np.int32] | NDArray[np.int64],
    ends: NDArray[np.int32] | NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    count = len(begins)
    offsets = np.zeros(count + 1, dtype=np.int32)
    for row in range(count):
        offsets[row + 1] = offsets[row] + (ends[row] - begins[row])
    pieces = np.empty(offsets[count], dtype=np.uint8)
    for row in range(count):
        to = offsets[row]
        for at in range(begins[row], ends[row]):
            pieces[to] = text[at]
            to += 1
    return offsets, pieces
