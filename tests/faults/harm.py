"""Every kind of harm that a running deployment can be done, and how it ends again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from schemas import topics
from sinks.stripe.account import Call, Fault
from sinks.stripe.stand_in import seeded_faults
from streams.stage import group_of
from tests.faults.cluster import Cluster
from tests.faults.fleet import Fleet, Member
from tests.faults.kafka_proxy import (
    EFFECTS,
    END_TXN,
    OFFSET_COMMIT,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    Ambush,
    KafkaProxy,
    Straggler,
)

#: Which requests of a stage move something.
_EFFECTS_OF = {
    "intake": (PRODUCE, TXN_OFFSET_COMMIT, END_TXN),
    "tally": (PRODUCE, TXN_OFFSET_COMMIT, END_TXN),
    "bill": (PRODUCE, TXN_OFFSET_COMMIT, END_TXN),
    "clickhouse": (OFFSET_COMMIT,),
    "stripe": (OFFSET_COMMIT, PRODUCE),
}
#: How often each kind of fault falls; the numbers are relative to each other.
WEIGHTS = {
    "kill": 88.0,
    "pause": 1.5,
    "broker": 1.0,
    "storm": 1.5,
    "latency": 2.0,
    "reset": 2.5,
    "black hole": 1.0,
    "half-open": 0.5,
    "delayed EndTxn": 2.0,
    "late request": 4.0,
    "stripe outage": 1.5,
}
#: A broker's session ends after two seconds: some deaths are seen by the others, some are not.
_DEAD_SECONDS_MAX = 4.0
#: What a broker has missed meanwhile, it has soon after it came back.
_WHOLE_SECONDS_MAX = 120.0
#: Past the session time-out, so that the group gives a paused process's work away.
_PAUSE_SECONDS = 12.0
#: What Stripe does to one call in eight, all the time.
_STRIPE_FAULTS = {
    Fault.ERROR_BEFORE_COMMIT: 0.02,
    Fault.ERROR_AFTER_COMMIT: 0.03,
    Fault.LOST_REQUEST: 0.02,
    Fault.LOST_RESPONSE: 0.03,
    Fault.RATE_LIMITED: 0.005,
    Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER: 0.01,
    Fault.CONFLICT: 0.01,
}


@dataclass
class Tally:
    """What was done, and how soon processes counted again."""

    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    #: Of those, by the request at which the process was killed.
    at: Counter[str] = field(default_factory=Counter)
    #: Of those, whose victim had committed in that very life.
    at_work: Counter[str] = field(default_factory=Counter)
    #: Stage → seconds from a kill to the next commit of that process.
    recovered_seconds: dict[str, list[float]] = field(default_factory=dict)
    drained_seconds: list[float] = field(default_factory=list)
    #: Processes that ended by themselves, as sentences.
    complaints: list[str] = field(default_factory=list)


class StripeTrouble:
    """What goes wrong with each call to Stripe; all of them while `is_out`."""

    def __init__(self, seed: int) -> None:
        self.is_out = False
        self._strikes = seeded_faults(seed, _STRIPE_FAULTS)

    def __call__(self, call: Call) -> Fault | None:
        if not self.is_out:
            return self._strikes(call)
        has_counted = call.identifier[-1] in "01234567"
        return Fault.LOST_RESPONSE if has_counted else Fault.ERROR_BEFORE_COMMIT


class Harm:
    """Does it, by a seed, and notes it in a journal and in a tally."""

    def __init__(
        self,
        rng: Random,
        cluster: Cluster,
        proxy: KafkaProxy,
        fleet: Fleet,
        stripe: StripeTrouble,
        journal: Path,
    ) -> None:
        self._rng = rng
        self._cluster = cluster
        self._proxy = proxy
        self._fleet = fleet
        self._stripe = stripe
        self._journal = journal
        #: When on the monotonic clock to end a fault that lasts, and how.
        self._endings: list[tuple[float, Callable[[], None]]] = []
        #: Process → when it was killed, while it has not committed since.
        self._waiting: dict[str, float] = {}
        #: Process → when it may be killed.
        self._due: dict[str, float] = {}
        self._storming = False
        # A cluster is there so that brokers may die.
        self._weights = WEIGHTS | ({"broker": 10.0} if cluster.copies > 1 else {})
        self.tally = Tally()

    def fall(self, kills_left: int) -> None:
        """One fault, whichever comes; of kills at most so many."""
        kind = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        begin = {
            "kill": lambda: self._kill(kills_left),
            "pause": self._pause,
            "broker": self._kill_broker,
            "storm": self._storm,
            "latency": self._delay,
            "reset": lambda: self._proxy.reset(self._rng, self._rng.choice([0.2, 1.0])),
            "black hole": self._black_hole,
            "half-open": self._half_open,
            "delayed EndTxn": self._delay_end_txn,
            "late request": self._hold_up,
            "stripe outage": self._end_stripe,
        }[kind]
        if kind != "kill":
            self._note(kind)
        begin()

    def _kill(self, kills_left: int) -> None:
        """kill -9 of one process, or of several at once, each alive for a seeded time."""
        ready = [member for member in self._fleet.members if self._is_due(member)]
        together = self._rng.choice([1] * 9 + [3])
        victims = self._rng.sample(ready, min(together, len(ready), kills_left))
        if len(victims) == 1 and self._rng.random() < 0.5:
            self._ambush(victims[0])
        for member in victims:
            member.process.kill()
        for member in victims:
            self._bury(member)

    def _ambush(self, member: Member) -> None:
        """Wait until it is about to have an effect, or has just asked for one, and kill it."""
        api_key = self._rng.choice(_EFFECTS_OF[member.stage])
        before = self._rng.random() < 0.5
        ambush = Ambush(member.name, api_key, before, member.process.kill)
        self._proxy.lay(ambush)
        if ambush.sprung.wait(2):
            self.tally.at[f"{'before' if before else 'after'} {EFFECTS[api_key]}"] += 1
        self._proxy.lift(member.name)

    def _bury(self, member: Member) -> None:
        now = time.monotonic()
        self._note("kill", member.name)
        self.tally.kills[member.stage] += 1
        if self._proxy.has_committed_since(member.name, member.born):
            self.tally.at_work[member.stage] += 1
        self._note_recovery(member)
        self._waiting[member.name] = now
        self._fleet.restart(member)
        self._due.pop(member.name, None)

    def _is_due(self, member: Member) -> bool:
        """Whether it has worked for its seeded time; a few are killed while they start."""
        if member.paused:
            return False
        if member.name not in self._due:
            if self._rng.random() < 0.05:
                self._due[member.name] = member.born + self._rng.uniform(0.2, 1)
            elif self._proxy.heard_at.get(member.name, 0.0) > member.born:
                self._due[member.name] = time.monotonic() + self._rng.uniform(0.2, 6)
            else:
                return False
        return time.monotonic() >= self._due[member.name]

    def _pause(self) -> None:
        """SIGSTOP until the group has given its work to others, who find a zombie beside them."""
        awake = [member for member in self._fleet.members if not member.paused]
        member = self._rng.choice(awake)
        self._fleet.pause(member)
        self._later(_PAUSE_SECONDS, lambda: self._fleet.wake(member))

    def _kill_broker(self) -> None:
        give_up = time.monotonic() + _WHOLE_SECONDS_MAX
        while not self._cluster.is_whole():
            assert time.monotonic() < give_up, "copies of partitions stay behind"
            self.wait(0.1)
        self._cluster.kill()
        self.wait(self._rng.uniform(0, _DEAD_SECONDS_MAX))
        self._cluster.revive()

    def free_what_the_dead_hold(self) -> None:
        """Start the broker again if it counts a dead process among the members of a group.

        Elected twice within one start, Kafka 4.1 may take over a group without its time-outs. Who
        died before then holds its partitions until the next start, or until it comes back.
        """
        alive = {member.name for member in self._fleet.members}
        admin = AdminClient({"bootstrap.servers": self._cluster.address, "log_level": 2})
        groups = admin.describe_consumer_groups([group_of(stage) for stage in ("intake", "tally")])
        try:
            counted = {
                member.client_id.rpartition(".")[0]
                for described in groups.values()
                for member in described.result(30).members
            }
        except KafkaException:
            return  # The broker is away, and asked again later.
        if counted - alive:
            self._note("dead member", ", ".join(sorted(counted - alive)))
            self._kill_broker()

    def _storm(self) -> None:
        """Another process joins and leaves, three times in a row."""
        if self._storming:
            return
        self._storming = True
        stage = self._rng.choice(["intake", "tally"])

        def join(left: int) -> None:
            member = self._fleet.start(stage, "storm")
            self._later(self._rng.uniform(1.5, 4), lambda: leave(member, left))

        def leave(member: Member, left: int) -> None:
            self._fleet.end(member)
            if left:
                self._later(self._rng.uniform(0.1, 1), lambda: join(left - 1))
            else:
                self._storming = False

        join(2)

    def _delay(self) -> None:
        self._proxy.latency_seconds = self._rng.uniform(0.02, 0.3)
        self._later(self._rng.uniform(2, 6), self._proxy.heal)

    def _black_hole(self) -> None:
        self._proxy.black_hole()
        self._later(self._rng.uniform(2, 14), self._proxy.heal)

    def _half_open(self) -> None:
        self._proxy.half_open(self._rng, 0.2)
        self._later(self._rng.uniform(5, 30), self._proxy.heal)

    def _delay_end_txn(self) -> None:
        """For so long, at times, that the broker has ended the transaction by itself."""
        self._proxy.end_txn_seconds = self._rng.uniform(0.5, 12)
        self._later(self._rng.uniform(5, 15), self._proxy.heal)

    def _hold_up(self) -> None:
        """The end of a transaction, or its positions, comes a second time, in a later one."""
        stages = [name for name, effects in _EFFECTS_OF.items() if END_TXN in effects]
        members = [member for member in self._fleet.members if member.stage in stages]
        api_key = self._rng.choice([TXN_OFFSET_COMMIT, END_TXN])
        straggler = Straggler(self._rng.choice(members).name, api_key)
        self._proxy.hold_up(straggler)
        seconds = self._rng.uniform(0.05, 3)
        self._later(seconds, lambda: self._proxy.let_arrive(straggler))

    def _end_stripe(self) -> None:
        self._stripe.is_out = True
        self._later(self._rng.uniform(5, 20), self._bring_stripe_back)

    def _bring_stripe_back(self) -> None:
        self._stripe.is_out = False

    def repartition(self, partitions: int) -> None:
        """usage.events gets more partitions while events flow; a customer may change its own."""
        admin = AdminClient({"bootstrap.servers": self._cluster.address, "log_level": 2})
        more = NewPartitions(topics.EVENTS.name, partitions)
        for done in admin.create_partitions([more]).values():
            done.result(30)
        self._note("repartition")

    def _note(self, fault: str, victim: str = "") -> None:
        self.tally.faults[fault] += 1
        with self._journal.open("a") as journal:
            print(f"{datetime.now(UTC):%H:%M:%S.%f}", fault, victim, file=journal)

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self._endings.append((time.monotonic() + seconds, end))

    def wait(self, seconds: float) -> None:
        """Let time pass, and look after what must be looked after meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look_after()
            time.sleep(0.05)

    def look_after(self) -> None:
        """End what is due to end, start again what has died, and see who counts again."""
        now = time.monotonic()
        due = [ending for ending in self._endings if ending[0] <= now]
        self._endings = [ending for ending in self._endings if ending[0] > now]
        for _, end in due:
            end()
        for member in self._fleet.members:
            self._note_recovery(member)
        self._fleet.check()

    def _note_recovery(self, member: Member) -> None:
        killed_at = self._waiting.get(member.name)
        if killed_at is not None and self._proxy.has_committed_since(member.name, member.born):
            del self._waiting[member.name]
            seconds = self._proxy.committed_at[member.name] - killed_at
            self.tally.recovered_seconds.setdefault(member.stage, []).append(seconds)

    def heal(self) -> None:
        """End whatever lasts."""
        while self._endings:
            endings, self._endings = self._endings, []
            for _, end in sorted(endings, key=lambda ending: ending[0]):
                end()
        self._proxy.heal()
        self._cluster.revive()
