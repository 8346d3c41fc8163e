"""Forecasts: projects a period's usage in a straight line and names the next threshold it meets.

    projected  = usage * length / elapsed
    crosses_at = period_start + elapsed * threshold / usage

where `elapsed` is the time from the period's start to the newest arrival in the usage. A row says
that of its own group only, which may be an older one when a dead letter comes back as of its first
arrival; so the newest one that any group's row has said is remembered.
The straight line knows no rhythm of days or weeks: it is meant to warn early and to be explained
in one sentence. It fits what accumulates (`count`, `sum`) and nothing else.

The clock is the arrival of events, so a replay makes the same forecasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa

from pipeline.periods import DAY_MS, DISORDER_DAYS
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.quantity import from_plain, plain

#: No forecast before a twentieth of the period is over (36 hours of a month of 30 days), because
#: the first event of a period would project to a multiple of any limit.
ELAPSED_SHARE_MIN = 20

_ACCUMULATING = frozenset({"count", "sum"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Key(NamedTuple):
    customer: str
    meter: str
    period_start_ms: int
    threshold: str


class _Usage(NamedTuple):
    """A customer's newest usage of one meter in one period. Milliseconds since 1970, nanos."""

    customer: str
    meter: str
    start_ms: int
    end_ms: int
    as_of_ms: int
    nanos: int


class Forecaster:
    """Makes each forecast of a shard once per (customer, meter, period, threshold).

    `announced` are the shard's forecasts made before, by another process perhaps. Each shard has a
    forecaster of its own, because it forgets by the arrivals that it is shown: of shards that are
    read at different speeds the fastest would have it forget what the others are still to bring.
    For a shard that falls silent it keeps what it has, which no longer grows. Of arrivals it knows
    only those that it was shown itself.
    """

    def __init__(self, announced: Iterable[Forecast] = ()) -> None:
        #: Key to the end of its period, in milliseconds since 1970.
        self._announced: dict[_Key, int] = {}
        #: Of meters with groups: (customer, meter, period start) to its newest arrival and its end.
        self._arrivals: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._day = 0
        for forecast in announced:
            key = _Key(
                forecast.customer,
                forecast.meter,
                _milliseconds(forecast.period_start),
                forecast.threshold,
            )
            self._announced[key] = _milliseconds(forecast.period_end)

    def step(self, definitions: Definitions, totals: pa.RecordBatch) -> list[Forecast]:
        """New forecasts from the shard's next `totals`, rows of `schemas.total.TOTAL_COLUMNS`.

        What `definitions` do not know is skipped: whoever counted it read other ones.
        """
        forecasts = []
        for usage in _newest(totals):
            self._forget_ended(usage.as_of_ms)
            threshold = _next_threshold(definitions, usage)
            if threshold is None:
                continue
            if definitions.meters_by_slug[usage.meter].group_by:
                usage = self._over_all_groups(usage)
            key = _Key(usage.customer, usage.meter, usage.start_ms, threshold[0])
            if key not in self._announced and (forecast := _project(usage, *threshold)):
                self._announced[key] = usage.end_ms
                forecasts.append(forecast)
        return forecasts

    def _over_all_groups(self, usage: _Usage) -> _Usage:
        """The usage as of its newest arrival in any group."""
        name = (usage.customer, usage.meter, usage.start_ms)
        known_ms, _ = self._arrivals.get(name, (usage.as_of_ms, usage.end_ms))
        newest_ms = max(usage.as_of_ms, known_ms)
        self._arrivals[name] = (newest_ms, usage.end_ms)
        return usage._replace(as_of_ms=newest_ms)

    def _forget_ended(self, as_of_ms: int) -> None:
        # So late because a backlog's partitions are read at different speeds, and dead letters come
        # back with the arrival times they had.
        day = as_of_ms // DAY_MS - DISORDER_DAYS
        if day > self._day:
            self._day = day
            self._announced = {
                key: end_ms for key, end_ms in self._announced.items() if end_ms > day * DAY_MS
            }
            self._arrivals = {
                name: known for name, known in self._arrivals.items() if known[1] > day * DAY_MS
            }


def _newest(totals: pa.RecordBatch) -> Iterable[_Usage]:
    """One usage per customer, meter and period: every group's row carries that of all groups."""
    times = (
        totals.column(name).cast(pa.int64()).to_pylist()
        for name in ("period_start", "period_end", "as_of")
    )
    customers, meters, usages = (
        totals.column(name).to_pylist() for name in ("customer", "meter", "usage")
    )
    newest: dict[tuple[str, str, int], _Usage] = {}
    for customer, meter, start, end, as_of, usage in zip(
        customers, meters, *times, usages, strict=True
    ):
        known = newest.get((customer, meter, start))
        if known is None or as_of >= known.as_of_ms:
            newest[customer, meter, start] = _Usage(
                customer, meter, start, end, as_of, from_plain(usage)
            )
    return newest.values()


def _next_threshold(definitions: Definitions, usage: _Usage) -> tuple[str, int] | None:
    """The least threshold above the usage, as written and in nanos."""
    meter = definitions.meters_by_slug.get(usage.meter)
    plan = definitions.plan_of(usage.customer)
    if meter is None or meter.aggregation not in _ACCUMULATING or plan is None:
        return None
    limit = plan.limit_of(usage.meter)
    if limit is None:
        return None
    above = [
        (units, threshold)
        for threshold in limit.thresholds
        if (units := limit.threshold_nanos(threshold)) > usage.nanos
    ]
    if not above:
        return None
    units, threshold = min(above)
    return threshold, units


def _project(usage: _Usage, threshold: str, threshold_nanos: int) -> Forecast | None:
    """The forecast if the straight line meets the threshold before the period's end."""
    length_ms = usage.end_ms - usage.start_ms
    elapsed_ms = usage.as_of_ms - usage.start_ms
    # Before its start (an event ahead of its time) or after its end nothing is left to project.
    if not length_ms <= elapsed_ms * ELAPSED_SHARE_MIN < length_ms * ELAPSED_SHARE_MIN:
        return None
    if usage.nanos <= 0:
        return None
    # Rounded up: it has been reached by then.
    crosses_after_ms = -(-threshold_nanos * elapsed_ms // usage.nanos)
    if crosses_after_ms >= length_ms:
        return None
    return Forecast(
        customer=usage.customer,
        meter=usage.meter,
        period_start=_instant(usage.start_ms),
        period_end=_instant(usage.end_ms),
        threshold=threshold,
        usage=plain(usage.nanos),
        projected=plain(usage.nanos * length_ms // elapsed_ms),
        crosses_at=_instant(usage.start_ms + crosses_after_ms),
        as_of=_instant(usage.as_of_ms),
    )


def _instant(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _milliseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(milliseconds=1)
