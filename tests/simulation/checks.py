"""What must hold in the end, by an oracle that shares no code with what it judges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from schemas import topics
from schemas.billing import Delivery, Delta
from tests.faults.outcome import differences as of_kafka
from tests.oracle_lines import plain
from tests.oracle_rules import Expected, expect
from tests.simulation.deployment import DEFINITIONS, EVENT_PARTITIONS, NOW, Deployment
from tests.simulation.packing import events_in


def differences(deployment: Deployment) -> list[str]:
    """[] if all is exact."""
    expected = expect(DEFINITIONS, deployment.lines, now=NOW)
    broker = deployment.broker
    sent = [
        list(map(events_in, broker.committed((topics.EVENTS.name, partition))))
        for partition in range(EVENT_PARTITIONS)
    ]
    return [
        *of_kafka(broker.read, expected, sent),
        *_of_clickhouse(deployment, expected),
        *_of_stripe(deployment, expected),
    ]


def _of_clickhouse(deployment: Deployment, expected: Expected) -> Iterator[str]:
    final = deployment.clickhouse.final
    found = Counter((row["source"], row["id"]) for row in final("events"))
    wanted = Counter((event.source, event.id) for event in expected.accepted)
    yield from _uneven("ClickHouse: event", wanted, found)
    aside = Counter((row["status"], row["source"], row["id"]) for row in final("set_aside"))
    yield from _uneven("ClickHouse: set aside", expected.set_aside, aside)
    rejected = len(final("rejections"))
    if rejected != expected.ledger["rejected"]:
        yield f"ClickHouse: {rejected} rejections, not {expected.ledger['rejected']}"
    totals = Counter(
        (
            row["customer"],
            row["meter"],
            _text(row["period_start"]),
            row["group_key"],
            plain(row["value"]),
        )
        for row in final("totals")
    )
    yield from _uneven("ClickHouse: total", _by_group_key(expected.totals), totals)
    alerts = Counter(
        (
            row["customer"],
            row["meter"],
            _text(row["period_start"]),
            row["threshold"],
            plain(row["value"]),
        )
        for row in final("alerts")
    )
    yield from _uneven("ClickHouse: alert", expected.alerts, alerts)


def _by_group_key(totals: Counter[tuple[str, ...]]) -> Counter[tuple[str, ...]]:
    return Counter(
        {
            (
                *key[:3],
                json.dumps(json.loads(key[3]), sort_keys=True, separators=(",", ":")),
                key[4],
            ): count
            for key, count in totals.items()
        }
    )


def _of_stripe(deployment: Deployment, expected: Expected) -> Iterator[str]:
    """Stripe's sums are the billable ones, less what is held for a person to look at."""
    read = deployment.broker.read
    deltas = {
        delta.identifier: delta
        for delta in (_delta(record.value) for record in read(topics.OUTBOX.name))
    }
    if len(deltas) != len(read(topics.OUTBOX.name)):
        yield "an identifier was frozen twice"
    outcomes: dict[str, str] = {}
    for record in read(topics.DELIVERIES.name):
        delivery = Delivery.model_validate_json(record.value or b"")
        if (outcomes.get(delivery.identifier), delivery.outcome) == ("delivered", "held"):
            yield f"Stripe: {delivery.identifier} is held after it was said to be delivered"
        outcomes[delivery.identifier] = delivery.outcome
    sums: dict[tuple[str, str, str], Decimal] = {}
    counted = Counter(event.identifier for event in deployment.stripe.journal)
    for event in deployment.stripe.journal:
        delta = deltas.get(event.identifier)
        if delta is None:
            yield f"Stripe: {event.identifier} was never frozen"
        elif event.value != Decimal(delta.value):
            yield f"Stripe: {event.identifier} is {event.value}, not {delta.value}"
        elif not delta.period_start.timestamp() <= event.timestamp < delta.period_end.timestamp():
            yield f"Stripe: {event.identifier} is billed outside its period"
    for identifier, delta in deltas.items():
        outcome = outcomes.get(identifier)
        if outcome is None:
            yield f"nobody says what became of {identifier}"
        if counted[identifier] > 1:
            yield f"Stripe: {identifier} counts {counted[identifier]} times"
        if outcome == "delivered" and counted[identifier] != 1:
            yield f"Stripe: {identifier} was delivered, and counts {counted[identifier]} times"
        if outcome == "held" and not deployment.passed_over:
            yield f"Stripe: {identifier} is held, although Stripe still knew it"
        if outcome == "refused":
            yield f"Stripe: {identifier} was refused"
        key = (delta.stripe_customer_id, delta.event_name, _text(delta.period_start))
        sums[key] = sums.get(key, Decimal(0)) + Decimal(delta.value)
    for key in sorted(expected.stripe.keys() | sums.keys()):
        if sums.get(key) != expected.stripe.get(key):
            yield f"billed {key}: {sums.get(key)}, not {expected.stripe.get(key)}"


def _delta(value: bytes | None) -> Delta:
    return Delta.model_validate_json(value or b"")


def _text(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


def _uneven(what: str, expected: Counter[Any], found: Counter[Any]) -> list[str]:
    return [
        f"{what} {key}: {found[key]} times, not {expected[key]}"
        for key in sorted(expected.keys() | found.keys())
        if found[key] != expected[key]
    ]


#: How a difference begins, or what it contains, and which check it comes from.
_CHECKS = (
    (" stopped: ", "the product itself: a stage stops"),
    ("not drained", "liveness: everything drains after healing"),
    ("ClickHouse: ", "ClickHouse holds what the oracle expects"),
    ("Stripe: ", "Stripe counts each frozen delta once, in its period"),
    ("billed ", "billed is what is billable"),
    ("frozen twice", "billed is what is billable"),
    ("became of", "every delta has an outcome"),
    ("taken in", "every input position is taken in once"),
    ("was decided", "every pack is decided once"),
    ("went from", "versions of a total only grow"),
    ("alert ", "every alert once, at the right value"),
    ("total ", "totals are the oracle's"),
)


def check_of(difference: str) -> str:
    """Which check a difference comes from."""
    return next((check for mark, check in _CHECKS if mark in difference), "outcomes of all events")
