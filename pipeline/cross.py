"""Crossing: which usages reach a threshold within a batch, found without a look at most of them.

Each usage has its lowest open threshold at hand. Only those that may reach it are walked through,
event by event.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.aggregate import Changes, running
from pipeline.batch import Batch
from pipeline.decode import Envelope
from pipeline.exact import exact
from pipeline.groups import Groups
from pipeline.limits import Crossing, Limits, Watched, crossings
from pipeline.pack import Quantities
from pipeline.periods import moment, period_end_ms
from pipeline.record import Outgoing
from pipeline.totals import NOTHING, OPEN, UNKNOWN, Rows, TotalKey, Totals
from schemas import topics
from schemas.meter import Meter
from schemas.quantity import NANOS, plain

_envelope = msgspec.json.Decoder(Envelope)
_json = msgspec.json.Encoder()


class _Found(NamedTuple):
    """A crossing. Sorts by the event of the batch that crossed."""

    event: int
    meter: str
    least: int
    key: TotalKey
    period_end_ms: int
    watched: Watched
    crossing: Crossing


class Crosser:
    """Finds the crossings of each batch and makes alerts of them."""

    def __init__(self, totals: Totals, limits: Limits) -> None:
        self._totals = totals
        self.limits = limits
        self._found: list[_Found] = []

    def find(
        self,
        batch: Batch,
        meter: Meter,
        events: NDArray[np.int64],
        groups: Groups,
        quantities: Quantities | None,
        rows: Rows,
        changes: Changes,
    ) -> None:
        """Note the thresholds that `changes` of the usages in `rows` cross, before they are merged.

        `groups` and `quantities` are of `events` of the batch; one change and one row a group.
        """
        totals = self._totals
        self._look_up(meter, rows[totals["watch"][rows] == UNKNOWN])
        watched = np.flatnonzero(totals["watch"][rows] == OPEN)
        before = totals.nanos.read(rows[watched])
        peak = changes.peak_nanos[watched]
        if meter.aggregation in ("count", "sum"):
            peak = before + peak
        may_cross = watched[np.maximum(before, peak) >= totals.open_nanos.read(rows[watched])]
        if len(may_cross):
            self._walk(batch, meter, events, quantities, rows[may_cross], *groups.places(may_cross))
            self._look_up(meter, rows[may_cross])

    def alerts(self, batch: Batch) -> Iterator[Outgoing]:
        """An alert for each crossing that was noted in the batch, in the order of the log."""
        for event, meter, _, key, end_ms, watched, crossing in sorted(
            self._found, key=lambda found: found[:3]
        ):
            _, customer, start_ms, _ = key
            envelope = _envelope.decode(batch.original(event))
            # The fields of `schemas.alert.Alert`, in their order.
            alert = {
                "customer": customer,
                "meter": meter,
                "period_start": moment(start_ms),
                "period_end": moment(end_ms),
                "plan": watched.plan.slug,
                "limit": watched.limit_text,
                "threshold": crossing.threshold,
                "value": plain(crossing.usage),
                "crossed_at": moment(int(batch.received_ms[event])),
                "event_source": envelope.source,
                "event_id": envelope.id,
            }
            yield Outgoing(topics.ALERTS.name, _json.encode(alert), key=customer.encode())
        self._found.clear()

    def _walk(
        self,
        batch: Batch,
        meter: Meter,
        events: NDArray[np.int64],
        quantities: Quantities | None,
        rows: Rows,
        places: NDArray[np.int64],
        bounds: NDArray[np.int64],
    ) -> None:
        """Note what single events cross, one after the other.

        `places` are those of the events of each usage in `rows`, which `bounds` cut apart.
        """
        totals = self._totals
        nanos = [NANOS] * len(places) if quantities is None else quantities.take(places).nanos()
        crossing = events[places]
        times_ns = batch.times_ns[crossing].tolist() if meter.aggregation == "latest" else []
        customers = totals.customers.column(totals["customer"][rows])
        usages = zip(
            pairwise(bounds.tolist()),
            rows.tolist(),
            self.limits.plans(customers).tolist(),
            totals.keys(rows),
            totals.tallies(rows),
            totals.fired(rows),
            strict=True,
        )
        for (begin, end), row, plan, key, tally, fired in usages:
            watched = self.limits.of(plan, meter.slug)
            assert watched is not None
            values = running(meter.aggregation, tally, nanos[begin:end], times_ns[begin:end])
            found = list(crossings(watched, fired, values))
            if not found:
                continue
            end_ms = period_end_ms(key[2], meter.period)
            for each in found:
                event = int(crossing[begin + each.position])
                self._found.append(
                    _Found(event, meter.slug, each.least, key, end_ms, watched, each)
                )
            fired = tuple(sorted({*fired, *(each.threshold for each in found)}))
            totals["fired"][row] = totals.crossed.number(fired)

    def _look_up(self, meter: Meter, rows: Rows) -> None:
        """Find the lowest open threshold of usages."""
        if not len(rows):
            return
        totals = self._totals
        plans = self.limits.plans(totals.customers.column(totals["customer"][rows]))
        alike = Groups(plans << 32 | totals["fired"][rows])
        lowest = []
        for both in alike.distinct.tolist():
            watched = self.limits.of(both >> 32, meter.slug)
            fired = totals.crossed[both & 0xFFFFFFFF]
            lowest.append(watched.lowest_open(fired) if watched else None)
        is_open = np.array([nanos is not None for nanos in lowest])
        totals["watch"][rows] = np.where(is_open, OPEN, NOTHING)[alike.numbers]
        open_nanos = exact([nanos or 0 for nanos in lowest])
        totals.open_nanos.write(rows, open_nanos[alike.numbers])
