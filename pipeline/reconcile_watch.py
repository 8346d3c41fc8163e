"""Reconciliation, continuously: which differences to tell of, once while they last. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pipeline.reconcile_bill import milliseconds
from pipeline.reconcile_chain import Seen
from pipeline.reconcile_totals import Selection
from schemas.discrepancy import Difference, Discrepancy

#: Ends the sentence of a difference of which nobody can tell whether it was mended.
_LEFT = " Its period is not looked at any more."


def changes(
    told: Mapping[str, Discrepancy],
    before: Collection[str] | None,
    now: Sequence[Difference],
    seen: Seen,
    first: Selection,
    selection: Selection,
    at: datetime,
) -> list[Discrepancy]:
    """What to publish after a look.

    A difference is told of when two looks in a row have it, and resolved when two in a row do not:
    what is only on its way alarms nobody. `told` are those that are open by what was published, by
    key; `before` are the keys that the look before had, None for the first one. What the `first`
    look selected and this one does not, as time has passed, is resolved as well, and says so.
    """
    if before is None:
        return []
    opened = [
        _discrepancy(difference, "open", at)
        for difference in now
        if difference.key in before and difference.key not in told
    ]
    there = {difference.key for difference in now} | set(before)
    gone = [discrepancy for key, discrepancy in told.items() if key not in there]
    resolved = [
        _discrepancy(discrepancy, "resolved", at)
        for discrepancy in gone
        if _is_looked_at(discrepancy, seen, selection)
    ]
    past = replace(first, until_ms=selection.from_ms)
    left = [
        _discrepancy(discrepancy, "resolved", at, _LEFT)
        for discrepancy in gone
        if discrepancy.period_start is not None and _is_looked_at(discrepancy, seen, past)
    ]
    return opened + resolved + left


def _is_looked_at(discrepancy: Discrepancy, seen: Seen, selection: Selection) -> bool:
    """Whether a difference could have been seen: another check may have told of it."""
    if discrepancy.customer is None or discrepancy.period_start is None:
        return seen.positions is not None
    if discrepancy.link == "stripe" and seen.summaries is None:
        return False
    if discrepancy.link == "recomputed" and discrepancy.meter not in seen.recomputed:
        return False
    return selection.has(discrepancy.customer, milliseconds(discrepancy.period_start))


def _discrepancy(difference: Difference, state: str, at: datetime, why: str = "") -> Discrepancy:
    sentence = f"{difference.sentence}{why}"
    fields = difference.model_dump() | {"sentence": sentence, "state": state, "at": at}
    return Discrepancy.model_validate(fields)
