"""Columns of exact quantities: 64-bit integers of nanos as long as they fit, Python's beyond.

An array of quantities is of int64, all values within ±2^62, or of Python integers, which have no
limit. Two int64 arrays can be added without a check, and the same numpy expressions hold for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compiled import compiled
from schemas.quantity import NANOS, PLACES, from_plain, plain

#: Shape (n,), of int64 within ±2^62 (exclusive), or of Python integers.
Exact: TypeAlias = NDArray[Any]

SAFE = 2**62

_MINUS, _POINT, _ZERO = b"-.0"
#: Sign, digits and point of a value within ±2^62.
_TEXT_MAX = 21
_TENS = np.array([10**exponent for exponent in range(12)])

#: Marks a row whose value does not fit; none that does is as low.
_WIDE = np.iinfo(np.int64).min


def fits(values: NDArray[np.int64], factor: int = 1) -> bool:
    """Whether `values`, each `factor` times, stay within ±2^62."""
    if not len(values):
        return True
    return max(-int(values.min()), int(values.max())) * factor < SAFE


def exact(values: Sequence[int]) -> Exact:
    """An array of `values`, of any size."""
    if all(-SAFE < value < SAFE for value in values):
        return np.array(values, dtype=np.int64)
    return np.array(values, dtype=object)


def times(values: Exact, factor: int) -> Exact:
    """`values`, each `factor` times."""
    if values.dtype != object and not fits(values, factor):
        values = values.astype(object)
    return values if factor == 1 else values * factor


def plain_texts(values: Exact) -> pa.Array:
    """Nanos as plain decimal strings, as `schemas.quantity.plain` writes them."""
    if values.dtype == object:
        return pa.array([plain(value) for value in values], pa.string())
    offsets, texts = _plain_texts(values)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


@compiled
def _plain_texts(values: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The texts of `values`, one after the other, and where each begins."""
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    texts = np.empty(len(values) * _TEXT_MAX, dtype=np.uint8)
    at = 0
    for number in range(len(values)):
        value = values[number]
        if value < 0:
            texts[at] = _MINUS
            at += 1
            value = -value
        whole, fraction = divmod(value, NANOS)
        digits = 1
        while whole >= _TENS[digits]:
            digits += 1
        for place in range(at + digits - 1, at - 1, -1):
            texts[place] = _ZERO + whole % 10
            whole //= 10
        at += digits
        if fraction:
            texts[at] = _POINT
            digits = PLACES
            while fraction % 10 == 0:
                fraction //= 10
                digits -= 1
            for place in range(at + digits, at, -1):
                texts[place] = _ZERO + fraction % 10
                fraction //= 10
            at += digits + 1
        offsets[number + 1] = at
    return offsets, texts[:at].copy()


def to_columns(values: Exact) -> tuple[pa.Array, pa.Array]:
    """Nanos as an Arrow column of integers, and one of decimals for those that are too wide."""
    if values.dtype != object:
        return pa.array(values), pa.nulls(len(values), pa.string())
    fitting = [-SAFE < value < SAFE for value in values]
    pairs = list(zip(values, fitting, strict=True))
    return (
        pa.array([value if fits else 0 for value, fits in pairs], pa.int64()),
        pa.array([None if fits else plain(value) for value, fits in pairs], pa.string()),
    )


def from_columns(nanos: pa.Array, wide: pa.Array) -> Exact:
    """The inverse of `to_columns`."""
    values: Exact = nanos.to_numpy()
    if wide.null_count == len(wide):
        return values
    values = values.astype(object)
    for row in wide.is_valid().to_numpy(zero_copy_only=False).nonzero()[0].tolist():
        values[row] = from_plain(wide[row].as_py())
    return values


class ExactColumn:
    """Quantities by row number, 0 where nothing was written."""

    def __init__(self) -> None:
        self._narrow = np.zeros(0, dtype=np.int64)
        self._wide: dict[int, int] = {}

    def reserve(self, rows: int) -> None:
        """Have room for so many rows."""
        if rows > len(self._narrow):
            grown = np.zeros(rows, dtype=np.int64)
            grown[: len(self._narrow)] = self._narrow
            self._narrow = grown

    def read(self, rows: NDArray[np.int64]) -> Exact:
        """The quantities in `rows`."""
        values = self._narrow[rows]
        if self._wide:
            at = np.flatnonzero(values == _WIDE)
            if len(at):
                wide = values.astype(object)
                wide[at] = [self._wide[row] for row in rows[at].tolist()]
                return wide
        return values

    def write(self, rows: NDArray[np.int64], values: Exact) -> None:
        """Replace the quantities in `rows`, which are distinct."""
        if values.dtype != object and fits(values) and not self._wide:
            self._narrow[rows] = values
            return
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            if -SAFE < value < SAFE:
                self._narrow[row] = value
                self._wide.pop(row, None)
            else:
                self._narrow[row] = _WIDE
                self._wide[row] = value
