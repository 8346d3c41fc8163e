"""Reconciliation of the whole chain on a running system: what each link has, compared. Pure.

In flight is no difference. Positions of usage.events are compared below a cut that all of them have
passed (`reconcile_ledger`), a total with every value it had since its reader's confirmed position
(`reconcile_totals`), and Stripe's sums with what must and what may be in them (`reconcile_bill`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, combinations

from pipeline.difference import instant, shown
from pipeline.overrun import READERS, REMEDY, Overrun
from pipeline.periods import moment
from pipeline.reconcile import OUTCOMES
from pipeline.reconcile_bill import Bills, Fault, Settled, Sum, Window
from pipeline.reconcile_ledger import Outcomes, Positions, Tally
from pipeline.reconcile_totals import (
    Key,
    Named,
    Recomputed,
    Stored,
    Totals,
    matches,
    rounding_nanos,
)
from pipeline.route import Router
from schemas.definitions import Definitions
from schemas.discrepancy import Difference, Link
from schemas.quantity import plain

#: Of up to this many totals every choice is tried of those that were sent to Stripe by hand.
_CHOSEN_FROM_MAX = 10


@dataclass(frozen=True)
class Confirmed:
    """How far each reader has confirmed its topic: shard → the next offset it will read."""

    #: The ClickHouse sink on usage.metered and usage.totals.
    events: Mapping[int, int]
    totals: Mapping[int, int]
    #: Bill on usage.totals, and the Stripe sink on usage.outbox.
    billed: Mapping[int, int]
    sent: Mapping[int, int]


@dataclass(frozen=True)
class Seen:
    """What one look at a running system saw."""

    definitions: Definitions
    router: Router
    confirmed: Confirmed
    #: None where one customer is looked at: a rejection has none.
    positions: Positions | None
    outcomes: Outcomes
    totals: Totals
    #: Shards of usage.totals from which Kafka has deleted old records.
    shortened: frozenset[int]
    stored: Mapping[Key, Mapping[str, Stored]]
    #: Only of meters that can be counted anew.
    recomputed: Mapping[str, Mapping[Key, Recomputed]]
    bills: Bills
    faults: Sequence[Fault]
    #: What has been frozen of each total, in nanos.
    frozen: Mapping[Key, int]
    #: Stripe's sums in nanos; None where Stripe was not asked.
    summaries: Mapping[Window, int] | None
    #: Event names that were delivered to, and have no meter at Stripe.
    without_meter: Set[str] = frozenset()
    #: Every version of the definitions that was counted by.
    versions: Mapping[str, Named] = field(default_factory=dict)
    #: Not looked for where one customer is looked at.
    overruns: Sequence[Overrun] = ()

    def usage(self, key: Key) -> Stored | None:
        """ClickHouse's total over all groups: the newest row has it."""
        groups = self.stored.get(key)
        if not groups:
            return None
        newest = max(groups.values(), key=lambda total: total.version)
        events = sum(total.events for total in groups.values())
        return newest._replace(events=events, units=newest.usage)

    def is_billed(self, key: Key) -> bool:
        """Whether a total is billed by the definitions of now."""
        meter = self.definitions.meters_by_slug.get(key.meter)
        customer = self.definitions.customers_by_id.get(key.customer)
        return bool(meter and meter.stripe and customer and customer.stripe_customer_id)

    def is_left_out(self, key: Key) -> bool:
        """Whether a total is billed by the definitions of now, and was not by those of its last
        event: bill freezes it with its next one, which may never come.
        """
        again = self.recomputed.get(key.meter, {}).get(key)
        version = self.versions.get(again.definitions) if again is not None else None
        return version is not None and self.is_billed(key) and not version.bills(key)


def differences(seen: Seen) -> Iterator[Difference]:
    """Every difference, in the order of the chain."""
    yield from map(_overrun, seen.overruns)
    if seen.positions is not None:
        yield from _input(seen.positions)
        yield from _stored(seen.positions, seen.outcomes)
    for slug, found in seen.recomputed.items():
        yield from _recomputed(seen, slug, found)
    yield from _totals(seen)
    yield from _frozen(seen)
    for fault in seen.faults:
        yield _of_total(
            "sent", fault.key, fault.expected, fault.found, _of_fault(fault), fault.identifier
        )
    yield from _stripe(seen)


def is_moving(seen: Seen, key: Key) -> bool:
    """Whether a total is on its way somewhere, so that sums over customers may differ by it."""
    usage = seen.usage(key)
    history = seen.totals.usages.get(key)
    newest = history.values[-1].units if history else None
    if newest is not None and (usage is None or usage.units != newest):
        return True
    if _is_ahead(seen, key):
        return True
    if not seen.is_billed(key) or seen.is_left_out(key):
        return False
    return newest is not None and seen.frozen.get(key, 0) != newest


def left_out(seen: Seen) -> Iterator[tuple[str, Sequence[tuple[Key, int]]]]:
    """By meter the totals that bill leaves out, and what is not frozen of each, in nanos."""
    for slug, found in seen.recomputed.items():
        gaps = [
            (key, usage.units - seen.frozen.get(key, 0))
            for key in sorted(found)
            if seen.is_left_out(key) and (usage := seen.usage(key)) is not None
        ]
        if missing := [(key, gap) for key, gap in gaps if gap]:
            yield slug, missing


