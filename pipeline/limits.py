"""Thresholds: which ones a customer's usage crosses, and at which event.

Usage is a meter's value over all groups. A threshold fires at the first event, in the order of the
log, after which usage has reached it; once per customer, meter and period, also when usage falls
and rises again or the limit is changed later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from pipeline.aggregate import Tally
from schemas.definitions import Definitions
from schemas.meter import Aggregation
from schemas.plan import Limit, Plan, Threshold
from schemas.quantity import nanos, plain


@dataclass(frozen=True)
class Watched:
    """The limit of one plan on one meter, and its thresholds in nanos, lowest first."""

    plan: Plan
    limit: Limit
    thresholds: tuple[tuple[int, Threshold], ...]

    @property
    def limit_text(self) -> str:
        """The limit as a plain decimal string."""
        return plain(nanos(self.limit.limit))

    def lowest_open(self, fired: Set[Threshold]) -> int | None:
        """The lowest threshold that has not fired yet, in nanos."""
        return next((units for units, name in self.thresholds if name not in fired), None)


class Limits:
    """The limits of one version of the definitions, by customer and meter."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._by_plan = {
            plan.slug: {limit.meter: _watched(plan, limit) for limit in plan.limits}
            for plan in definitions.plans
        }

    def of(self, customer: str, meter: str) -> Watched | None:
        """What is watched of a customer's usage of a meter, None without a limit."""
        plan = self._definitions.plan_of(customer)
        return self._by_plan[plan.slug].get(meter) if plan is not None else None


def crossings(
    watched: Watched,
    fired: Set[Threshold],
    before: Tally | None,
    events: Sequence[Tally],
    aggregation: Aggregation,
) -> Iterator[tuple[int, Threshold, int]]:
    """Walk through single events: (position in `events`, threshold, usage in nanos) each crossing.

    `before` is the usage before the first of them and is left as it is.
    """
    running = replace(before) if before is not None else None
    open_thresholds = [pair for pair in watched.thresholds if pair[1] not in fired]
    for position, event in enumerate(events):
        if running is None:
            running = replace(event)
        else:
            running.merge(event, aggregation)
        while open_thresholds and running.value >= open_thresholds[0][0]:
            yield position, open_thresholds.pop(0)[1], running.value
        if not open_thresholds:
            return


def _watched(plan: Plan, limit: Limit) -> Watched:
    named = sorted({(limit.threshold_nanos(name), name) for name in limit.thresholds})
    return Watched(plan, limit, tuple(named))
