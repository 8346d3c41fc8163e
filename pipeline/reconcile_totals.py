"""Reconciliation, totals: every value that a total had since its readers last confirmed. Pure.

A reader downstream may be behind, and be ahead of the position that it has confirmed. So what it
has is right if the total had that value at the confirmed position, or at any later one. That is
exact and needs no standstill: a value that the total never had, or had only before, is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from schemas.frame import Frame
from schemas.quantity import from_plain


class Key(NamedTuple):
    """Whose total it is, over all groups."""

    customer: str
    meter: str
    start_ms: int


@dataclass(frozen=True)
class Selection:
    """What is looked at: periods that begin in [from_ms, until_ms), of one customer or of all."""

    from_ms: int = 0
    until_ms: int = 2**62
    customer: str | None = None

    def has(self, customer: str, start_ms: int) -> bool:
        """Whether a customer's period is looked at."""
        return self.from_ms <= start_ms < self.until_ms and self.customer in (None, customer)


class Stored(NamedTuple):
    """A total as ClickHouse has it; `units` and `usage` in nanos."""

    version: int
    events: int
    units: int
    usage: int
    end_ms: int


class Recomputed(NamedTuple):
    """A total over all groups, counted anew from ClickHouse's events, beside the stored one.

    `units` is None where ClickHouse cannot tell it exactly. `newest` is the version of the last
    event and `definitions` what it was cut by, `counted` how many events the stored total counts; 0
    where there is no such total.
    """

    events: int
    units: int | None
    newest: int
    version: int
    counted: int
    usage: int
    definitions: str = ""


class Named(NamedTuple):
    """What one version of the definitions counts, and what and whom it bills."""

    meters: Set[str]
    billed_meters: Set[str]
    billed_customers: Set[str]

    def bills(self, key: Key) -> bool:
        """Whether a total is billed by it."""
        return key.meter in self.billed_meters and key.customer in self.billed_customers


class Value(NamedTuple):
    """What a total was after the record at `offset` of usage.totals; `units` in nanos."""

    offset: int
    version: int
    units: int


@dataclass
class History:
    """What one total has been; the oldest kept value may be one from before all positions."""

    shard: int
    values: list[Value] = field(default_factory=list)

    def since(self, position: int) -> list[Value]:
        """The value at a position (None if nothing was kept), and all later ones."""
        return self.values[self._begin(position) :]

    def had(self, position: int) -> bool:
        """Whether there was a value before a position."""
        return bool(self.values) and self.values[0].offset < position

    def prune(self, position: int) -> None:
        """Forget what no reader at `position` or later can have."""
        del self.values[: self._begin(position)]

    def _begin(self, position: int) -> int:
        before = [n for n, value in enumerate(self.values) if value.offset < position]
        return before[-1] if before else 0


Name = TypeVar("Name")


class Totals:
    """A fold over usage.totals of the selected periods."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        #: Over all groups, and of each group.
        self.usages: dict[Key, History] = {}
        self.groups: dict[tuple[Key, str], History] = {}
        self.ends_ms: dict[Key, int] = {}

    def take(self, shard: int, offset: int, frame: Frame) -> None:
        """Take in the next record of a shard."""
        version = frame.header["version"]
        for key, end_ms, group, value, usage in _rows(frame):
            if not self._has(key):
                continue
            self.ends_ms[key] = end_ms
            _append(self.groups, (key, group), shard, Value(offset, version, from_plain(value)))
            _append(self.usages, key, shard, Value(offset, version, from_plain(usage)))

    def select(self, selection: Selection) -> None:
        """Go on with other periods, of those selected so far; the rest is dropped."""
        self._selection = selection
        self.usages = {key: of for key, of in self.usages.items() if self._has(key)}
        self.groups = {name: of for name, of in self.groups.items() if self._has(name[0])}
        self.ends_ms = {key: end_ms for key, end_ms in self.ends_ms.items() if self._has(key)}

    def prune(self, positions: Iterable[Mapping[int, int]]) -> None:
        """Forget what is older than all `positions`, each shard → offset."""
        lowest: dict[int, int] = {}
        for position in positions:
            for shard, offset in position.items():
                lowest[shard] = min(offset, lowest.get(shard, offset))
        for history in [*self.usages.values(), *self.groups.values()]:
            history.prune(lowest.get(history.shard, 0))

    def _has(self, key: Key) -> bool:
        return self._selection.has(key.customer, key.start_ms)


def matches(
    history: History | None, position: int, units: int, version: int | None = None
) -> tuple[bool, int]:
    """Whether a reader at `position` may have `units`, and what it should have, both in nanos.

    With a `version` the value must be the one of that version.
    """
    values = history.since(position) if history is not None else []
    for value in values:
        if value.units == units and version in (None, value.version):
            return True, units
    return False, values[0].units if values else 0


def _append(histories: dict[Name, History], name: Name, shard: int, value: Value) -> None:
    history = histories.get(name)
    if history is None:
        history = histories[name] = History(shard)
    # Several groups of one record say the same usage.
    if not history.values or history.values[-1] != value:
        history.values.append(value)


def _rows(frame: Frame) -> Iterator[tuple[Key, int, str, str, str]]:
    for part in frame.parts:
        customers, meters, groups, values, usages = (
            part.column(name).to_pylist()
            for name in ("customer", "meter", "group", "value", "usage")
        )
        starts, ends = (
            part.column(name).cast("int64").to_pylist() for name in ("period_start", "period_end")
        )
        yield from zip(
            map(Key, customers, meters, starts), ends, groups, values, usages, strict=True
        )


def rounding_nanos(addends: int, magnitude_nanos: int) -> int:
    """How far a sum in binary floats may be from the exact one, in nanos, rounded up.

    Each of the `addends` becomes a double once and is added once, and each of these steps rounds by
    at most 2^-53 of what it yields, which is at most the sum of magnitudes (and the steps before
    it, of second order, for which one more is counted). So: 2 (n + 1) 2^-53 of the sum of
    magnitudes. A difference below this cannot be seen in Stripe's summaries.
    """
    return math.ceil((addends + 1) * magnitude_nanos / 2**52)
