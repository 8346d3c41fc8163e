"""All stages of a deployment on simulated clients: real loops, real core, nothing else real."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from random import Random
from typing import Any

import stripe

from pipeline.generate import Shares, generate
from pipeline.ingest_file import read_ndjson
from pipeline.record import Sink
from schemas import topics
from schemas.definitions import Definitions
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.account import Account, Call, Fault
from sinks.stripe.deliver import StripeSink
from streams.bill import BillStage
from streams.deliver import Deliverer
from streams.forgotten import Answers
from streams.intake import IntakeStage
from streams.stage import Stage, group_of
from streams.tally import TallyStage
from streams.transact import Transactor
from tests.simulation.broker import Broker
from tests.simulation.clients import SimulatedClients
from tests.simulation.outside import InTurn, SimulatedClickHouse, SimulatedStripe
from tests.simulation.packing import packed, together
from tests.simulation.world import Faults, World

SHARDS = 2
EVENT_PARTITIONS = 2
#: The events are of the last seconds of one month and the first of the next.
NOW = "2026-11-01T00:00:03+00:00"

#: Longer than Stripe remembers an identifier.
_OUTAGE_MS = 25 * 3_600_000

SHARES = Shares(duplicate=0.1, conflict=0.04, late=0.04, delayed=0.04, unknown=0.03, broken=0.04)

#: Many thresholds, so that nearly every transaction of tally has alerts.
DEFINITIONS: dict[str, Any] = {
    "meters": [
        {
            "slug": "tokens",
            "event_type": "llm.request",
            "aggregation": "sum",
            "value": "$.tokens",
            "group_by": {"model": "$.model"},
            "stripe": {"event_name": "tokens"},
        },
        {
            "slug": "peak",
            "event_type": "llm.request",
            "aggregation": "max",
            "value": "$.context_tokens",
            "period": "day",
            "grace_hours": 24,
        },
    ],
    "plans": [
        {
            "slug": "pro",
            "limits": [
                {
                    "meter": "tokens",
                    "limit": 10_000,
                    "thresholds": [f"{percent}%" for percent in range(10, 400, 10)],
                },
                {"meter": "peak", "limit": 8_000, "thresholds": ["50%", "100%"]},
            ],
        }
    ],
    "customers": [
        {"id": f"cus_{rank:02d}", "plan": "pro", "stripe_customer_id": f"cus_at_stripe_{rank}"}
        for rank in range(1, 5)
    ],
}
CUSTOMERS = len(DEFINITIONS["customers"])

#: What each stage reads; it is done when its group has confirmed all of it.
READS = {
    "intake": (topics.EVENTS.name,),
    "tally": (topics.METERED.name,),
    "bill": (topics.TOTALS.name,),
    "clickhouse": tuple(ClickHouseSink.topics),
    "stripe": tuple(StripeSink.topics),
}


@cache
def definitions() -> Definitions:
    """What is counted."""
    return Definitions.model_validate(DEFINITIONS)


class _Never:
    """A stop signal that is never given: only kills end a simulated process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def is_set(self) -> bool:
        """No."""
        return False

    def wait(self, timeout: float) -> bool:
        """Wait."""
        self._world.sleep(timeout)
        return False


