"""Billing periods: calendar months and days in UTC, of the event's own time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schemas.meter import Period

DAY_MS = 86_400_000
#: No period has more days.
PERIOD_DAYS_MAX = 31
#: A shard's arrival times may run behind its newest one by this much and still find what is
#: remembered of their time: identities, and forecasts.
DISORDER_DAYS = 35
_UNITS = {"month": "datetime64[M]", "day": "datetime64[D]"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def period_bounds(
    times_ns: NDArray[np.int64], period: Period
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end (exclusive) of each time's period, in milliseconds since 1970. Shape (n,)."""
    unit = _UNITS[period]
    numbers = times_ns.astype("datetime64[ns]").astype(unit).astype(np.int64)
    return _ms(numbers, unit), _ms(numbers + 1, unit)


@lru_cache(maxsize=4_096)
def period_end_ms(start_ms: int, period: Period) -> int:
    """The end (exclusive) of the period that begins at `start_ms`, in milliseconds since 1970."""
    return int(period_bounds(np.array([start_ms * 1_000_000]), period)[1][0])


def moment(ms: int) -> datetime:
    """Milliseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def _ms(numbers: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    return numbers.astype(unit).astype("datetime64[ms]").astype(np.int64)
