"""Counting: accepted events of a batch change totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.aggregate import changes
from pipeline.batch import Batch
from pipeline.cross import Crosser
from pipeline.groups import Groups
from pipeline.total_columns import published
from pipeline.totals import ALL_GROUPS, ByShare, Rows, Totals, distinct
from schemas.frame import Kind, seal
from schemas.meter import Meter

#: Combinations of dimensions are numbered anew beyond this, so that products stay within 64 bits.
_COMBINATIONS_MAX = 2**20


class Counting:
    """Counts batches of one version of the definitions, meter by meter."""

    def __init__(self, totals: Totals, crosser: Crosser) -> None:
        self._totals = totals
        self._crosser = crosser
        #: The share of each event of the batch, shape (n,).
        self._shares = np.zeros(0, dtype=np.int64)
        #: By the codes of the batch, -1 for a customer without totals.
        self._numbers = np.zeros(0, dtype=np.int64)
        self._meters: dict[str, Meter] = {}
        self._touched: list[Rows] = []
        #: Those of them that nobody is told of: the usage over all groups has no record of its own.
        self._unpublished: list[Rows] = []

    def begin(self, batch: Batch, shares: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Go on with a batch whose events belong to these shares of the totals, shape (n,).

        Returns for each event whether its customer is known to, shape (n,).
        """
        self._shares = shares
        self._numbers = self._totals.customers.known(batch.customer_names)
        known: NDArray[np.bool_] = self._totals.shares(self._numbers)[batch.customers] == shares
        return known

    def count(self, batch: Batch, meter: Meter, events: NDArray[np.int64]) -> None:
        """Count `events` of the batch that was begun, shape (n,), n > 0, into `meter`."""
        self._meters[meter.slug] = meter
        totals = self._totals
        quantities = batch.quantities(meter.value).take(events) if meter.value is not None else None
        columns = quantities, batch.times_ns[events], batch.received_ms[events]
        periods = batch.periods(meter.period)
        codes = batch.customers[events]
        if len(periods.starts_ms) > 1:
            codes = codes + periods.codes[events] * len(batch.customer_names)

        groups = Groups(codes)
        period, customer = np.divmod(groups.distinct, len(batch.customer_names))
        sheets = totals.sheets.numbers((meter.slug, ms) for ms in periods.starts_ms.tolist())
        customers = self._customer_numbers(batch, customer)
        usage_rows = totals.rows(sheets[period], customers, np.full(len(groups), ALL_GROUPS))
        usage = changes(meter.aggregation, groups, *columns)
        self._crosser.find(batch, meter, events, groups, quantities, usage_rows, usage)
        totals.merge(usage_rows, usage, meter.aggregation)
        self._touched.append(usage_rows)
        if not meter.group_by:
            return
        self._unpublished.append(usage_rows)

        combinations, texts = _combinations(batch, meter, events)
        groups_each = Groups(codes * len(texts) + combinations)
        usage_codes, combination = np.divmod(groups_each.distinct, len(texts))
        at = np.searchsorted(groups.distinct, usage_codes)
        occurring = Groups(combination)
        numbers = totals.groups.numbers(texts[code] for code in occurring.distinct.tolist())
        rows = totals.rows(sheets[period][at], customers[at], numbers[occurring.numbers])
        totals.merge(rows, changes(meter.aggregation, groups_each, *columns), meter.aggregation)
        self._touched.append(rows)

    @property
    def changed(self) -> ByShare:
        """The rows of totals that changed."""
        return self._totals.by_share(distinct(self._touched))

    def frames(self, changed: ByShare, versions: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
        """The totals that `changed`, as (share, frame), nearly always one a share.

        `versions` are of what was counted, by share.
        """
        rows, shares = changed
        if self._unpublished:
            rows, shares = self._totals.by_share(np.setdiff1d(rows, distinct(self._unpublished)))
        columns = published(self._totals, rows, self._meters)
        for share, begin, end in shares:
            for part in columns.parts(begin, end):
                yield share, seal(Kind.TOTALS, {"version": versions[share]}, [part])

    def _customer_numbers(self, batch: Batch, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of customers, given by their codes in the batch."""
        numbers = self._numbers[codes]
        new = codes[numbers < 0]
        if len(new):
            share_of = np.empty(len(self._numbers), dtype=np.int64)
            share_of[batch.customers] = self._shares
            names = batch.customer_names.take(pa.array(new))
            self._numbers[new] = self._totals.enter(names, share_of[new])
            numbers = self._numbers[codes]
        return numbers


def _combinations(
    batch: Batch, meter: Meter, events: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[tuple[str, ...]]]:
    """The group of each event as a code, and what the codes stand for."""
    dimensions = [batch.codes(f"dimension:{path}") for path in meter.group_by.values()]
    if len(dimensions) == 1:
        each, names = dimensions[0]
        return each[events], [(name,) for name in names]
    codes = np.zeros(len(events), dtype=np.int64)
    count = 1
    for each, names in dimensions:
        codes, count = codes * len(names) + each[events], count * len(names)
        if count > _COMBINATIONS_MAX:
            occurring, codes = np.unique(codes, return_inverse=True)
            count = len(occurring)
    _, firsts, codes = np.unique(codes, return_index=True, return_inverse=True)
    columns = [
        [names[code] for code in each[events[firsts]].tolist()] for each, names in dimensions
    ]
    return codes, list(zip(*columns, strict=True))
