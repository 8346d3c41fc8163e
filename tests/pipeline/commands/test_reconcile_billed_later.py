"""`meterline reconcile` where usage was counted before its customer or its meter was billed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.commands import reconcile
from schemas import topics
from schemas.reconciliation import Reconciliation
from streams.producer import Producer
from tests.pipeline.commands.whole_system import WholeSystem, whole_system
from tests.streams.on_kafka import read

NOW = datetime.now(UTC)
BEFORE = NOW.replace(day=1) - timedelta(days=2)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WholeSystem]:
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 0.0)
    with whole_system(tmp_path) as system:
        system.environment["METERLINE_CONFIG"] = str(tmp_path / "meterline.yaml")
        yield system


def define(system: WholeSystem, *, meter_is_billed: bool = True, **stripe_ids: str | None) -> None:
    """One meter of months, and customers with these Stripe ids."""
    meter: dict[str, Any] = {
        "slug": "tokens",
        "event_type": "llm",
        "aggregation": "sum",
        "value": "$.n",
        "grace_hours": 10_000,
    }
    if meter_is_billed:
        meter["stripe"] = {"event_name": "llm"}
    customers = [{"id": name, "stripe_customer_id": id_} for name, id_ in stripe_ids.items()]
    text = yaml.safe_dump({"meters": [meter], "customers": customers})
    Path(system.environment["METERLINE_CONFIG"]).write_text(text)


def use(system: WholeSystem, *usages: tuple[str, datetime, int]) -> None:
    """Count, store and bill events of these customers, times and quantities."""
    with system.run():
        with Producer(system.kafka["bootstrap.servers"]) as producer:
            for customer, time, units in usages:
                event = {
                    "specversion": "1.0",
                    "id": f"{customer}-{time.isoformat()}-{units}",
                    "source": "/test",
                    "type": "llm",
                    "subject": customer,
                    "time": time.isoformat(),
                    "data": {"n": units},
                }
                producer.send_raw(json.dumps(event).encode(), key=customer.encode())
        system.settle()


def told(found: Reconciliation) -> tuple[list[str], list[str]]:
    """The links of differences, and what was not checked of what was frozen."""
    gaps = [gap.reason for gap in found.not_checked if gap.link == "frozen"]
    return [difference.link for difference in found.differences], gaps


def not_frozen(totals: int, units: int, first: datetime) -> str:
    return (
        f"tokens: {totals} totals with {units} that are not frozen had their last usage before "
        f"they were billed; the first is of late, from {first:%Y-%m}-01"
    )


def test_a_customer_who_is_billed_later_has_no_difference_in_a_period_that_had_ended(
    system: WholeSystem,
) -> None:
    define(system, early="cus_early", late=None)
    use(system, ("late", BEFORE, 500), ("late", NOW, 7), ("early", BEFORE, 3))
    assert told(system.reconcile()) == ([], [])
    define(system, early="cus_early", late="cus_late")
    use(system)
    found = system.reconcile()
    assert told(found) == ([], [not_frozen(2, 507, BEFORE)])
    assert {row.moving for row in found.periods} == {0}

    use(system, ("late", NOW, 1))
    found = system.reconcile()
    assert told(found) == ([], [not_frozen(1, 500, BEFORE)])
    assert [(row.billable, row.frozen) for row in found.periods] == [("503", "3"), ("8", "8")]

    # What was billed by its definitions is a difference as before.
    deltas = read(system.kafka["bootstrap.servers"], topics.OUTBOX.name)
    ends = {delta.partition: delta.offset + 1 for delta in deltas}
    everything = [TopicPartition(topics.OUTBOX.name, *end) for end in ends.items()]
    admin = AdminClient({**system.kafka})  # Whose answers end with it.
    for deleted in admin.delete_records(everything).values():
        deleted.result(60)
    found = system.reconcile()
    of_bill = {d.customer: d.expected for d in found.differences if d.link == "frozen"}
    assert of_bill == {"early": "3", "late": "8"}
    assert told(found)[1] == [not_frozen(1, 500, BEFORE)]


def test_a_meter_that_was_not_billed_for_a_while_has_no_difference_in_a_period_that_had_ended(
    system: WholeSystem,
) -> None:
    define(system, late="cus_late")
    use(system, ("late", BEFORE, 10), ("late", NOW, 1))
    define(system, meter_is_billed=False, late="cus_late")
    use(system, ("late", BEFORE, 20), ("late", NOW, 2))
    define(system, late="cus_late")
    assert told(system.reconcile()) == ([], [not_frozen(2, 22, BEFORE)])
    use(system, ("late", NOW, 4))
    assert told(system.reconcile()) == ([], [not_frozen(1, 20, BEFORE)])
