"""Reconciliation, bills: deltas frozen, what became of each, and what Stripe must have. Pure.

A delta counts towards what Stripe must have when its delivery is confirmed and old enough to be in
Stripe's summaries, which lag. Before that Stripe may have it or not, and the same holds for ever
for a held one; so Stripe's sum may lie anywhere between. What was refused of a total Stripe has
not, until all of it was sent by hand, as its remedy says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipeline.bill import identifier
from pipeline.periods import DAY_MS, PERIOD_DAYS_MAX
from pipeline.reconcile_totals import Key, Selection
from schemas.billing import Delivery, Delta
from schemas.quantity import from_plain

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Lane(NamedTuple):
    """What is billed of one total, and under which names at Stripe."""

    key: Key
    stripe_customer_id: str
    event_name: str


class Window(NamedTuple):
    """What one meter event summary adds up."""

    stripe_customer_id: str
    event_name: str
    start_ms: int
    end_ms: int


@dataclass
class Sum:
    """Of deltas, in nanos. `below` and `above` are the parts that are negative and positive."""

    deltas: int = 0
    below: int = 0
    above: int = 0

    @property
    def units(self) -> int:
        """The exact sum."""
        return self.below + self.above

    def add(self, units: int, deltas: int = 1) -> None:
        """Add a delta."""
        self.deltas += deltas
        self.below += min(units, 0)
        self.above += max(units, 0)

    def add_all(self, other: Sum) -> None:
        """Add other deltas."""
        self.deltas += other.deltas
        self.below += other.below
        self.above += other.above


@dataclass
class Settled:
    """A lane's deltas by what became of them; `why` is the last (reason, remedy) of each."""

    end_ms: int
    frozen: Sum = field(default_factory=Sum)
    #: In Stripe's summaries by now, and delivered less long ago.
    delivered: Sum = field(default_factory=Sum)
    recent: Sum = field(default_factory=Sum)
    held: Sum = field(default_factory=Sum)
    refused: Sum = field(default_factory=Sum)
    #: Not confirmed: perhaps sent, perhaps not.
    unsent: Sum = field(default_factory=Sum)
    #: Instead of `refused` in one of Stripe's sums: that of each total, as it is sent by hand.
    refused_by_total: list[Sum] = field(default_factory=list)
    why: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def all_delivered(self) -> int:
        """What Stripe took, in nanos."""
        return self.delivered.units + self.recent.units


class Fault(NamedTuple):
    """A delta or a delivery without its counterpart; `expected` and `found` in nanos."""

    identifier: str
    key: Key
    expected: int
    found: int


class _Frozen(NamedTuple):
    shard: int
    offset: int
    lane: Lane
    units: int


