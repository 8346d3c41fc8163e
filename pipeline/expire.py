"""How long identities are remembered, by the days of each shard's log."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Batch
from pipeline.part import Part
from pipeline.periods import DAY_MS, DISORDER_DAYS
from pipeline.shard import Shard
from schemas.definitions import Definitions
from schemas.meter import Period

#: A copy of an event is recognised for at least this long, and as long as it could still count.
DEDUPE_DAYS = 35

_LAST_DAY = int(np.iinfo(np.uint16).max)


def advance(shards: Mapping[int, Shard], part: Part) -> NDArray[np.uint16]:
    """Let each shard's watermark follow its events; the day on which to look up each one, (n,).

    Which of them come in one part makes no difference: to each it is the newest before it that
    counts, and itself.
    """
    received_ms = part.batch.received_ms
    newest_ms = np.empty_like(received_ms)
    for number, begin, end in part.spans:
        shard = shards[number]
        before_ms = shard.watermark_ms
        of_shard = np.maximum.accumulate(received_ms[begin:end])
        newest_ms[begin:end] = np.maximum(of_shard, before_ms)
        shard.watermark_ms = int(newest_ms[end - 1])
        if before_ms // DAY_MS < shard.watermark_ms // DAY_MS:
            # What is dropped then would be found expired by every event to come.
            shard.ids.forget_before(before_ms // DAY_MS - DISORDER_DAYS)
    days = np.maximum(received_ms // DAY_MS, newest_ms // DAY_MS - DISORDER_DAYS)
    today: NDArray[np.uint16] = np.clip(days, 0, _LAST_DAY).astype(np.uint16)
    return today


def expiry(definitions: Definitions, batch: Batch, today: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The last day on which a copy of each event must be recognised, shape (n,)."""
    last_day = today.astype(np.int64) + DEDUPE_DAYS
    # One look for each kind of period that an event type has, for the longest grace.
    grace_ms: dict[tuple[str, Period], int] = {}
    for meter in definitions.meters:
        kind = (meter.event_type, meter.period)
        grace_ms[kind] = max(meter.grace_ms, grace_ms.get(kind, 0))
    for (event_type, period), longest_ms in grace_ms.items():
        periods = batch.periods(period)
        closed = (periods.ends_ms + longest_ms) // DAY_MS + 1
        if closed.max() > last_day.min():
            events = np.flatnonzero(batch.of_type(event_type))
            last_day[events] = np.maximum(last_day[events], closed[periods.codes[events]])
    return np.clip(last_day, 1, _LAST_DAY).astype(np.uint16)
