"""intake or tally as a process that a test may kill, pause and restart, and that harms itself."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import confluent_kafka
import pyarrow as pa
import structlog

import streams.stage
from pipeline.dedupe import IdTable
from pipeline.errors import Stop
from pipeline.shard import Shard
from pipeline.shard import restore as restore_shard
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import Frame
from streams import confluent, session
from streams.clients import Committed
from streams.confluent import ConfluentClients
from streams.intake import IntakeStage
from streams.stage import Stage
from streams.tally import TallyStage
from streams.transact import Transactor
from streams.write import write
from tests.streams.summing import Summing

#: How a stage ends that asks for a person.
STOPPED = 2

#: Processes are forked from one that has imported everything, so that a restart takes no second.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])

# With its first array pyarrow imports a second's worth of modules: before the fork, too.
pa.array([0])

#: The steps of a transaction, by what comes next.
STEPS = ("begin", "outputs", "offsets", "commit", "next batch")


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
    #: Kill itself before some step of one of the first so many transactions; 0: not at all.
    dies_within: int = 0
    seed: str = ""
    #: Pause itself (SIGSTOP) before this step of the third transaction.
    pause_before: str = ""
    #: A known mistake, one of `BUGS`.
    bug: str = ""

    def start(self) -> BaseProcess:
        """Begin this life."""
        process = _PROCESSES.Process(target=_live, args=(self,), daemon=True)
        process.start()
        return process

    def again(self, number: int, dies_within: int) -> Life:
        """The next life of the same process."""
        return replace(self, seed=f"{self.seed}.{number}", pause_before="", dies_within=dies_within)


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
    confluent.TRANSACTION_TIMEOUT_MS = life.transaction_timeout_ms
    vars(confluent)["Producer"] = _harming_itself(life)
    if life.bug:
        BUGS[life.bug](life)
    stage: Stage = (
        IntakeStage(life.definitions, life.shards) if life.stage == "intake" else TallyStage()
    )
    kafka = {"bootstrap.servers": life.address, "log_level": "0"}
    transactor = Transactor(
        stage,
        ConfluentClients(kafka),
        instance=life.instance,
        stop=stop,
        linger_ms=5,
        batch_max=life.batch_max,
    )
    try:
        transactor.run()
    except Stop as reason:
        print(f"{life.stage} {life.instance}: {reason}", flush=True)
        os._exit(STOPPED)


def _harming_itself(life: Life) -> type[confluent_kafka.Producer]:
    rng = random.Random(life.seed)
    transactions = 0
    last = (rng.randint(1, life.dies_within), rng.choice(STEPS)) if life.dies_within else None

    def before(step: str) -> None:
        if (transactions, step) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == life.pause_before and transactions == 3:
            os.kill(os.getpid(), signal.SIGSTOP)

    class Harmed(confluent_kafka.Producer):
        def begin_transaction(self) -> None:
            nonlocal transactions
            transactions += 1
            before("begin")
            super().begin_transaction()
            before("outputs")

        def flush(self, *arguments: Any) -> int:
            left = super().flush(*arguments)
            before("offsets")
            return left

        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            super().send_offsets_to_transaction(*arguments)
            before("commit")

        def commit_transaction(self, *arguments: Any) -> None:
            super().commit_transaction(*arguments)
            before("next batch")

    return Harmed


def _commit_offsets_first(_: Life) -> None:
    transact = session.Session.transact

    def commit_first(self: Any, outgoing: Any) -> None:
        self._consumer.commit(
            {
                (self._stage.input_topic, partition): Committed(self._positions[partition])
                for partition in {record.partition for record in self.batch}
            }
        )
        transact(self, outgoing)

    session.Session.transact = commit_first  # type: ignore[method-assign]


def _forget_ids(_: Life) -> None:
    def without_ids(frames: Iterable[Frame]) -> Shard:
        shard = restore_shard(frames)
        shard.ids = IdTable()
        return shard

    vars(streams.tally)["restore"] = without_ids


def _alert_outside_the_transaction(life: Life) -> None:
    aside = confluent_kafka.Producer({"bootstrap.servers": life.address})
    transact = session.Session.transact

    def alert_first(self: Any, outgoing: Any) -> None:
        write(aside, [record for record in outgoing if record.topic == topics.ALERTS.name])
        transact(self, [record for record in outgoing if record.topic != topics.ALERTS.name])

    session.Session.transact = alert_first  # type: ignore[method-assign]


BUGS: dict[str, Callable[[Life], None]] = {
    "offsets are committed before the outputs": _commit_offsets_first,
    "a restore forgets identities": _forget_ids,
    "alerts are written outside the transaction": _alert_outside_the_transaction,
}
