"""Reads back what each side has after a run: Kafka, ClickHouse and Stripe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pipeline.reconcile import Seen
from pipeline.settings import Settings
from schemas import topics
from schemas.billing import Delivery, Delta
from schemas.forecast import Forecast
from schemas.quantity import from_plain
from sinks.clickhouse import read as clickhouse
from sinks.clickhouse.connect import Connection
from sinks.stripe.stand_in import StripeStandIn
from streams.follow import Follower
from streams.read import partition_count, read_to_end


def observe(settings: Settings, follower: Follower, stripe: StripeStandIn, sent: int) -> Seen:
    """What each side has in the end; the stages have stopped, so ClickHouse may be opened here."""
    kafka = settings.kafka()
    connection = Connection(settings.clickhouse_url, settings.clickhouse_password)
    try:
        with connection.client() as client:
            ledger = clickhouse.ledger(client)
            totals = clickhouse.totals(client)
            alerts = clickhouse.alerts(client)
    finally:
        connection.close()
    deliveries = [
        Delivery.model_validate_json(value) for value in _values(kafka, topics.DELIVERIES.name)
    ]
    untaken = [delivery for delivery in deliveries if delivery.outcome != "delivered"]
    return Seen(
        sent=sent,
        kafka_ledger=follower.ledger,
        clickhouse_ledger=ledger,
        kafka_totals=list(follower.totals.values()),
        clickhouse_totals=totals,
        kafka_alerts=follower.alerts,
        clickhouse_alerts=alerts,
        stripe={event.identifier: from_plain(str(event.value)) for event in stripe.journal},
        quarantine={delivery.identifier: from_plain(delivery.value) for delivery in untaken},
        reasons=Counter(f"{delivery.reason} {delivery.remedy}" for delivery in untaken),
        deltas=[Delta.model_validate_json(value) for value in _values(kafka, topics.OUTBOX.name)],
        forecasts=[
            Forecast.model_validate_json(value) for value in _values(kafka, topics.FORECASTS.name)
        ],
    )


def _values(kafka: Mapping[str, str], topic: str) -> Iterator[bytes]:
    for partition in range(partition_count(kafka, topic)):
        for record in read_to_end(kafka, topic, partition):
            yield record.value or b""