class Bills:
    """A fold over usage.outbox and usage.deliveries.

    Deliveries must be taken up to their end before the outbox is, so that each one's delta is
    known. Keeps what is not final; the rest only as sums. Besides what is selected it takes what
    may share one of Stripe's sums with it: other customers may be the same one to Stripe, and other
    periods within the same longer one of a meter. Of that it tells nothing else.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._lanes: dict[Lane, Settled] = {}
        #: Those of them that were asked for.
        self._selected: dict[Lane, Settled] = {}
        self._frozen: dict[str, _Frozen] = {}
        self._deliveries: dict[str, Delivery] = {}
        self._sequences: dict[Key, int] = {}
        #: Deltas that were delivered with another value. Kept, as every look must see them.
        self._changed: dict[str, Fault] = {}

    def select(self, selection: Selection) -> None:
        """Go on with other periods, of those selected so far; what is not near them is dropped."""
        self._selection = selection
        near = self._is_near
        self._lanes = {lane: of for lane, of in self._lanes.items() if near(lane.key.start_ms)}
        self._selected = {lane: of for lane, of in self._lanes.items() if self._has(lane.key)}
        self._frozen = {
            name: delta for name, delta in self._frozen.items() if near(delta.lane.key.start_ms)
        }
        self._deliveries = {
            name: delivery
            for name, delivery in self._deliveries.items()
            if near(milliseconds(delivery.period_start))
        }
        self._sequences = {key: of for key, of in self._sequences.items() if near(key.start_ms)}
        self._changed = {
            name: fault for name, fault in self._changed.items() if near(fault.key.start_ms)
        }

    def take_delivery(self, delivery: Delivery) -> None:
        """The next record of usage.deliveries of a partition; a later one of a delta replaces."""
        if self._is_near(milliseconds(delivery.period_start)):
            self._deliveries[delivery.identifier] = delivery

    def take_delta(self, shard: int, offset: int, delta: Delta) -> None:
        """The next record of usage.outbox of a shard."""
        key = Key(delta.customer, delta.meter, milliseconds(delta.period_start))
        if not self._is_near(key.start_ms):
            return
        lane = Lane(key, delta.stripe_customer_id, delta.event_name)
        units = from_plain(delta.value)
        settled = self._lanes.setdefault(lane, Settled(milliseconds(delta.period_end)))
        settled.frozen.add(units)
        if self._has(key):
            self._selected[lane] = settled
        self._sequences[key] = max(self._sequences.get(key, 0), delta.sequence + 1)
        self._frozen[delta.identifier] = _Frozen(shard, offset, lane, units)

    def lanes(self) -> Mapping[Lane, Settled]:
        """Every selected lane, as of the last `settle`."""
        return self._selected

    def frozen_by_key(self) -> dict[Key, int]:
        """What has been frozen of each selected total, in nanos."""
        sums: dict[Key, int] = {}
        for lane, settled in self._selected.items():
            sums[lane.key] = sums.get(lane.key, 0) + settled.frozen.units
        return sums

    def settle(self, confirmed: Mapping[int, int], summarised_until_ms: int) -> list[Fault]:
        """Sort the deltas by what became of them; what is not as it must be of those selected.

        `confirmed` is the position of the Stripe sink in each shard of the outbox. What was
        delivered before `summarised_until_ms` is in Stripe's summaries.
        """
        for settled in self._lanes.values():
            settled.recent, settled.unsent = Sum(), Sum()
        faults = []
        for name, delta in list(self._frozen.items()):
            delivery = self._deliveries.get(name)
            settled = self._lanes[delta.lane]
            is_confirmed = delta.offset < confirmed.get(delta.shard, 0)
            if delivery is None:
                settled.unsent.add(delta.units)
                if is_confirmed:
                    faults.append(Fault(name, delta.lane.key, delta.units, 0))
                continue
            sent = from_plain(delivery.value)
            if sent != delta.units:
                self._changed[name] = Fault(name, delta.lane.key, delta.units, sent)
            else:
                self._changed.pop(name, None)
            if not is_confirmed:
                settled.unsent.add(delta.units)
            elif delivery.outcome != "delivered":
                (settled.held if delivery.outcome == "held" else settled.refused).add(delta.units)
                settled.why[delivery.outcome] = (delivery.reason, delivery.remedy)
                self._forget(name)
            elif milliseconds(delivery.at) >= summarised_until_ms:
                settled.recent.add(delta.units)
            else:
                settled.delivered.add(delta.units)
                self._forget(name)
        faults += self._changed.values()
        faults += self._never_frozen()
        return [fault for fault in faults if self._has(fault.key)]

    def windows(self) -> dict[Window, tuple[list[Lane], Settled]]:
        """What each summary must have: the selected lanes in it, and the deltas of all in it.

        One without a selected lane is left out. Meters may share a Stripe meter. A period within a
        longer one of the same Stripe meter has no summary of its own: there the longer one's usage
        would be in it. What was refused of a total counts in each of its windows: by hand it is
        sent to whom it should have been.
        """
        spans: dict[tuple[str, str], set[tuple[int, int]]] = {}
        for lane, settled in self._lanes.items():
            spans.setdefault(lane[1:], set()).add((lane.key.start_ms, settled.end_ms))
        refused: dict[tuple[Key, str], Sum] = {}
        for lane, settled in self._lanes.items():
            if settled.refused.deltas:
                refused.setdefault((lane.key, lane.event_name), Sum()).add_all(settled.refused)
        found: dict[Window, tuple[list[Lane], Settled]] = {}
        for lane, settled in self._lanes.items():
            start_ms, end_ms = max(
                (span for span in spans[lane[1:]] if _contains(span, lane.key, settled.end_ms)),
                key=lambda span: span[1] - span[0],
            )
            window = Window(*lane[1:], start_ms, end_ms)
            lanes, together = found.setdefault(window, ([], Settled(end_ms)))
            if lane in self._selected:
                lanes.append(lane)
            for name in ("frozen", "delivered", "recent", "held", "unsent"):
                getattr(together, name).add_all(getattr(settled, name))
            if of_total := refused.get((lane.key, lane.event_name)):
                together.refused_by_total.append(of_total)
        return {window: summed for window, summed in found.items() if summed[0]}

    def _has(self, key: Key) -> bool:
        return self._selection.has(key.customer, key.start_ms)

    def _is_near(self, start_ms: int) -> bool:
        selection, period_ms = self._selection, PERIOD_DAYS_MAX * DAY_MS
        return selection.from_ms - period_ms < start_ms < selection.until_ms + period_ms

    def _forget(self, name: str) -> None:
        del self._frozen[name], self._deliveries[name]

    def _never_frozen(self) -> Iterator[Fault]:
        """Deliveries of no delta; a delta that was settled may be delivered again by a zombie."""
        for name, delivery in list(self._deliveries.items()):
            if name in self._frozen:
                continue
            start_ms = milliseconds(delivery.period_start)
            key = Key(delivery.customer, delivery.meter, start_ms)
            names = (
                identifier(key.meter, key.customer, key.start_ms, sequence)
                for sequence in range(self._sequences.get(key, 0))
            )
            if name in names:
                del self._deliveries[name]
            else:
                yield Fault(name, key, 0, from_plain(delivery.value))


def _contains(span: tuple[int, int], key: Key, end_ms: int) -> bool:
    return span[0] <= key.start_ms and end_ms <= span[1]


def milliseconds(instant: datetime) -> int:
    """A time in milliseconds since 1970."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)
