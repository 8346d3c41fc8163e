"""Reconciliation, the report: the chain as one row a meter and period, with what is open. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.periods import moment
from pipeline.reconcile import OUTCOMES
from pipeline.reconcile_bill import Lane, Settled
from pipeline.reconcile_chain import Seen, bounds, is_moving
from pipeline.reconcile_ledger import Positions
from pipeline.reconcile_totals import Key
from schemas.discrepancy import Difference
from schemas.quantity import plain
from schemas.reconciliation import (
    Ledger,
    NotChecked,
    OpenItem,
    Outcome,
    PeriodRow,
    Reconciliation,
)


@dataclass(frozen=True)
class InFlight:
    """Events that have not come through, by the stage that they wait for."""

    not_taken_in: int = 0
    not_decided: int = 0
    not_stored: int = 0


def report(
    seen: Seen,
    in_flight: InFlight,
    differences: Sequence[Difference],
    not_checked: Sequence[NotChecked],
    *,
    older_periods: int,
    at: datetime,
    limit: int,
) -> Reconciliation:
    """One look as one document; `differences` are those that are confirmed."""
    lanes = seen.bills.lanes()
    return Reconciliation(
        at=at,
        reconciled=not differences,
        ledger=None if seen.positions is None else _ledger(seen, seen.positions, in_flight),
        periods=tuple(_rows(seen, differences)),
        open_items=tuple(_open_items(lanes)),
        not_checked=tuple(not_checked),
        unsent=sum(settled.unsent.deltas for settled in lanes.values()),
        older_periods=older_periods,
        difference_count=len(differences),
        differences=tuple(differences[:limit]),
    )


def _ledger(seen: Seen, positions: Positions, in_flight: InFlight) -> Ledger:
    def counted(outcomes: Mapping[tuple[int, str], tuple[int, int]], wanted: str) -> int:
        return sum(tally[0] for (_, outcome), tally in outcomes.items() if outcome == wanted)

    return Ledger(
        first=positions.first,
        cut=positions.cut,
        input=sum(tally.events for tally in positions.input.values()),
        outcomes=tuple(
            Outcome(
                outcome=outcome,
                kafka=counted(positions.outcomes, outcome),
                clickhouse=counted(seen.outcomes, outcome),
            )
            for outcome in OUTCOMES
        ),
        not_taken_in=in_flight.not_taken_in,
        not_decided=in_flight.not_decided,
        not_stored=in_flight.not_stored,
    )


def _rows(seen: Seen, differences: Sequence[Difference]) -> Iterator[PeriodRow]:
    lanes: dict[Key, list[Lane]] = {}
    for lane in seen.bills.lanes():
        lanes.setdefault(lane.key, []).append(lane)
    rows: dict[tuple[str, int], set[Key]] = {}
    for key in seen.stored.keys() | seen.totals.usages.keys() | lanes.keys():
        rows.setdefault((key.meter, key.start_ms), set()).add(key)
    broken: dict[tuple[str | None, datetime | None], set[str | None]] = {}
    for difference in differences:
        place = (difference.meter, difference.period_start)
        broken.setdefault(place, set()).add(difference.customer)
    at_stripe = _at_stripe(seen)
    for (meter, start_ms), keys in sorted(rows.items()):
        own = [lane for key in keys for lane in lanes.get(key, ())]
        yield _row(seen, meter, start_ms, keys, own, at_stripe, broken)


def _row(
    seen: Seen,
    meter: str,
    start_ms: int,
    keys: set[Key],
    lanes: Sequence[Lane],
    at_stripe: Mapping[Lane, int],
    broken: Mapping[tuple[str | None, datetime | None], set[str | None]],
) -> PeriodRow:
    stored = {key: usage for key in keys if (usage := seen.usage(key)) is not None}
    newest = {
        key: history.values[-1].units
        for key in keys
        if (history := seen.totals.usages.get(key)) is not None
    }
    settled = [seen.bills.lanes()[lane] for lane in lanes]
    ends_ms = [usage.end_ms for usage in stored.values()] or [
        *(seen.totals.ends_ms[key] for key in newest),
        *(one.end_ms for one in settled),
    ]
    recomputed: int | None = None
    if meter in seen.recomputed:
        again = [seen.recomputed[meter].get(key) for key in keys]
        units = [0 if one is None else one.units for one in again]
        recomputed = None if None in units else sum(unit or 0 for unit in units)
    definition = seen.definitions.meters_by_slug.get(meter)
    is_billed = bool(lanes) or (definition is not None and definition.stripe is not None)
    billable = sum(
        newest[key] if key in newest else stored[key].units
        for key in newest.keys() | stored.keys()
        if seen.is_billed(key)
    )

    def of_bills(units: int) -> str | None:
        return plain(units) if is_billed else None

    return PeriodRow(
        meter=meter,
        period_start=moment(start_ms),
        period_end=moment(ends_ms[0]),
        customers=len(keys),
        recomputed=None if recomputed is None else plain(recomputed),
        clickhouse=plain(sum(usage.units for usage in stored.values())),
        kafka=plain(sum(newest.values())) if newest.keys() == keys else None,
        billable=of_bills(billable),
        frozen=of_bills(sum(one.frozen.units for one in settled)),
        delivered=of_bills(sum(one.all_delivered for one in settled)),
        set_aside=of_bills(sum(one.held.units + one.refused.units for one in settled)),
        stripe=_summed(at_stripe, lanes) if is_billed else None,
        moving=sum(is_moving(seen, key) for key in keys),
        differences=len(broken.get((meter, moment(start_ms)), ())),
    )


def _summed(at_stripe: Mapping[Lane, int], lanes: Sequence[Lane]) -> str | None:
    """What Stripe has, unless it was not asked for one of `lanes`."""
    if not all(lane in at_stripe for lane in lanes):
        return None
    return plain(sum(at_stripe[lane] for lane in lanes))


def _at_stripe(seen: Seen) -> dict[Lane, int]:
    """Stripe's sums by lane, in nanos, where Stripe was asked. Lanes of one Stripe meter share a
    sum: each is given what was delivered of it, and the first one what the sum has besides.
    """
    sums: dict[Lane, int] = {}
    summaries = seen.summaries or {}
    for window, (lanes, settled) in seen.bills.windows().items():
        if window not in summaries:
            continue
        sums |= {lane: seen.bills.lanes()[lane].all_delivered for lane in lanes}
        gap = summaries[window] - settled.all_delivered
        # Below this it is the rounding of binary floats.
        if abs(gap) > bounds(settled)[2]:
            sums[lanes[0]] += gap
    return sums


def _open_items(lanes: Mapping[Lane, Settled]) -> Iterator[OpenItem]:
    for lane, settled in sorted(lanes.items(), key=lambda item: item[0]):
        for outcome, found in (("held", settled.held), ("refused", settled.refused)):
            if found.deltas:
                reason, remedy = settled.why[outcome]
                yield OpenItem(
                    customer=lane.key.customer,
                    meter=lane.key.meter,
                    period_start=moment(lane.key.start_ms),
                    outcome=outcome,
                    deltas=found.deltas,
                    value=plain(found.units),
                    reason=reason,
                    remedy=remedy,
                )