def unreadable(found: Mapping[Key, Recomputed]) -> int:
    """How many totals have a value that ClickHouse cannot read exactly."""
    return sum(total.units is None for total in found.values())


def _overrun(overrun: Overrun) -> Difference:
    stage, topic, partition, position, begin = overrun
    link = READERS[stage][topic]
    return Difference(
        key=f"{link}/{stage}/{topic}/{partition}",
        link=link,
        sentence=f"{overrun}. {REMEDY}",
        expected=str(begin - position),
        found="0",
    )


def _input(positions: Positions) -> Iterator[Difference]:
    for partition in sorted(positions.cut):
        sent = positions.input.get(partition, Tally())
        ended = Tally()
        for outcome in OUTCOMES:
            ended = ended.plus(*positions.outcomes.get((partition, outcome), Tally()))
        yield from _of_positions(
            "input", f"input/{partition}", f"usage.events partition {partition}: ", sent, ended,
            ("positions", "have an outcome in Kafka"),
        )  # fmt: skip


def _stored(positions: Positions, outcomes: Outcomes) -> Iterator[Difference]:
    for partition in sorted(positions.cut):
        for outcome in OUTCOMES:
            yield from _of_positions(
                "stored", f"stored/{partition}/{outcome}",
                f"{outcome}, usage.events partition {partition}: ",
                positions.outcomes.get((partition, outcome), Tally()),
                outcomes.get((partition, outcome), Tally()),
                ("in Kafka", "in ClickHouse"),
            )  # fmt: skip


def _of_positions(
    link: Link, key: str, where: str, expected: Tally, found: Tally, words: tuple[str, str]
) -> Iterator[Difference]:
    if expected == found:
        return
    sentence = f"{where}{expected.events:,} {words[0]}, {found.events:,} {words[1]}"
    if expected.events == found.events:
        sentence += ", but not the same ones: what was lost is as much as what was doubled"
    yield Difference(
        key=key,
        link=link,
        sentence=f"{sentence}.",
        expected=str(expected.events),
        found=str(found.events),
    )


def _recomputed(seen: Seen, slug: str, found: Mapping[Key, Recomputed]) -> Iterator[Difference]:
    for key in sorted(found.keys() | {key for key in seen.stored if key.meter == slug}):
        if _is_ahead(seen, key):
            continue
        again = found.get(key)
        if again is None:
            usage = seen.usage(key)
            assert usage is not None
            again = Recomputed(0, 0, 0, usage.version, usage.events, usage.units)
        if again.units is None:
            continue
        if (again.events, again.units) != (again.counted, again.usage):
            yield _of_total(
                "recomputed", key, again.units, again.usage,
                f"ClickHouse's events make {plain(again.units)} ({again.events:,} events), its "
                f"total is {plain(again.usage)} ({again.counted:,} events)",
            )  # fmt: skip


def _is_ahead(seen: Seen, key: Key) -> bool:
    """Whether a total in ClickHouse, or an event without one, is ahead of what is confirmed."""
    shard = seen.router[key.customer]
    again = seen.recomputed.get(key.meter, {}).get(key)
    usage = seen.usage(key)
    version = max(again.version if again else 0, usage.version if usage else 0)
    if version >= seen.confirmed.events.get(shard, 0):
        return True
    if again is not None and not again.counted:
        history = seen.totals.usages.get(key)
        behind = seen.confirmed.totals.get(shard, 0)
        return history is not None and history.values[-1].offset >= behind
    return False


def _totals(seen: Seen) -> Iterator[Difference]:
    stored = {
        (key, group): total
        for key, groups in seen.stored.items()
        for group, total in groups.items()
    }
    for key, group in sorted(stored.keys() | seen.totals.groups.keys()):
        shard = seen.router[key.customer]
        position = seen.confirmed.totals.get(shard, 0)
        history = seen.totals.groups.get((key, group))
        total = stored.get((key, group))
        if total is None:
            if history is not None and history.had(position):
                expected = history.since(position)[0].units
                yield _of_total(
                    "totals", key, 0, expected,
                    f"ClickHouse has no total, Kafka's is {plain(expected)}", group,
                )  # fmt: skip
            continue
        right, expected = matches(history, position, total.units, total.version)
        is_kept = history is not None and history.had(position)
        if right or (shard in seen.shortened and not is_kept):
            continue
        has = f"Kafka's is {plain(expected)}" if history else "Kafka has none"
        yield _of_total(
            "totals", key, total.units, expected,
            f"ClickHouse's total is {plain(total.units)}, {has}", group,
        )  # fmt: skip


