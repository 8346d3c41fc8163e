"""Any stage as a process that a test may kill, pause and restart, and that kills itself."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import confluent_kafka
import pyarrow as pa
import structlog
from pydantic import SecretStr

import pipeline.tally
import streams.stage
from pipeline.compiled import get_ready
from pipeline.dedupe import IdTable
from pipeline.errors import Stop
from pipeline.record import Sink
from pipeline.shard import Restore, Shard
from schemas import topics
from schemas.definitions import Definitions
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.write import ClickHouseSink
from sinks.stripe.client import LIVE_CALLS_PER_SECOND, stripe_client
from sinks.stripe.deliver import StripeSink
from streams import confluent_calls, session
from streams.bill import BillStage
from streams.clients import Clients, Committed
from streams.confluent import ConfluentClients
from streams.deliver import Deliverer
from streams.forgotten import Answers
from streams.intake import IntakeStage
from streams.mirrored import MirroredClients
from streams.read import topic_id
from streams.stage import Stage
from streams.tally import TallyStage
from streams.transact import Transactor
from streams.write import write
from tests.faults.crash_points import (
    Death,
    MortalClients,
    MortalDatabase,
    MortalSink,
    drawn,
    mortal_stripe,
)
from tests.streams.on_kafka import Loop
from tests.streams.summing import Summing

#: How a stage ends that asks for a person.
STOPPED = 2

#: Processes are forked from one that has imported everything, so that a restart takes no second.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])

# With its first array pyarrow imports a second's worth of modules, and numba a fifth of one with
# its first function: before the fork, too.
pa.array([0])
get_ready()

#: What the stand-in of Stripe lets in; as a live key has, a thousand calls a second.
STRIPE_KEY = "rk_live_stand_in"


@dataclass(frozen=True)
class Life:
    """How one process of a stage lives; `batch_max` is in records."""

    stage: str
    address: str
    definitions: Definitions
    instance: str = "a"
    shards: int = 4
    batch_max: int = 10_000
    session_timeout_ms: int = 1_000
    transaction_timeout_ms: int = 2_000
    #: Kill itself at any of its points, one of the first so many times; 0: not at all.
    dies_within: int = 0
    seed: str = ""
    #: Kill itself at this point, one of `crash_points.POINTS`, the so manieth time.
    dies_at: str = ""
    dies_in: int = 1
    #: The file that gets the name of the point at which it died.
    witness: Path | None = None
    #: Pause itself (SIGSTOP) before this effect of a transaction, in the third one.
    pause_before: str = ""
    #: Where the embedded ClickHouse and the stand-in of Stripe are.
    clickhouse_url: str = ""
    stripe_url: str = ""
    #: Where tally keeps a copy of its state, if it does.
    state_directory: str = ""
    #: A known mistake, one of `BUGS`.
    bug: str = ""

    def start(self) -> BaseProcess:
        """Begin this life."""
        process = _PROCESSES.Process(target=_live, args=(self,), daemon=True)
        process.start()
        return process

    def again(self, number: int, dies_within: int) -> Life:
        """The next life of the same process."""
        seed = f"{self.seed}.{number}"
        return replace(self, seed=seed, pause_before="", dies_within=dies_within, dies_at="")

    def death(self) -> Death:
        """How this life ends, if it does by itself."""
        if self.pause_before:
            point = f"before transaction.{self.pause_before}"
            return Death(self.stage, point, number=3, signal=signal.SIGSTOP)
        if self.dies_within:
            return drawn(self.stage, random.Random(self.seed), self.dies_within)
        return Death(self.stage, self.dies_at, self.dies_in, self.witness)


def start_summing(address: str, name: str, *, pauses: bool) -> BaseProcess:
    """A `Summing` stage in a process, which may pause itself (SIGSTOP) before its second step."""
    process = _PROCESSES.Process(target=_sum, args=(address, name, pauses), daemon=True)
    process.start()
    return process


def is_paused(process: BaseProcess) -> bool:
    """Whether a process was stopped by SIGSTOP."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _sum(address: str, name: str, pauses: bool) -> None:
    steps = itertools.count(1)

    def pause(_: object) -> None:
        if next(steps) == 2 and pauses:
            os.kill(os.getpid(), signal.SIGSTOP)
            # Long enough to hear from the group that its membership is over.
            time.sleep(1.5)

    streams.stage.SESSION_TIMEOUT_MS = 1_000
    stage = Summing(name, before_step=pause)
    kafka = {"bootstrap.servers": address, "log_level": "0"}
    Transactor(stage, ConfluentClients(kafka), instance="paused", stop=threading.Event()).run()


