"""Several packs side by side: one set of columns, one code for each text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.pack import Pack, Quantities, text_codes
from pipeline.periods import period_bounds
from schemas.meter import Period
from schemas.pack import value_column

_DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Periods:
    """In which period each event lies: `starts_ms[codes]`, and `ends_ms`, exclusive.

    `starts_ms` are distinct and ascending, in milliseconds since 1970; `codes` has shape (n,).
    """

    starts_ms: NDArray[np.int64]
    ends_ms: NDArray[np.int64]
    codes: NDArray[np.int64]


class Batch:
    """The events of `packs`, in order; columns of shape (n,), texts as codes."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._packs = packs
        self._ends = list(accumulate(map(len, packs)))
        self._periods: dict[Period, Periods] = {}
        self._codes: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
        self.times_ns: NDArray[np.int64] = self._numbers("time")
        self.received_ms: NDArray[np.int64] = self._numbers("received_at")
        self.ids: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]] = (
            self._numbers("id_high"),
            self._numbers("id_low"),
            self._numbers("fingerprint"),
        )
        encoded = self._joined("customer")
        self.customers: NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
        #: What the codes in `customers` stand for, an array of strings.
        self.customer_names: pa.StringArray = encoded.dictionary

    def __len__(self) -> int:
        return len(self.times_ns)

    def codes(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        """A text column as codes that hold over all packs, and the texts they stand for."""
        if column not in self._codes:
            codes, texts = text_codes(self._joined(column))
            self._codes[column] = codes.astype(np.int64), texts
        return self._codes[column]

    def of_type(self, event_type: str) -> NDArray[np.bool_]:
        """Which events are of a type."""
        types, names = self.codes("type")
        if event_type not in names:
            return np.zeros(len(types), dtype=bool)
        mask: NDArray[np.bool_] = types == names.index(event_type)
        return mask

    def quantities(self, path: str) -> Quantities:
        """The values at a path; any where the event's type has no meter that reads it."""
        if self._is_uniform:
            return Quantities.of(self._joined(value_column(path)), self._packs[0].scale(path))
        return Quantities.joined([pack.quantities(path) for pack in self._packs])

    def periods(self, period: Period) -> Periods:
        """The periods of all events."""
        if period not in self._periods:
            self._periods[period] = self._find_periods(period)
        return self._periods[period]

    def original(self, row: int) -> bytes:
        """One event in structured mode."""
        at = bisect_right(self._ends, row)
        pack = self._packs[at]
        original: bytes = pack.originals[row - self._ends[at] + len(pack)].as_py()
        return original

    @cached_property
    def _is_uniform(self) -> bool:
        """Whether the packs have the same columns, of the same scales."""
        first, *others = (pack.batch.schema for pack in self._packs)
        return all(first.equals(other, check_metadata=True) for other in others)

    def _joined(self, name: str) -> pa.Array:
        at = self._packs[0].batch.schema.get_field_index(name) if self._is_uniform else name
        return pa.concat_arrays([pack.batch.column(at) for pack in self._packs])

    def _numbers(self, column: str) -> NDArray[Any]:
        numbers: NDArray[Any] = self._joined(column).to_numpy(zero_copy_only=True)
        return numbers

    def _find_periods(self, period: Period) -> Periods:
        times = self.times_ns
        starts_ms, ends_ms = period_bounds(np.array([times.min(), times.max()]), period)
        if starts_ms[0] == starts_ms[1]:
            return Periods(starts_ms[:1], ends_ms[:1], np.zeros(len(self), dtype=np.int64))
        # One look at the calendar for each day, because no period begins within one.
        _, at, days = np.unique(times // _DAY_NS, return_index=True, return_inverse=True)
        starts_ms, ends_ms = period_bounds(times[at], period)
        distinct, at, codes = np.unique(starts_ms, return_index=True, return_inverse=True)
        return Periods(distinct, ends_ms[at], codes[days])
