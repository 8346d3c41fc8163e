"""One long run: events flow, faults fall by a seeded schedule, and in the end the oracle compares.

A run is a series of rounds on one deployment. In each, events flow while processes are killed;
then everything is healed, and all that was sent must come through.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from confluent_kafka import KafkaException

from pipeline.errors import Retry
from pipeline.settings import Settings, read_settings
from schemas import topics
from sinks.stripe.stand_in import StripeStandIn
from streams.backlog import backlog
from streams.follow import Follower
from streams.topics import create_topics
from tests.faults.cluster import Cluster
from tests.faults.feed import Feed, definitions
from tests.faults.fleet import Fleet
from tests.faults.harm import Harm, StripeTrouble, Tally
from tests.faults.kafka_proxy import KafkaProxy
from tests.faults.verdict import Verdict, judge

SHARDS = 4
EVENT_PARTITIONS, EVENT_PARTITIONS_LATER = 4, 8

#: Every process, by stage and instance.
PROCESSES = (
    ("intake", "a"),
    ("intake", "b"),
    ("tally", "a"),
    ("tally", "b"),
    ("clickhouse", "a"),
    ("bill", "a"),
    ("stripe", "a"),
)
_SETTLED_SECONDS_MAX = 240.0
#: So long no group waits for a dead member, by whose session time-out it is put out.
_DEAD_SECONDS = 60.0
#: A stage that ends by itself this often is not going to stay.
_COMPLAINTS_MAX = 20
_STRIPE_KEY = "rk_live_stand_in"
#: What a stage reads, in the order in which stages depend on each other.
_READS = {
    "bill": [topics.TOTALS],
    "stripe": [topics.OUTBOX],
    "clickhouse": [
        topics.METERED,
        topics.DECISIONS,
        topics.TOTALS,
        topics.ALERTS,
        topics.REJECTED,
        topics.DELIVERIES,
    ],
}


class Stuck(Exception):
    """What was sent did not come through although everything had been healed."""


@dataclass(frozen=True)
class Options:
    """How long and how hard; `gap_seconds` lie between two faults."""

    seed: int
    kills: int | None
    duration_seconds: float | None
    kills_a_round: int
    per_second: float
    gap_seconds: float
    brokers: int = 1
    #: The oracle is told of an event that was never sent.
    plants_a_difference: bool = False


class Campaign:
    """One deployment and what happens to it; a context manager."""

    def __init__(self, options: Options, directory: Path, say: Callable[[str], None]) -> None:
        self._options = options
        self._directory = directory
        self._say = say
        self._began = time.monotonic()
        self._exits = ExitStack()

    def __enter__(self) -> Campaign:
        with ExitStack() as exits:
            self._proxy = exits.enter_context(KafkaProxy(self._options.brokers))
            self._cluster = Cluster(self._directory / "kafka", self._proxy)
            exits.enter_context(self._cluster)
            kafka = {"bootstrap.servers": self._cluster.address}
            sized = topics.sized(shards=SHARDS, event_partitions=EVENT_PARTITIONS)
            copies = self._cluster.copies
            create_topics(kafka, sized, keep_for_ever=True, replication_factor=copies)
            self._feed = exits.enter_context(
                Feed(self._cluster.address, self._options.seed, self._options.per_second)
            )
            trouble = StripeTrouble(self._options.seed)
            self._stripe = exits.enter_context(
                StripeStandIn(
                    _STRIPE_KEY,
                    now_ms=self._feed.now_ms,
                    faults=trouble,
                    retry_after_seconds=1,
                )
            )
            config = self._directory / "meterline.yaml"
            config.write_text(json.dumps(definitions()))
            self._settings = read_settings(
                bootstrap_servers=self._cluster.address,
                config=config,
                clickhouse_url=f"chdb://{self._directory / 'clickhouse'}",
                stripe_api_key=_STRIPE_KEY,
                stripe_api_base=self._stripe.url,
            )
            self._fleet = Fleet(self._environment(self._settings), self._directory)
            exits.callback(self._fleet.stop)
            self._fleet.command("migrate")
            self._harm = Harm(
                Random(self._options.seed),
                self._cluster,
                self._proxy,
                self._fleet,
                trouble,
                self._directory / "faults.log",
            )
            self._follower = exits.enter_context(Follower(kafka))
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def run(self) -> Verdict:
        """All rounds, and the verdict.

        Raises:
            Stuck: events do not come through.
        """
        for stage, instance in PROCESSES:
            self._fleet.start(stage, instance)
        self._await_all()
        number = 0
        while not self._is_over():
            number += 1
            self._round()
            self._say(
                f"round {number}: {self.kills} kills, {self.tally.faults.total()} faults, "
                f"{len(self._feed.lines)} events, drained in "
                f"{self.tally.drained_seconds[-1]:.0f} s, "
                f"{len(self._fleet.complaints)} complaints, {self.seconds:.0f} s"
            )
        self._fleet.stop()
        self._follower.read_to_end()
        planted = self._feed.lines[:1] if self._options.plants_a_difference else []
        verdict = judge(
            self._settings,
            definitions(),
            self._follower,
            self._stripe,
            self._feed.lines + planted,
            self._directory,
        )
        self.tally.complaints = self._fleet.complaints
        return verdict

    @property
    def tally(self) -> Tally:
        """What was done so far."""
        return self._harm.tally

    @property
    def kills(self) -> int:
        """How many processes of stages were killed so far."""
        return self.tally.kills.total()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def _is_over(self) -> bool:
        options = self._options
        if options.duration_seconds is not None:
            return self.seconds >= options.duration_seconds
        return self.kills >= (options.kills or 0)

    def _round(self) -> None:
        self._feed.flow()
        goal = self.kills + self._options.kills_a_round
        if self._options.kills is not None:
            goal = min(goal, self._options.kills)
        while self.kills < goal and not (self._options.duration_seconds and self._is_over()):
            if self._is_half_over():
                self._harm.repartition(EVENT_PARTITIONS_LATER)
                self._feed.reconnect()
            self._harm.fall(goal - self.kills)
            self._harm.wait(self._options.gap_seconds)
            self._require_order()
        self._harm.heal()
        self._settle()

    def _is_half_over(self) -> bool:
        options = self._options
        if self.tally.faults["repartition"]:
            return False
        if options.duration_seconds is not None:
            return self.seconds >= options.duration_seconds / 2
        return self.kills >= (options.kills or 0) / 2

    def _settle(self) -> None:
        """Wait until everything that was sent is counted, stored and billed."""
        began = time.monotonic()
        sent = self._feed.hold()
        self._until(lambda: self._follower.read() >= sent, f"{sent} events are decided")
        for stage, read in _READS.items():
            names = [topic.name for topic in read]
            self._until(lambda s=stage, n=names: not self._backlog(s, n), f"{stage} is done")  # type: ignore[misc]
        self.tally.drained_seconds.append(time.monotonic() - began)

    def _backlog(self, stage: str, names: list[str]) -> int:
        try:
            return backlog(self._settings.kafka(), stage, names)
        except (KafkaException, Retry):
            return 1  # Not known: asked again.

    def _until(self, done: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + _SETTLED_SECONDS_MAX
        look_for_the_dead = time.monotonic() + _DEAD_SECONDS
        while not done():
            self._harm.look_after()
            if time.monotonic() > look_for_the_dead:
                self._harm.free_what_the_dead_hold()
                look_for_the_dead += _DEAD_SECONDS
            self._require_order()
            if time.monotonic() > give_up:
                decided = self._follower.ledger.total()
                raise Stuck(f"waited in vain until {what}; {decided} are decided")
            time.sleep(0.1)

    def _require_order(self) -> None:
        if len(self._fleet.complaints) > _COMPLAINTS_MAX:
            raise Stuck(f"processes end by themselves: {self._fleet.complaints[-1]}")

    def _await_all(self) -> None:
        """Wait until every process has spoken to the broker."""
        names = [member.name for member in self._fleet.members]
        self._until(lambda: self._proxy.heard_at.keys() >= set(names), "every stage has started")

    def _environment(self, settings: Settings) -> dict[str, str]:
        return {
            "METERLINE_BOOTSTRAP_SERVERS": self._proxy.address,
            "METERLINE_CONFIG": str(settings.config),
            "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
            "METERLINE_STRIPE_API_KEY": _STRIPE_KEY,
            "METERLINE_STRIPE_API_BASE": settings.stripe_api_base,
            "METERLINE_BILL_LINGER_MS": "3000",
        }
