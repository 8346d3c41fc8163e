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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text_numbering import TextNumbering
from schemas.definitions import Definitions
from schemas.plan import Limit, Plan, Threshold
from schemas.quantity import nanos, plain

NO_PLAN = 0


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
    """The limits of one version of the definitions, by plan and meter.

    Plans have numbers, `NO_PLAN` is that of none.
    """

    def __init__(self, definitions: Definitions) -> None:
        self._by_number: list[dict[str, Watched]] = [{}]
        numbers: dict[str | None, int] = {None: NO_PLAN}
        for plan in definitions.plans:
            numbers[plan.slug] = len(self._by_number)
            self._by_number.append({limit.meter: _watched(plan, limit) for limit in plan.limits})
        plans = map(definitions.plan_of, definitions.customers_by_id)
        #: Of each listed customer; the last one is of all who are not, and whose number is -1.
        self._plans = np.array(
            [
                *(numbers[plan.slug if plan else None] for plan in plans),
                numbers[definitions.default_plan],
            ]
        )
        self._listed = TextNumbering()
        self._listed.numbers(pa.array(list(definitions.customers_by_id), pa.string()))
        self._knows_all = definitions.default_plan is not None

    def knows(self, customers: pa.Array) -> NDArray[np.bool_]:
        """Whether usage of n customers counts, or is parked as unknown; shape (n,)."""
        if self._knows_all:
            return np.ones(len(customers), dtype=np.bool_)
        known: NDArray[np.bool_] = self._listed.known(customers) >= 0
        return known

    def plans(self, customers: pa.Array) -> NDArray[np.int64]:
        """The numbers of the plans of n customers, shape (n,)."""
        plans: NDArray[np.int64] = self._plans[self._listed.known(customers)]
        return plans

    def of(self, plan: int, meter: str) -> Watched | None:
        """What is watched of the usage of a meter under a plan, None without a limit."""
        return self._by_number[plan].get(meter)


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
