"""Counting: accepted events of a batch change totals, and usage may cross thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.aggregate import Change, Tally, changes
from pipeline.batch import Batch
from pipeline.decode import Envelope
from pipeline.limits import Limits, Watched, crossings
from pipeline.pack import Quantities
from pipeline.periods import moment, period_end_ms
from pipeline.record import Outgoing
from pipeline.shard import Shard, TotalKey, parts, table
from schemas import topics
from schemas.alert import Alert
from schemas.frame import Kind, seal
from schemas.meter import Meter
from schemas.plan import Threshold
from schemas.quantity import NANOS, plain
from schemas.total import TOTAL_COLUMNS

_envelope = msgspec.json.Decoder(Envelope)
_json = msgspec.json.Encoder(order="sorted")


class _Crossing(NamedTuple):
    """One threshold crossed. Sorts by the event that crossed it."""

    row: int
    nanos: int
    meter: Meter
    key: TotalKey
    watched: Watched
    threshold: str
    usage: int


class Counting:
    """Counts one batch into a shard, meter by meter."""

    def __init__(self, shard: Shard, batch: Batch, limits: Limits) -> None:
        self._shard = shard
        self._batch = batch
        self._limits = limits
        self._meters: dict[str, Meter] = {}
        self._crossings: list[_Crossing] = []
        self.touched: set[TotalKey] = set()

    def count(self, meter: Meter, rows: NDArray[np.int64], start_ms: NDArray[np.int64]) -> None:
        """Count `rows` of the batch into `meter`; `start_ms` is each row's period. Shape (n,)."""
        self._meters[meter.slug] = meter
        batch = self._batch
        quantities = batch.quantities(meter.value).take(rows) if meter.value is not None else None
        columns = (quantities, batch.times_ns[rows], batch.received_ms[rows])
        customers = batch.customers[rows]
        starts, start_codes = np.unique(start_ms, return_inverse=True)
        usage_groups = customers * len(starts) + start_codes

        for change in changes(meter.aggregation, usage_groups, *columns):
            customer, start = divmod(change.group, len(starts))
            key = (meter.slug, batch.customer_names[customer], int(starts[start]), None)
            self._cross(meter, key, change, rows, quantities)
            self._merge(meter, key, change.tally)

        if meter.group_by:
            dimensions = [batch.codes(f"dimension:{path}") for path in meter.group_by.values()]
            groups = usage_groups
            for codes, names in dimensions:
                # Renumbered after each dimension, so that the product never leaves 64 bits.
                groups = np.unique(groups * len(names) + codes[rows], return_inverse=True)[1]
            for change in changes(meter.aggregation, groups, *columns):
                first = change.rows[0]
                name = batch.customer_names[int(customers[first])]
                group = tuple(names[codes[rows[first]]] for codes, names in dimensions)
                self._merge(meter, (meter.slug, name, int(start_ms[first]), group), change.tally)

    def totals(self, version: int) -> Iterator[bytes]:
        """The totals that changed, as frames; nearly always one."""
        for keys in parts(sorted(key for key in self.touched if self._is_published(key))):
            rows = list(self._rows(keys))
            yield seal(Kind.TOTALS, {"version": version}, [table(rows, TOTAL_COLUMNS)])

    def _rows(self, keys: Iterable[TotalKey]) -> Iterator[tuple[object, ...]]:
        """The rows of `TOTAL_COLUMNS` for `keys`."""
        totals = self._shard.totals
        texts: dict[tuple[str, tuple[str, ...] | None], str] = {}
        for key in keys:
            meter, customer, start_ms, group = key
            definition = self._meters[meter]
            text = texts.get((meter, group))
            if text is None:
                named = dict(zip(definition.group_by, group or (), strict=True))
                text = texts[meter, group] = _json.encode(named).decode()
            tally = totals[key]
            yield (
                customer,
                meter,
                start_ms,
                period_end_ms(start_ms, definition.period),
                text,
                plain(tally.value),
                plain(totals[meter, customer, start_ms, None].value),
                tally.events,
                tally.as_of_ms,
            )

    def alerts(self) -> Iterator[Outgoing]:
        """The thresholds that were crossed, in the order of the log."""
        for crossing in sorted(self._crossings, key=lambda c: (c.row, c.meter.slug, c.nanos)):
            meter, customer, start_ms, _ = crossing.key
            event = _envelope.decode(self._batch.original(crossing.row))
            alert = Alert(
                customer=customer,
                meter=meter,
                period_start=moment(start_ms),
                period_end=moment(period_end_ms(start_ms, crossing.meter.period)),
                plan=crossing.watched.plan.slug,
                limit=crossing.watched.limit_text,
                threshold=crossing.threshold,
                value=plain(crossing.usage),
                crossed_at=moment(int(self._batch.received_ms[crossing.row])),
                event_source=event.source,
                event_id=event.id,
            )
            yield Outgoing(
                topics.ALERTS.name, alert.model_dump_json().encode(), key=customer.encode()
            )

    def _is_published(self, key: TotalKey) -> bool:
        """A meter without group_by has only the total over all groups; others publish groups."""
        return (key[3] is None) == (not self._meters[key[0]].group_by)

    def _merge(self, meter: Meter, key: TotalKey, tally: Tally) -> None:
        self.touched.add(key)
        total = self._shard.totals.get(key)
        if total is None:
            self._shard.totals[key] = tally
        else:
            total.merge(tally, meter.aggregation)

    def _cross(
        self,
        meter: Meter,
        key: TotalKey,
        change: Change,
        rows: NDArray[np.int64],
        quantities: Quantities | None,
    ) -> None:
        """Note the thresholds that `change` crosses; to be called before it is merged."""
        watched = self._limits.of(key[1], meter.slug)
        if watched is None:
            return
        fired: Set[Threshold] = self._shard.fired.get(key, frozenset())
        lowest = watched.lowest_open(fired)
        before = self._shard.totals.get(key)
        adds = meter.aggregation in ("count", "sum")
        peak = change.peak_nanos + (before.value if before is not None and adds else 0)
        if lowest is None or (peak < lowest and (before is None or before.value < lowest)):
            return
        events = self._single_events(rows, change.rows, quantities)
        for position, threshold, usage in crossings(
            watched, fired, before, events, meter.aggregation
        ):
            row = int(rows[change.rows[position]])
            nanos = watched.limit.threshold_nanos(threshold)
            self._crossings.append(_Crossing(row, nanos, meter, key, watched, threshold, usage))
            self._shard.fired.setdefault(key, set()).add(threshold)

    def _single_events(
        self, rows: NDArray[np.int64], picked: NDArray[np.int64], quantities: Quantities | None
    ) -> list[Tally]:
        nanos = [NANOS] * len(picked) if quantities is None else quantities.take(picked).nanos()
        at = rows[picked]
        times = self._batch.times_ns[at].tolist()
        received = self._batch.received_ms[at].tolist()
        return [
            Tally(value, 1, time, arrival)
            for value, time, arrival in zip(nanos, times, received, strict=True)
        ]
