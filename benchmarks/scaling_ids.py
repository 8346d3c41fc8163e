"""The table of identities alone: how fast it claims, what an id takes, how long it pauses."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.histogram import Histogram
from pipeline.dedupe import Columns, IdTable
from pipeline.expire import DEDUPE_DAYS
from schemas.decisions import Status

_BATCH = 20_000
_DAY = 20_000
_SEED = 20_261_102
#: So many points in each further power of ten.
_POINTS = 8


def claim_ids(ids_max: int) -> list[dict[str, Any]]:
    """Figures of one table at growing sizes, up to `ids_max` ids, claimed 20,000 at a time.

    Raises:
        RuntimeError: a new id was taken for a known one, or a known one for a new one.
    """
    random = np.random.default_rng(_SEED)
    today = np.full(_BATCH, _DAY, dtype=np.uint16)
    first = _new_ids(random)
    # Whatever is compiled at its first use is no pause.
    table = IdTable()
    for columns in (first, first, _new_ids(random)):
        table.claim(columns, today)
    table = IdTable()
    table.claim(first, today)
    claims, longest_ms = Histogram(), 0.0
    cpu = 0.0
    begin = since = len(table)
    since_cpu = 0.0
    found: list[dict[str, Any]] = []
    while len(table) < ids_max:
        columns = _new_ids(random)
        before, before_cpu = time.perf_counter_ns(), time.process_time()
        status = table.claim(columns, today)
        cpu += time.process_time() - before_cpu
        duration_ns = time.perf_counter_ns() - before
        claims.record_ns(duration_ns)
        longest_ms = max(longest_ms, duration_ns / 1e6)
        if (status != Status.ACCEPTED).any():
            raise RuntimeError("a new id was taken for a known one")
        if len(table) >= ids_max or len(table) >= since * 10 ** (1 / _POINTS):
            found.append(
                {
                    "ids": len(table),
                    "ids_per_cpu_second": (len(table) - since) / (cpu - since_cpu),
                    "ids_per_cpu_second_from_empty": (len(table) - begin) / cpu,
                    "bytes_per_id": table.bytes_held / len(table),
                    "longest_claim_ms": longest_ms,
                    "claim_ms": claims.summary_ms(),
                }
            )
            since, since_cpu, longest_ms = len(table), cpu, 0.0
    if (table.claim(first, today) != Status.DUPLICATE).any():
        raise RuntimeError("a known id was taken for a new one")
    return found


def _new_ids(random: np.random.Generator) -> Columns:
    high, low = random.integers(0, 2**64, (2, _BATCH), dtype=np.uint64)
    expires = np.full(_BATCH, _DAY + DEDUPE_DAYS, dtype=np.uint16)
    return high, low, low.astype(np.uint32), expires
