"""Columns of exact quantities: 64-bit integers of nanos as long as they fit, Python's beyond.

An array of quantities is of int64, all values within ±2^62, or of Python integers, which have no
limit. Two int64 arrays can be added without a check, and the same numpy expressions hold for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.quantity import NANOS, from_plain, plain

#: Shape (n,), of int64 within ±2^62 (exclusive), or of Python integers.
Exact: TypeAlias = NDArray[Any]

SAFE = 2**62

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
    magnitudes = np.abs(values)
    wholes = magnitudes // NANOS
    fractions = magnitudes - wholes * NANOS
    if values.dtype == object and not fits(wholes):
        return pa.array([plain(value) for value in values], pa.string())
    is_negative = values < 0
    texts = pa.array(wholes.astype(np.int64)).cast(pa.string())
    if not (fractions.any() or is_negative.any()):
        return texts
    digits = pa.array(fractions.astype(np.int64)).cast(pa.string())
    return pc.binary_join_element_wise(
        pa.array(["", "-"]).take(pa.array(is_negative.astype(np.int8))),
        texts,
        pa.array(["", "."]).take(pa.array((fractions != 0).astype(np.int8))),
        pc.utf8_rtrim(pc.utf8_lpad(digits, 9, "0"), "0"),
        "",
    )


def from_plain_texts(texts: pa.Array) -> Exact:
    """The inverse of `plain_texts`."""
    try:
        wholes = texts.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return exact([from_plain(text) for text in texts.to_pylist()])
    return times(wholes, NANOS)


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