def _live(life: Life) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())
    streams.stage.SESSION_TIMEOUT_MS = life.session_timeout_ms
    confluent_calls.TRANSACTION_TIMEOUT_MS = life.transaction_timeout_ms
    if life.bug:
        BUGS[life.bug](life)
    death = life.death()
    clients = MortalClients(
        ConfluentClients({"bootstrap.servers": life.address, "log_level": "0"}), death
    )
    try:
        _loop(life, clients, death, stop).run()
    except Stop as reason:
        print(f"{life.stage} {life.instance}: {reason}", flush=True)
        os._exit(STOPPED)


def _loop(life: Life, clients: Clients, death: Death, stop: threading.Event) -> Loop:
    """The loop of a stage, as `meterline run` wires it."""
    if life.stage in ("clickhouse", "stripe"):
        sink: Any
        answers = None
        if life.stage == "clickhouse":
            connection = Connection(life.clickhouse_url, SecretStr(""))
            sink = ClickHouseSink(MortalDatabase(connection, death))
        else:
            client = mortal_stripe(stripe_client(SecretStr(STRIPE_KEY), life.stripe_url), death)
            sink = StripeSink(client, calls_per_second=LIVE_CALLS_PER_SECOND)
            answers = Answers(clients, topics.OUTBOX.name, topics.DELIVERIES.name)
        return Deliverer(
            life.stage,
            cast(Sink, MortalSink(sink, death)),
            clients,
            instance=life.instance,
            stop=stop,
            linger_ms=20,
            batch_max=life.batch_max,
            notes_attempts=life.stage == "stripe",
            answers=answers,
        )
    stage: Stage
    if life.stage == "intake":
        stage = IntakeStage(life.definitions, life.shards)
    elif life.stage == "tally":
        stage = TallyStage(life.shards)
        # So that kills hit snapshots, in all their pieces, though few events pass here.
        vars(pipeline.tally).update(_SNAPSHOT_IDS=2_000, _PIECE_IDS=20)
        if life.state_directory:
            kafka, state = {"bootstrap.servers": life.address}, stage.state_topic
            directory = Path(life.state_directory)
            clients = MirroredClients(clients, directory, state, lambda: topic_id(kafka, state))
    else:
        stage = BillStage(life.definitions, life.shards)
    return Transactor(
        stage,
        clients,
        instance=life.instance,
        stop=stop,
        linger_ms=5,
        batch_max=life.batch_max,
    )


def _commit_offsets_first(_: Life) -> None:
    transact = session.Session.transact

    def commit_first(self: Any, part: Any, outgoing: Any) -> None:
        self._consumer.commit(
            {
                (self._stage.input_topic, partition): Committed(offset)
                for partition, offset in part.ends.items()
            }
        )
        transact(self, part, outgoing)

    session.Session.transact = commit_first  # type: ignore[method-assign]


def _forget_ids(_: Life) -> None:
    restored = Restore.shard

    def without_ids(self: Restore) -> Shard:
        shard = restored(self)
        shard.ids = IdTable()
        return shard

    Restore.shard = without_ids  # type: ignore[method-assign]


def _alert_outside_the_transaction(life: Life) -> None:
    aside = confluent_kafka.Producer({"bootstrap.servers": life.address})
    transact = session.Session.transact

    def alert_first(self: Any, part: Any, outgoing: Any) -> None:
        write(aside, [record for record in outgoing if record.topic == topics.ALERTS.name])
        transact(self, part, [record for record in outgoing if record.topic != topics.ALERTS.name])

    session.Session.transact = alert_first  # type: ignore[method-assign]


def _confirm_before_the_sink_has_it(_: Life) -> None:
    deliver = Deliverer._deliver

    def confirm_first(self: Any, consumer: Any, writer: Any) -> None:
        reached = {(r.topic, r.partition): Committed(r.offset + 1) for r in self._batch}
        consumer.commit(reached)
        deliver(self, consumer, writer)

    Deliverer._deliver = confirm_first  # type: ignore[method-assign]


BUGS: dict[str, Callable[[Life], None]] = {
    "offsets are committed before the outputs": _commit_offsets_first,
    "a restore forgets identities": _forget_ids,
    "alerts are written outside the transaction": _alert_outside_the_transaction,
    "positions are committed before the sink has written": _confirm_before_the_sink_has_it,
}
