"""The catalogue of topics: what exists on the broker, for how long, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

DAY_MS = 86_400_000

#: Shards of everything between intake and the sinks, where a deployment has not chosen otherwise.
#: Fixed for its life, because a customer's shard is a hash modulo this number; `usage.events` may
#: be repartitioned freely.
SHARDS = 16


@dataclass(frozen=True)
class Topic:
    """One topic of the catalogue.

    `retention_ms` of -1 keeps records for ever. A partition of a topic that `is_sharded` is a
    shard: its record for a customer lies in the same partition number everywhere.
    """

    name: str
    partitions: int
    retention_ms: int
    meaning: str
    compacted: bool = False
    config: dict[str, str] = field(default_factory=dict)
    is_sharded: bool = True


#: Packs and state segments may be larger than Kafka's default of 1 MiB.
LARGE_RECORDS = {"max.message.bytes": str(16 * 1024 * 1024)}

#: How old an arrival may be.
OLDEST_ARRIVAL = "message.timestamp.before.max.ms"

#: Arrival times come from the producer, and retention goes by them. One may be as old as the ids
#: that are remembered, and intake has the rest of the 40 days to read it; what is older could be
#: deleted before anybody has read it. One that is an hour ahead is refused, as Kafka does by
#: default: a clock that runs months ahead would have its shard believe that they have passed, and
#: forget the ids of everybody else.
ARRIVALS = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(3_600_000),
    OLDEST_ARRIVAL: str(35 * DAY_MS),
}

#: Where all is kept for ever, and traces are replayed: old ones, and such whose time this machine's
#: clock has not reached yet.
ANY_ARRIVAL = {"message.timestamp.after.max.ms": str(2**63 - 1), OLDEST_ARRIVAL: str(2**63 - 1)}

EVENTS = Topic(
    "usage.events",
    8,
    40 * DAY_MS,
    "Usage events as their services publish them: CloudEvents 1.0, keyed by customer.",
    # Larger events than intake takes are let in, so that they end as rejections, not as losses;
    # a rejection is larger than its event, by the headers with reason and remedy. What becomes far
    # larger when it is unpacked is not kept in its rejection.
    config=ARRIVALS | {"max.message.bytes": str(15 * 1024 * 1024)},
    is_sharded=False,
)
METERED = Topic(
    "usage.metered",
    SHARDS,
    40 * DAY_MS,
    "Valid events packed into Arrow record batches, and the definitions they are counted by.",
    config=LARGE_RECORDS,
)
DECISIONS = Topic(
    "usage.decisions",
    SHARDS,
    40 * DAY_MS,
    "Per pack, one status for each of its events, in the order of usage.metered.",
    config=LARGE_RECORDS,
)
TOTALS = Topic(
    "usage.totals",
    SHARDS,
    40 * DAY_MS,
    "Totals that changed, absolute and versioned by shard offset, packed.",
    config=LARGE_RECORDS,
)
ALERTS = Topic(
    "usage.alerts",
    SHARDS,
    -1,
    "A customer crossed a threshold: JSON, keyed by customer, each crossing once.",
)
REJECTED = Topic(
    "usage.rejected",
    SHARDS,
    -1,
    "Dead letters: the original bytes, if they fit, as value, reason and remedy in headers.",
    config=LARGE_RECORDS,
)
TALLY_STATE = Topic(
    "usage.tally.state",
    SHARDS,
    -1,
    "Tally's changelog: segments of new ids and changed totals, and snapshots.",
    config=LARGE_RECORDS,
)
OUTBOX = Topic(
    "usage.outbox",
    SHARDS,
    -1,
    "Frozen deltas to be billed: JSON, one for each Stripe meter event.",
)
BILL_STATE = Topic(
    "usage.bill.state",
    SHARDS,
    -1,
    "What has been frozen so far, per customer, meter and period: JSON, compacted.",
    compacted=True,
)
DELIVERIES = Topic(
    "usage.deliveries",
    SHARDS,
    -1,
    "What Stripe answered to each frozen delta: JSON, keyed by its identifier.",
)
FORECASTS = Topic(
    "usage.forecasts",
    SHARDS,
    # As memory of the watch it outlasts every total that would be forecast again: those of the same
    # period come up to a month later, and go with the last record of their segment, up to a week.
    80 * DAY_MS,
    "Advisory: when a customer is projected to cross its next threshold. JSON, keyed by customer.",
)
DISCREPANCIES = Topic(
    "usage.discrepancies",
    SHARDS,
    -1,
    "Links of the chain from input to invoice that differ: JSON, keyed by what differs, compacted.",
    compacted=True,
)

CATALOGUE = (
    EVENTS,
    METERED,
    DECISIONS,
    TOTALS,
    ALERTS,
    REJECTED,
    TALLY_STATE,
    OUTBOX,
    BILL_STATE,
    DELIVERIES,
    FORECASTS,
    DISCREPANCIES,
)


def sized(*, shards: int, event_partitions: int = EVENTS.partitions) -> tuple[Topic, ...]:
    """The catalogue for a deployment of another size; the shards are decided once for ever."""
    return tuple(
        replace(topic, partitions=shards if topic.is_sharded else event_partitions)
        for topic in CATALOGUE
    )
