"""The transactional shell: reads a batch, calls a pure step, writes everything in one transaction.

Outputs, state segments and input offsets become visible together or not at all. After any error the
session ends: abort, drop the shards' memory, begin anew from what is committed. This module and the
session are the only place that knows transactions.
"""

from __future__ import annotations

import ctypes
import gc
import math

import pyarrow as pa
import structlog
from confluent_kafka import KafkaException

from streams.clients import Clients, StopSignal
from streams.failures import Patience
from streams.session import Session
from streams.stage import Stage

log = structlog.get_logger()

_PAUSE_SECONDS = 0.5

#: So often a loop that waits for records looks whether it shall stop.
_LOOK_UP_SECONDS = 0.2

#: So long it lets records come before it takes them too: one by one they would cost far more.
_TICK_SECONDS = 0.01

#: What glibc's `mallopt` takes (malloc.h), in bytes: what is asked for in one piece below the first
#: is kept when it is free, up to the second, and comes from the system in pieces of the third. What
#: a table outgrew is larger, and given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD = -3, -1, -2
_MALLOC_OPTIONS = {
    _M_MMAP_THRESHOLD: 256 * 1024 * 1024,
    _M_TRIM_THRESHOLD: 1024 * 1024 * 1024,
    _M_TOP_PAD: 64 * 1024 * 1024,
}


def tune_process() -> None:
    """Once for a process that transacts, before it does.

    What a step makes has no cycles, so looking for them again and again finds nothing: more objects
    than a batch has, and all that it becomes, must have come and not gone. And it is as large as
    what the step before made, so memory that is given back to the system in between is asked for
    again, page by page: a twentieth of all that counting costs.
    """
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 50)
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # Other C libraries have none.
        for option, value_bytes in _MALLOC_OPTIONS.items():
            mallopt(option, value_bytes)


class Transactor:
    """Runs one stage until `stop` is set.

    A batch is at most `batch_max` records and `batch_bytes_max` bytes, gathered for at most
    `linger_ms`.
    """

    def __init__(
        self,
        stage: Stage,
        clients: Clients,
        *,
        instance: str,
        stop: StopSignal,
        linger_ms: int = 5,
        batch_max: int = 50_000,
        batch_bytes_max: int = 64 * 1024 * 1024,
    ) -> None:
        self._stage = stage
        self._clients = clients
        self._instance = instance
        self._stop = stop
        self._linger_seconds = linger_ms / 1000
        self._batch_max = batch_max
        self._batch_bytes_max = batch_bytes_max
        #: What a record of the last batch had; the first is read alone, to see.
        self._record_bytes = batch_bytes_max

    def run(self) -> None:
        """Work until stopped.

        Raises:
            Stop: when going on would lose or falsify something.
        """
        patience = Patience(f"stage {self._stage.name}", self._clients.clock)
        while not self._stop.is_set():
            try:
                with Session(self._stage, self._clients, self._instance) as session:
                    self._work(session)
            except KafkaException as error:
                patience.stop_if_hopeless(error)
                log.warning("session ended, starting anew", stage=self._stage.name, why=str(error))
                self._stop.wait(_PAUSE_SECONDS)

    def _work(self, session: Session) -> None:
        session.open()
        while not self._stop.is_set():
            self._gather(session)
            if session.count:
                self._step(session)
            if session.may_move_on:
                session.move_on()

    def _step(self, session: Session) -> None:
        for part in self._stage.parts(session.take()):
            session.transact(part, self._stage.step(part))
            if self._stop.is_set():
                return

    def _gather(self, session: Session) -> None:
        """Fill the session's batch for one linger time, counted from its first record.

        What came while the transaction before was under way is there at once, and read at once,
        so under load a batch is as large as that took, whatever the linger time.
        """
        clock = self._clients.clock
        size = 0
        deadline = math.inf
        while session.count < self._batch_max and size < self._batch_bytes_max:
            if self._stop.is_set():
                return
            count = session.count
            # As many as fit if they are as large as those before.
            fit = (self._batch_bytes_max - size) // self._record_bytes + 1
            at_once = min(self._batch_max - count, fit)
            size += session.read(at_once, 0 if count else _LOOK_UP_SECONDS)
            if not session.count:
                return
            self._record_bytes = max(size // session.count, 1)
            now = clock.monotonic()
            deadline = min(deadline, now + self._linger_seconds)
            if session.count < count + at_once:
                if now >= deadline:
                    return
                clock.sleep(min(deadline - now, _TICK_SECONDS))