def _frozen(seen: Seen) -> Iterator[Difference]:
    for key in sorted(seen.totals.usages.keys() | seen.stored.keys() | seen.frozen.keys()):
        if not seen.is_billed(key):
            # What was frozen under earlier definitions stays, and is compared with Stripe only.
            continue
        shard = seen.router[key.customer]
        position = seen.confirmed.billed.get(shard, 0)
        units = seen.frozen.get(key, 0)
        history = seen.totals.usages.get(key)
        usage = seen.usage(key)
        if history is None and usage is not None:
            # Kafka keeps it no more, so it has not changed for a long time.
            right, expected = units == usage.units, usage.units
        elif history is not None and not history.had(position) and shard not in seen.shortened:
            right, expected = units == 0 or matches(history, position, units)[0], 0
        elif history is not None and not history.had(position):
            continue  # Its value at the position is kept no more, and it has changed since.
        else:
            right, expected = matches(history, position, units)
        if not right and not seen.is_left_out(key):
            yield _of_total(
                "frozen", key, expected, units,
                f"{plain(expected)} to be billed, {plain(units)} frozen in the outbox",
            )  # fmt: skip


def _stripe(seen: Seen) -> Iterator[Difference]:
    if seen.summaries is None:
        return
    for window, (lanes, settled) in sorted(seen.bills.windows().items()):
        found = seen.summaries.get(window)
        if found is None:
            continue
        if is_right(found, settled):
            continue
        key = lanes[0].key
        expected = settled.all_delivered
        yield Difference(
            key=f"stripe/{window.stripe_customer_id}/{window.event_name}/{instant(window.start_ms)}",
            link="stripe",
            sentence=f"{_named(key)}: {plain(expected)} delivered to {shown(window.event_name)} of "
            f"{shown(window.stripe_customer_id)}, {_at_stripe(seen, window, found - expected)}.",
            expected=plain(expected),
            found=plain(found),
            customer=key.customer,
            meter=key.meter,
            period_start=moment(key.start_ms),
        )


def _at_stripe(seen: Seen, window: Window, gap: int) -> str:
    """What a summary has that is `gap` nanos more than what was delivered."""
    if window.event_name in seen.without_meter:
        return (
            "Stripe has no such meter: create it, then send the value once under a new identifier"
        )
    has = plain((seen.summaries or {})[window])
    return f"Stripe's summary has {has} ({plain(abs(gap))} too {'much' if gap > 0 else 'little'})"


def is_right(found: int, settled: Settled) -> bool:
    """Whether Stripe may have this many nanos: of what was refused of each total none or all.

    Where so many totals were refused that not every choice of them can be tried, any part of it.
    """
    refused = settled.refused_by_total
    ranges: Iterable[tuple[int, int, int]]
    if len(refused) > _CHOSEN_FROM_MAX:
        ranges = [bounds(settled, perhaps=refused)]
    else:
        sizes = range(len(refused) + 1)
        choices = chain.from_iterable(combinations(refused, size) for size in sizes)
        ranges = (bounds(settled, by_hand=choice) for choice in choices)
    return any(low - tolerance <= found <= high + tolerance for low, high, tolerance in ranges)


def bounds(
    settled: Settled, *, by_hand: Sequence[Sum] = (), perhaps: Sequence[Sum] = ()
) -> tuple[int, int, int]:
    """The least and the most that Stripe may have, and the rounding of its floats, in nanos.

    Of what was refused it has all that is in `by_hand`, and may have any part of `perhaps`.
    """
    low = high = magnitude = deltas = 0
    for there in (settled.delivered, *by_hand):
        low += there.units
        high += there.units
        magnitude += there.above - there.below
        deltas += there.deltas
    for maybe in (settled.recent, settled.held, settled.unsent, *perhaps):
        low += maybe.below
        high += maybe.above
        magnitude += maybe.above - maybe.below
        deltas += maybe.deltas
    return low, high, rounding_nanos(deltas, magnitude)


def _of_fault(fault: Fault) -> str:
    if not fault.expected:
        return f"{plain(fault.found)} delivered as {fault.identifier}, which was never frozen"
    if not fault.found:
        return f"{plain(fault.expected)} frozen as {fault.identifier}, passed without a delivery"
    return f"{plain(fault.expected)} frozen as {fault.identifier}, {plain(fault.found)} delivered"


def _of_total(
    link: Link, key: Key, expected: int, found: int, what: str, detail: str = ""
) -> Difference:
    parts = [link, key.customer, key.meter, instant(key.start_ms)]
    if detail not in ("", "{}"):
        parts.append(detail)
    group = f" {shown(detail)}" if detail.startswith("{") and detail != "{}" else ""
    return Difference(
        key="/".join(parts),
        link=link,
        sentence=f"{_named(key)}{group}: {what}.",
        expected=plain(expected),
        found=plain(found),
        customer=key.customer,
        meter=key.meter,
        period_start=moment(key.start_ms),
    )


def _named(key: Key) -> str:
    return f"{shown(key.customer)}, {key.meter} from {instant(key.start_ms)[:10]}"


def confirmed_in_both(
    before: Iterable[Difference], after: Sequence[Difference]
) -> list[Difference]:
    """The differences of a look that the look before it had seen as well."""
    known = {difference.key for difference in before}
    return [difference for difference in after if difference.key in known]
