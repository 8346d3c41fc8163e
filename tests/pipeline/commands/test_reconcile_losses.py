"""`meterline reconcile` when it is Kafka that lost something, or deleted what was old."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.commands import reconcile
from pipeline.errors import Stop
from pipeline.generate import DEMO_DEFINITIONS
from schemas import topics
from schemas.billing import Delivery, Delta
from schemas.discrepancy import Discrepancy
from schemas.reconciliation import Reconciliation
from schemas.topics import Topic
from streams.backlog import backlog
from streams.cut import committed, extents
from tests.pipeline.commands.whole_system import SHARDS, WholeSystem, whole_system
from tests.streams.on_kafka import read, wait_until


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WholeSystem]:
    """A deployment with nothing counted yet."""
    monkeypatch.setattr(reconcile, "_AGAIN_SECONDS", 0.0)
    with whole_system(tmp_path) as system:
        yield system


def checked(system: WholeSystem) -> Reconciliation:
    return system.reconcile("--limit", "1000")


def links(found: Reconciliation) -> list[str]:
    return sorted({difference.link for difference in found.differences})


def delete(system: WholeSystem, topic: Topic, share: float = 1.0) -> None:
    """Let retention take the oldest records of each partition."""
    admin = AdminClient({**system.kafka})
    records = read(system.kafka["bootstrap.servers"], topic.name)
    for partition in range(SHARDS):
        offsets = [record.offset for record in records if record.partition == partition]
        before = offsets[int(len(offsets) * share) - 1] + 1 if offsets else 0
        place = TopicPartition(topic.name, partition, before)
        for deleted in admin.delete_records([place]).values():
            deleted.result(60)


def test_each_loss_is_found_at_its_link(system: WholeSystem) -> None:
    with system.run():
        system.send(1_000)
        system.settle()
    assert checked(system).differences == ()

    delta = Delta.model_validate_json(
        read(system.kafka["bootstrap.servers"], topics.OUTBOX.name)[0].value or b""
    )
    strange = delta.model_copy(update={"identifier": "strange", "value": "5"})
    producer = Producer(system.kafka)
    producer.produce(topics.OUTBOX.name, strange.model_dump_json().encode(), partition=0)
    assert producer.flush(60) == 0
    (difference,) = checked(system).differences
    assert (difference.link, difference.customer) == ("frozen", delta.customer)
    assert int(difference.found) == int(difference.expected) + 5

    delete(system, topics.REJECTED)
    assert links(checked(system)) == ["frozen", "input", "stored"]

    delete(system, topics.DELIVERIES)
    found = checked(system)
    # What was delivered is not known any more, so Stripe may have it or not.
    assert links(found) == ["frozen", "input", "sent", "stored"]
    assert sum(each.link == "sent" for each in found.differences) > 50


def test_a_delivery_of_another_value_is_found_by_two_looks_and_told_of_as_long_as_it_lasts(
    system: WholeSystem, tmp_path: Path
) -> None:
    with system.run():
        system.send(200)
        system.settle()
    record = read(system.kafka["bootstrap.servers"], topics.DELIVERIES.name)[0]
    delivery = Delivery.model_validate_json(record.value or b"")
    changed = delivery.model_copy(update={"value": "123456"}).model_dump_json().encode()
    producer = Producer(system.kafka)
    producer.produce(topics.DELIVERIES.name, changed, record.key, partition=record.partition)
    assert producer.flush(60) == 0
    (difference,) = checked(system).differences
    assert (difference.link, difference.found) == ("sent", "123456")

    command = [sys.executable, "-m", "meterline", "reconcile", "--every", "1", "--stripe-lag", "0"]
    with (tmp_path / "log").open("w") as written:
        watch = subprocess.Popen(
            command, env={**os.environ, **system.environment}, stdout=written, stderr=written
        )
    try:
        wait_until(lambda: (tmp_path / "log").read_text().count("1 differences") > 2, "it lasts")
    finally:
        watch.send_signal(signal.SIGTERM)
        code = watch.wait(60)
    assert code == 0, (tmp_path / "log").read_text()
    records = read(system.kafka["bootstrap.servers"], topics.DISCREPANCIES.name)
    told = [Discrepancy.model_validate_json(each.value or b"") for each in records]
    assert [(each.key, each.state) for each in told] == [(difference.key, "open")]


def test_a_record_that_no_stage_wrote_is_named_and_is_no_difference(system: WholeSystem) -> None:
    producer = Producer(system.kafka)
    foreign = ((topics.OUTBOX, None, "delta"), (topics.DELIVERIES, b"garbage", "delivery"))
    for topic, value, name in foreign:
        producer.produce(topic.name, value, b"key", partition=1)
        assert producer.flush(60) == 0
        with pytest.raises(Stop, match=rf"{topic.name}-1 at offset 0 is no {name}") as stop:
            checked(system)
        assert "only Meterline writes to this topic" in stop.value.remedy


def test_what_retention_deleted_is_not_counted_and_no_difference(system: WholeSystem) -> None:
    with system.run():
        system.send(1_000)
        system.settle()
    for topic in (topics.EVENTS, topics.METERED, topics.DECISIONS, topics.TOTALS):
        delete(system, topic, 0.5)
    found = checked(system)
    assert found.differences == ()
    assert found.ledger is not None
    assert all(found.ledger.first.values())
    assert found.ledger.input < 600
    delete(system, topics.TOTALS)
    found = checked(system)
    assert found.differences == ()
    assert {row.kafka for row in found.periods} == {None}
    assert {row.recomputed == row.clickhouse for row in found.periods} == {True}


def test_what_was_deleted_before_a_stage_had_read_it_is_a_difference(system: WholeSystem) -> None:
    with system.run():
        system.send(200)
        system.settle()
    with system.run(["intake"]):
        system.send(100, seed=2)
        wait_until(lambda: backlog(system.kafka, "intake", [topics.EVENTS.name]) == 0, "taken in")
    assert checked(system).differences == ()

    before = committed(system.kafka, "tally", topics.METERED.name)
    delete(system, topics.METERED)
    begins = [extent.begin for extent in extents(system.kafka, ["usage.metered"])["usage.metered"]]
    found = checked(system).differences
    assert [each.key for each in found] == [
        f"{reader}/usage.metered/{shard}"
        for reader in ("input/tally", "stored/clickhouse")
        for shard in range(SHARDS)
    ]
    assert found[1].sentence.startswith(
        f"usage.metered partition 1: offsets from {before[1]} to before {begins[1]} were deleted "
        "before tally had read them. Restore the topic from a backup"
    )

    system.send(100, seed=3)
    delete(system, topics.EVENTS)
    assert {each.key for each in checked(system).differences} - {each.key for each in found} == {
        f"input/intake/usage.events/{partition}" for partition in range(SHARDS)
    }


def test_a_meter_that_came_later_counts_from_then_on(system: WholeSystem, tmp_path: Path) -> None:
    definitions = yaml.safe_load(DEMO_DEFINITIONS.read_text())
    later = definitions["meters"].pop()
    assert later["slug"] == "peak_context"
    for plan in definitions["plans"]:
        plan["limits"] = [limit for limit in plan["limits"] if limit["meter"] != later["slug"]]
    config = tmp_path / "meterline.yaml"
    config.write_text(yaml.safe_dump(definitions))
    system.environment["METERLINE_CONFIG"] = str(config)
    with system.run():
        system.send(500)
        system.settle()
    assert {row.meter for row in checked(system).periods} == {"requests", "spend_usd", "tokens"}

    definitions["meters"] += [later | {"slug": "peak"}]
    definitions["meters"] += [
        {"slug": "all", "event_type": later["event_type"], "aggregation": "count"}
    ]
    config.write_text(yaml.safe_dump(definitions))
    with system.run():
        system.send(500, seed=2)
        system.settle()
    found = checked(system)
    assert found.differences == ()
    every = {row.meter: int(row.clickhouse) for row in found.periods if row.meter != "spend_usd"}
    assert 0 < every["all"] < every["requests"]