class Deployment:
    """A broker, ClickHouse, Stripe, and two processes of each stage that counts."""

    def __init__(self, world: World, events: int) -> None:
        self.world = world
        catalogue = topics.sized(shards=SHARDS, event_partitions=EVENT_PARTITIONS)
        self.broker = Broker(world, {topic.name: topic.partitions for topic in catalogue})
        for topic in (topics.METERED, topics.TOTALS):
            self.broker.begin_late(topic.name)
        self.clickhouse = SimulatedClickHouse(world)
        self.stripe = Account(
            now_ms=world.now_ms,
            refuses_future=True,
            faults=self._stripe_fault,
            meters=None,
            customers=None,
            refuses_unknown=False,
            retry_after_seconds=2,
        )
        self._clients = SimulatedClients(self.broker)
        #: Whose calls Stripe fails until all is healed, if anybody's.
        unlucky = world.rng.randint(1, 2 * CUSTOMERS)
        self._failed_customer = f"cus_at_stripe_{unlucky}"
        #: Whether more time has passed than Stripe remembers.
        self.passed_over = False
        end = datetime.fromisoformat(NOW).astimezone(UTC)
        world.epoch_ms = int(end.timestamp() * 1000)
        seed = world.rng.randrange(2**32)
        lines = generate(events, CUSTOMERS, seed, end, shares=SHARES)
        self.lines = list(together(lines, Random(seed)))
        self._unsent = list(packed(read_ndjson(self.lines), EVENT_PARTITIONS))
        self._bill_linger_ms = world.rng.choice((0, 200, 2_000))
        for stage, instance in (
            ("intake", "a"),
            ("intake", "b"),
            ("tally", "a"),
            ("tally", "b"),
            ("bill", "a"),
            ("clickhouse", "a"),
            ("stripe", "a"),
        ):
            self._start(stage, instance, Random(world.rng.random()))
        world.at(0, self._send)
        if world.rng.random() < 0.3:
            world.at(world.rng.uniform(5, 60), self._pass_over)
        world.at(world.rng.uniform(5, 60), self._compact)

    def is_drained(self) -> bool:
        """Whether everything is sent, and confirmed by every stage."""
        return not self._unsent and all(
            self._is_confirmed(stage, topic) for stage, reads in READS.items() for topic in reads
        )

    def _is_confirmed(self, stage: str, topic: str) -> bool:
        group = self.broker.group(group_of(stage))
        for partition in range(self.broker.topics[topic]):
            log = self.broker.logs[topic, partition]
            committed = group.committed.get((topic, partition))
            position = committed.offset if committed is not None else log.start
            if log.undecided or any(log.committed(position or 0, len(log.entries))):
                return False
        return not group.pending

    def _send(self) -> None:
        """A producer: partitioned by customer, some records at a time."""
        rng = self.world.rng
        count = rng.randint(1, 6)
        for record, timestamp_ms in self._unsent[:count]:
            self.broker.append(record, timestamp_ms=timestamp_ms)
        del self._unsent[:count]
        if self._unsent:
            self.world.at(rng.expovariate(2), self._send)

    def _pass_over(self) -> None:
        """A day and more, in which nothing could be done.

        Not while a call to Stripe is on its way: that it takes a day is what `docs/guarantees.md`
        excludes, a machine that sleeps between its look at the clock and the call.
        """
        if "stripe: call" in self.world.in_flight:
            self.world.at(0.5, self._pass_over)
            return
        self.world.note("25 hours pass")
        self.world.epoch_ms += _OUTAGE_MS
        self.passed_over = True

    def _compact(self) -> None:
        self.broker.compact(topics.BILL_STATE.name)

    def _start(self, stage: str, instance: str, rng: Random) -> None:
        runs: dict[str, Callable[[], None]] = {
            "intake": lambda: self._transact(
                IntakeStage(definitions(), SHARDS), instance, rng.randint(1, 12)
            ),
            "tally": lambda: self._transact(TallyStage(SHARDS), instance, rng.randint(1, 6)),
            "bill": lambda: self._transact(
                BillStage(definitions(), SHARDS), instance, rng.randint(1, 6)
            ),
            "clickhouse": lambda: self._deliver(
                stage, ClickHouseSink(self.clickhouse), instance, rng.randint(2, 30)
            ),
            "stripe": lambda: self._deliver(
                stage,
                self._stripe_sink(),
                instance,
                rng.randint(1, 8),
                notes_attempts=True,
                answers=Answers(self._clients, topics.OUTBOX.name, topics.DELIVERIES.name),
            ),
        }
        self.world.start(f"{stage} {instance}", runs[stage])

    def _transact(self, stage: Stage, instance: str, batch_max: int) -> None:
        Transactor(
            stage,
            self._clients,
            instance=instance,
            stop=_Never(self.world),
            linger_ms=self._bill_linger_ms if stage.name == "bill" else 10,
            batch_max=batch_max,
        ).run()

    def _deliver(self, name: str, sink: Sink, instance: str, batch_max: int, **how: Any) -> None:
        Deliverer(
            name,
            sink,
            self._clients,
            instance=instance,
            stop=_Never(self.world),
            linger_ms=100,
            batch_max=batch_max,
            **how,
        ).run()

    def _stripe_sink(self) -> StripeSink:
        client = stripe.StripeClient(
            "rk_simulated",
            http_client=SimulatedStripe(self.world, self.stripe),
            max_network_retries=0,
        )
        return StripeSink(
            client,
            calls_per_second=1_000,
            sleep=self.world.sleep,
            monotonic=self.world.monotonic,
            wall=lambda: self.world.now_ms() / 1000,
            executor=InTurn,
        )

    def _stripe_fault(self, call: Call) -> Fault | None:
        """Answers that say no, as often as others are lost, and to one customer nearly always."""
        faults = self.world.faults
        fails = call.stripe_customer_id == self._failed_customer and faults != Faults()
        if self.world.rng.random() >= (0.95 if fails else faults.lost_answer * 5):
            return None
        return self.world.rng.choice(
            (
                Fault.ERROR_BEFORE_COMMIT,
                Fault.ERROR_AFTER_COMMIT,
                Fault.RATE_LIMITED,
                Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER,
                Fault.CONFLICT,
            )
        )
