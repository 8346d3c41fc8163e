"""Durations in a high dynamic range histogram: one microsecond to an hour, three digits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from hdrh.histogram import HdrHistogram

_HOUR_US = 3_600_000_000
_DIGITS = 3

#: What is quoted, in percent.
QUOTED = (50.0, 99.0, 99.9)

#: What a curve goes through: as many points in each further nine of the distribution.
_CURVE = [100 * (1 - 10 ** (-step / 8)) for step in range(33)]


class Histogram:
    """Durations; recorded in nanoseconds, read in milliseconds."""

    def __init__(self) -> None:
        self._counts = HdrHistogram(1, _HOUR_US, _DIGITS)

    def __getstate__(self) -> bytes:
        encoded: bytes = self._counts.encode()
        return encoded

    def __setstate__(self, encoded: bytes) -> None:
        self._counts = HdrHistogram.decode(encoded)

    @classmethod
    def of_ns(cls, durations_ns: Iterable[int]) -> Self:
        """A histogram of these durations."""
        histogram = cls()
        for duration_ns in durations_ns:
            histogram.record_ns(duration_ns)
        return histogram

    def __len__(self) -> int:
        return int(self._counts.get_total_count())

    def record_ns(self, duration_ns: int) -> None:
        """Count one duration; negative ones as none at all."""
        self._counts.record_value(min(max(duration_ns, 0) // 1_000, _HOUR_US))

    def at(self, percent: float) -> float:
        """The duration, in milliseconds, that so many percent do not exceed."""
        return float(self._counts.get_value_at_percentile(percent)) / 1_000

    @property
    def max_ms(self) -> float:
        """The longest one, in milliseconds."""
        return float(self._counts.get_max_value()) / 1_000

    def summary_ms(self) -> dict[str, float]:
        """What is quoted: p50, p99, p99.9 and max."""
        return {f"p{percent:g}": self.at(percent) for percent in QUOTED} | {"max": self.max_ms}

    def curve_ms(self) -> list[tuple[float, float]]:
        """(percent, milliseconds), as far as there are enough durations to tell."""
        enough = 100 * (1 - 1 / max(len(self), 1))
        return [(percent, self.at(percent)) for percent in _CURVE if percent <= enough]
