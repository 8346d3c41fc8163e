"""Thresholds: which ones a customer's usage crosses, and at which event.

Usage is a meter's value over all groups. A threshold fires at the first event, in the order of the
log, after which usage has reached it; once per customer, meter and period, also when usage falls
and rises again or the limit is changed later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from schemas.definitions import Definitions
from schemas.plan import Limit, Plan, Threshold
from schemas.quantity import nanos, plain


@dataclass(frozen=True)
class Watched:
    """The limit of one plan on one meter, and its thresholds in nanos, lowest first."""

    plan: Plan
    limit: Limit
    thresholds: tuple[tuple[int, Threshold], ...]

    @cached_property
    def limit_text(self) -> str:
        """The limit as a plain decimal string."""
        return plain(nanos(self.limit.limit))

    def lowest_open(self, fired: Collection[Threshold]) -> int | None:
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


class Crossing(NamedTuple):
    """The event at `position` brings `usage` to a threshold, which stands at `least`; in nanos."""

    position: int
    least: int
    threshold: Threshold
    usage: int


def crossings(
    watched: Watched, fired: Collection[Threshold], usages: Iterable[int]
) -> Iterator[Crossing]:
    """What is crossed by events after which usage is as `usages` say, in nanos, one by one."""
    is_open = deque(pair for pair in watched.thresholds if pair[1] not in fired)
    for position, usage in enumerate(usages):
        while is_open and usage >= is_open[0][0]:
            least, threshold = is_open.popleft()
            yield Crossing(position, least, threshold, usage)
        if not is_open:
            return


def _watched(plan: Plan, limit: Limit) -> Watched:
    named = sorted({(limit.threshold_nanos(name), name) for name in limit.thresholds})
    return Watched(plan, limit, tuple(named))
