"""The oracle's rules: what a list of lines must lead to, by brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate

from tests.oracle_lines import (
    EXACT,
    Broken,
    Event,
    Row,
    member_text,
    meters_of,
    period,
    plain,
    read,
)


@dataclass
class Entry:
    """What one event adds to one meter, or what several have come to."""

    time_ns: int
    value: Decimal


FOLDS: dict[str, Callable[[Entry, Entry], Entry]] = {
    "sum": lambda so_far, entry: Entry(entry.time_ns, EXACT.add(so_far.value, entry.value)),
    "max": lambda so_far, entry: max(so_far, entry, key=lambda each: each.value),
    "min": lambda so_far, entry: min(so_far, entry, key=lambda each: each.value),
    "latest": lambda so_far, entry: entry if entry.time_ns >= so_far.time_ns else so_far,
}
FOLDS["count"] = FOLDS["sum"]


@dataclass
class Expected:
    """Everything that must be seen outside."""

    ledger: Counter[str] = field(default_factory=Counter)
    accepted: list[Event] = field(default_factory=list)
    set_aside: Counter[tuple[str, ...]] = field(default_factory=Counter)
    totals: Counter[tuple[str, ...]] = field(default_factory=Counter)
    alerts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    #: (Stripe customer, event name, period start) → what is billed.
    stripe: dict[tuple[str, str, str], Decimal] = field(default_factory=dict)
    newest_received_ms: int = 0


def expect(
    definitions: Row,
    lines: Iterable[bytes],
    now: str | None = None,
    seen_outside: frozenset[tuple[str, str]] = frozenset(),
) -> Expected:
    """What `lines` must lead to. `seen_outside` settles lines that RFC 8259 leaves open."""
    expected = Expected()
    first_of: dict[tuple[str, str], Event] = {}
    counted: dict[tuple[str, str, str], list[tuple[str, Entry]]] = {}
    for line in lines:
        if not line.strip():
            continue
        expected.ledger["sent"] += 1
        try:
            event = read(line.rstrip(b"\r\n"), definitions, now, seen_outside)
        except Broken:
            expected.ledger["rejected"] += 1
            continue
        expected.newest_received_ms = max(expected.newest_received_ms, event.received_ms)
        first = first_of.setdefault((event.source, event.id), event)
        status, meters = _judge(definitions, event, first)
        expected.ledger[status] += 1
        if status != "accepted":
            expected.set_aside[status, event.source, event.id] += 1
            continue
        expected.accepted.append(event)
        for meter in meters:
            group, quantity = event.readings[meter["slug"]]
            start, _ = period(event.time_ns, meter)
            entries = counted.setdefault((event.customer, meter["slug"], start), [])
            entries.append((group, Entry(event.time_ns, quantity)))
    for (customer, slug, start), entries in counted.items():
        _add_up(expected, definitions, customer, slug, start, entries)
    return expected


def _judge(definitions: Row, event: Event, first: Event) -> tuple[str, list[Row]]:
    """The status of an event, and the meters that count it."""
    if first is not event:
        same_data = member_text(first.text, "data") == member_text(event.text, "data")
        same = same_data and (first.type, first.customer, first.time_ns) == (
            event.type,
            event.customer,
            event.time_ns,
        )
        return ("duplicate" if same else "conflict"), []
    if definitions.get("default_plan") is None and _customer(definitions, event.customer) is None:
        return "unknown", []
    meters = meters_of(definitions, event.type)
    in_time = [meter for meter in meters if not _is_late(event, meter)]
    if meters and not in_time:
        return "late", []
    return "accepted", in_time


def _is_late(event: Event, meter: Row) -> bool:
    _, end_ns = period(event.time_ns, meter)
    grace_ms = Decimal(str(meter.get("grace_hours", 72))) * 3_600_000
    return event.received_ms > end_ns // 10**6 + grace_ms


def _add_up(
    expected: Expected,
    definitions: Row,
    customer: str,
    slug: str,
    start: str,
    entries: list[tuple[str, Entry]],
) -> None:
    """The totals, alerts and bill of one customer, meter and period, from all its entries."""
    meter = next(meter for meter in definitions["meters"] if meter["slug"] == slug)
    fold = FOLDS[meter["aggregation"]]
    for group in {group for group, _ in entries}:
        *_, total = accumulate((entry for of, entry in entries if of == group), fold)
        expected.totals[customer, slug, start, group, plain(total.value)] += 1
    usage = [entry.value for entry in accumulate((entry for _, entry in entries), fold)]
    for threshold, least in _thresholds(definitions, customer, slug).items():
        crossed = next((value for value in usage if value >= least), None)
        if crossed is not None:
            expected.alerts[customer, slug, start, threshold, plain(crossed)] += 1
    stripe_customer = (_customer(definitions, customer) or {}).get("stripe_customer_id")
    if meter.get("stripe") and stripe_customer:
        key = (stripe_customer, meter["stripe"]["event_name"], start)
        expected.stripe[key] = EXACT.add(expected.stripe.get(key, Decimal(0)), usage[-1])


def _thresholds(definitions: Row, customer: str, slug: str) -> dict[str, Decimal]:
    """Each threshold as it is written in alerts → the least usage that has reached it."""
    plan_slug = (_customer(definitions, customer) or {}).get("plan") or definitions.get(
        "default_plan"
    )
    plans = [plan for plan in definitions.get("plans") or [] if plan["slug"] == plan_slug]
    thresholds = {}
    for limit in (limit for plan in plans for limit in plan.get("limits") or []):
        if limit["meter"] != slug:
            continue
        for threshold in map(str, limit.get("thresholds") or []):
            number = Decimal(threshold.rstrip("% "))
            if threshold.endswith("%"):
                percent = EXACT.multiply(Decimal(str(limit["limit"])), number)
                thresholds[plain(number) + "%"] = percent.scaleb(-2, EXACT)
            else:
                thresholds[plain(number)] = number
    return thresholds


def _customer(definitions: Row, customer: str) -> Row | None:
    listed = definitions.get("customers") or []
    return next((each for each in listed if each["id"] == customer), None)
