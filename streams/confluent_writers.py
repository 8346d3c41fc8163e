"""The real writers, with and without transactions: confluent-kafka behind `streams.clients`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.record import Outgoing
from streams import confluent_calls as calls
from streams.clients import Committed, Place
from streams.connection_log import ConnectionLog
from streams.write import WRITER, write


class ConfluentWriter:
    """A `Writer`. Whoever has nothing to write needs no right to: the producer asks for one."""

    def __init__(self, kafka: Mapping[str, str], client_id: str) -> None:
        self._settings = (
            # As long as nothing is written, nobody polls for what it logs; what matters is raised.
            {"log_level": 2}
            | dict(kafka)
            | WRITER
            | calls.patience()
            | {"client.id": client_id, "enable.idempotence": True, "linger.ms": 5}
        )

    @cached_property
    def _producer(self) -> Producer:
        return Producer(self._settings)

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish in order and wait."""
        return write(self._producer, outgoing) if outgoing else []


class ConfluentTransactions:
    """A `TransactionalWriter`.

    When a connection breaks, the client library sends again what was not answered. The first copy
    may reach the broker all the same, and late: within the next transaction, which it would end too
    early, or give positions of the one before. A broker that knows transactions apart turns it away
    (KIP-890), but not with this library. So after a connection broke, the id is claimed anew by
    another client before the next transaction: what comes late is then of an epoch that is over.
    """

    def __init__(self, kafka: Mapping[str, str], transactional_id: str) -> None:
        self._log = ConnectionLog(kafka)
        self._settings = (
            dict(kafka)
            | WRITER
            | calls.patience()
            | self._log.settings()
            | {
                "transactional.id": transactional_id,
                "client.id": transactional_id,
                "transaction.timeout.ms": calls.TRANSACTION_TIMEOUT_MS,
                "linger.ms": 0,
                # From 100 ms: what a commit waits when its coordinator is not ready yet.
                "retry.backoff.ms": 1,
            }
        )
        self._producer = Producer(self._settings)
        self._ended_at = time.monotonic()

    def fence(self) -> None:
        """Claim the id."""
        # Of a client that knows no broker yet, one in three would ask half a second later.
        self._producer.list_topics(timeout=calls.ANSWER_SECONDS)
        self._producer.init_transactions(calls.ANSWER_SECONDS)

    def begin(self) -> None:
        """Begin a transaction."""
        self._producer.poll(0)
        rested_seconds = time.monotonic() - self._ended_at
        # A client that rested may have left a break unsaid, and would then leave out the next one.
        if self._log.has_break or rested_seconds > ConnectionLog.REST_SECONDS:
            self._log.has_break = False
            self._producer = Producer(self._settings)
            self.fence()
            self._producer.poll(0)
            if self._log.has_break:
                raise KafkaException(KafkaError(KafkaError._TRANSPORT, "a connection broke again"))
        self._producer.begin_transaction()

    def write(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish and wait, because the flush inside the commit waits ten times as long."""
        return write(self._producer, outgoing)

    def send_offsets(self, reached: Mapping[Place, Committed], membership: object) -> None:
        """Make positions part of the transaction."""
        if membership is None:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        seconds = calls.TRANSACTION_TIMEOUT_MS / 1000
        calls.within(
            seconds,
            lambda: self._producer.send_offsets_to_transaction(
                calls.positions(reached), membership, seconds
            ),
        )

    def commit(self) -> None:
        """Make all of it visible."""
        self._producer.commit_transaction(calls.ANSWER_SECONDS)
        self._ended_at = time.monotonic()

    def abort(self) -> None:
        """Give up whatever is open."""
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(calls.ANSWER_SECONDS)
        with contextlib.suppress(KafkaException):
            # What could not be aborted in time must not be sent later.
            self._producer.purge()
            self._producer.poll(0)
