"""Totals of a shard as a dictionary, for tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa

from pipeline.aggregate import Tally
from pipeline.exact import SAFE
from pipeline.total_columns import keep
from pipeline.totals import TotalKey, Totals
from schemas.quantity import plain
from schemas.segment import TOTAL_COLUMNS


def hold(totals: Totals, wanted: Mapping[TotalKey, tuple[Tally, Collection[str]]]) -> None:
    """Have these totals, with the thresholds that they have crossed."""
    places = {key: row for row, key in enumerate(totals.keys(np.arange(len(totals))))}
    for key in wanted:
        places.setdefault(key, len(places))
    rows = [
        {
            "row": places[key],
            "customer": customer,
            "meter": meter,
            "period_start_ms": start_ms,
            "group": group,
            "nanos": tally.value if abs(tally.value) < SAFE else 0,
            "wide": None if abs(tally.value) < SAFE else plain(tally.value),
            "events": tally.events,
            "latest_ns": tally.latest_ns,
            "as_of_ms": tally.as_of_ms,
            "fired": sorted(fired),
        }
        for key, (tally, fired) in sorted(wanted.items(), key=lambda item: places[item[0]])
        for meter, customer, start_ms, group in [key]
    ]
    keep(totals, pa.RecordBatch.from_pylist(rows, schema=TOTAL_COLUMNS))
    totals.connect()


def held(totals: Totals) -> dict[TotalKey, tuple[Tally, tuple[str, ...]]]:
    """All totals, in the order in which they came into being."""
    rows = np.arange(len(totals))
    said = zip(totals.keys(rows), totals.tallies(rows), totals.fired(rows), strict=True)
    found = {}
    for key, tally, fired in said:
        assert tally is not None
        found[key] = tally, fired
    return found
