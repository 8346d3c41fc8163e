"""Reconciliation: what was sent, counted, stored and billed must be the same.

Pure: takes what was seen on each side, says what it adds up to and where it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from schemas.alert import Alert
from schemas.billing import Delta
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.quantity import from_plain, plain
from schemas.total import Total

OUTCOMES = ("accepted", "duplicate", "conflict", "rejected", "late", "unknown")

TotalKey = tuple[str, str, datetime, tuple[tuple[str, str], ...]]


class Billed(NamedTuple):
    """What one Stripe customer is billed for one Stripe meter in one period."""

    stripe_customer_id: str
    event_name: str
    period_start: datetime


@dataclass(frozen=True)
class Seen:
    """One run as it was seen from outside."""

    sent: int
    #: Outcomes by the decisions and rejections in Kafka, and by ClickHouse.
    kafka_ledger: Mapping[str, int]
    clickhouse_ledger: Mapping[str, int]
    kafka_totals: Sequence[Total]
    clickhouse_totals: Sequence[Total]
    kafka_alerts: Sequence[Alert]
    clickhouse_alerts: Sequence[Alert]
    #: What Stripe counts, and what it will not take: identifier → quantity in nanos.
    stripe: Mapping[str, int]
    quarantine: Mapping[str, int]
    deltas: Sequence[Delta]
    #: Why Stripe will not take it, and what to do: how many deltas each time.
    reasons: Mapping[str, int]
    #: Advice, so there is nothing to reconcile.
    forecasts: Sequence[Forecast] = ()


@dataclass(frozen=True)
class Reconciliation:
    """The sums on each side, in nanos, and every difference as a sentence."""

    stripe: Mapping[Billed, int]
    quarantine: Mapping[Billed, int]
    differences: Sequence[str]

    @property
    def reconciled(self) -> bool:
        """Whether nothing was lost, doubled or changed."""
        return not self.differences


def reconcile(seen: Seen, definitions: Definitions) -> Reconciliation:
    """Compare all sides of `seen`."""
    billed_of = {
        delta.identifier: Billed(delta.stripe_customer_id, delta.event_name, delta.period_start)
        for delta in seen.deltas
    }
    stripe = _summed((billed_of.get(name), units) for name, units in seen.stripe.items())
    quarantine = _summed((billed_of.get(name), units) for name, units in seen.quarantine.items())
    differences = [*_ledger_differences(seen)]
    differences += _differences(
        "total", _by_key(seen.kafka_totals), "Kafka", _by_key(seen.clickhouse_totals), "ClickHouse"
    )
    differences += _differences(
        "alert",
        {_alert_key(alert): from_plain(alert.value) for alert in seen.kafka_alerts},
        "Kafka",
        {_alert_key(alert): from_plain(alert.value) for alert in seen.clickhouse_alerts},
        "ClickHouse",
    )
    if len({_alert_key(alert) for alert in seen.kafka_alerts}) < len(seen.kafka_alerts):
        differences.append("an alert was emitted twice")
    unknown = [name for name in (*seen.stripe, *seen.quarantine) if name not in billed_of]
    differences += [f"Stripe has {name}, which was never frozen" for name in unknown]
    settled = _summed([*stripe.items(), *quarantine.items()])
    differences += _differences(
        "bill",
        {key: units for key, units in billable(seen.kafka_totals, definitions).items() if units},
        "Kafka",
        {key: units for key, units in settled.items() if units},
        "Stripe",
    )
    return Reconciliation(stripe, quarantine, differences)


def billable(totals: Iterable[Total], definitions: Definitions) -> dict[Billed, int]:
    """What is to be billed by the totals, in nanos."""
    usage: dict[tuple[str, str, datetime], Total] = {}
    for total in totals:
        key = (total.customer, total.meter, total.period_start)
        # Every group's row carries the usage over all groups as of its own version.
        if key not in usage or total.version > usage[key].version:
            usage[key] = total
    billed: dict[Billed, int] = {}
    for total in usage.values():
        meter = definitions.meters_by_slug.get(total.meter)
        customer = definitions.customers_by_id.get(total.customer)
        if meter is None or meter.stripe is None:
            continue
        if customer is None or customer.stripe_customer_id is None:
            continue
        name = Billed(customer.stripe_customer_id, meter.stripe.event_name, total.period_start)
        billed[name] = billed.get(name, 0) + from_plain(total.usage)
    return billed


def report(seen: Seen, result: Reconciliation) -> dict[str, object]:
    """The run as one JSON document: totals from ClickHouse, what Stripe received, summed."""
    document: dict[str, object] = {
        "ledger": {"sent": seen.sent}
        | {outcome: seen.clickhouse_ledger.get(outcome, 0) for outcome in OUTCOMES},
        "totals": [
            {
                "customer": total.customer,
                "meter": total.meter,
                "period_start": instant(total.period_start),
                "group": total.group,
                "value": total.value,
            }
            for total in sorted(seen.clickhouse_totals, key=_total_key)
        ],
        "alerts": [
            {
                "customer": alert.customer,
                "meter": alert.meter,
                "period_start": instant(alert.period_start),
                "threshold": alert.threshold,
                "value": alert.value,
            }
            for alert in seen.kafka_alerts
        ],
        "stripe": _bills(result.stripe),
        "reconciled": result.reconciled,
    }
    if result.quarantine:
        document["quarantine"] = _bills(result.quarantine)
    return document


def instant(moment: datetime) -> str:
    """A time as reports write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _bills(sums: Mapping[Billed, int]) -> list[dict[str, str]]:
    return [
        {
            "stripe_customer_id": key.stripe_customer_id,
            "event_name": key.event_name,
            "period_start": instant(key.period_start),
            "value": plain(units),
        }
        for key, units in sorted(sums.items())
    ]


def _ledger_differences(seen: Seen) -> Iterable[str]:
    counted = sum(seen.kafka_ledger.values())
    if counted != seen.sent:
        yield f"{seen.sent} events were sent, {counted} have an outcome"
    for outcome in OUTCOMES:
        in_kafka = seen.kafka_ledger.get(outcome, 0)
        in_clickhouse = seen.clickhouse_ledger.get(outcome, 0)
        if in_kafka != in_clickhouse:
            yield f"{outcome}: {in_kafka} in Kafka, {in_clickhouse} in ClickHouse"


def _differences(
    what: str,
    left: Mapping[object, int],
    left_name: str,
    right: Mapping[object, int],
    right_name: str,
) -> list[str]:
    def shown(units: int | None) -> str:
        return "nothing" if units is None else plain(units)

    return [
        f"{what} {key}: {left_name} has {shown(left.get(key))}, "
        f"{right_name} has {shown(right.get(key))}"
        for key in sorted(left.keys() | right.keys(), key=str)
        if left.get(key) != right.get(key)
    ]


def _summed(parts: Iterable[tuple[Billed | None, int]]) -> dict[Billed, int]:
    sums: dict[Billed, int] = {}
    for key, units in parts:
        if key is not None:
            sums[key] = sums.get(key, 0) + units
    return sums


def _total_key(total: Total) -> TotalKey:
    return total.customer, total.meter, total.period_start, tuple(sorted(total.group.items()))


def _by_key(totals: Iterable[Total]) -> dict[object, int]:
    return {_total_key(total): from_plain(total.value) for total in totals}


def _alert_key(alert: Alert) -> object:
    return alert.customer, alert.meter, alert.period_start, alert.threshold
