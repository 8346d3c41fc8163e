"""Deliver: take deltas from the outbox to Stripe, and record what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import stripe
from pydantic import ValidationError

from pipeline.errors import Retry, Stop
from pipeline.record import Attempt, Outgoing, Record, Written
from schemas.billing import Delivery, Delta
from schemas.topics import DELIVERIES, OUTBOX
from sinks.stripe.client import CONNECTIONS
from sinks.stripe.pace import Pace
from sinks.stripe.settle import Progress, Settler

#: Nothing is sent later than this after its write began: `settle` counts on Stripe's memory from
#: the beginning of a write.
_WRITE_SECONDS_MAX: Final = 120.0

#: The part of the allowed rate that is used: calls arrive less evenly than they are sent, and at
#: the full rate some second would see a few too many (`benchmarks.stripe_flush`).
_SHARE: Final = 0.95


@dataclass(frozen=True)
class _Write:
    """One call of `write`: its time, its deadline by `wall`, and whether a lane has failed."""

    now_ms: int
    deadline: float
    failed: threading.Event


class StripeSink:
    """Takes deltas from the outbox at least once and makes them count once; a `Sink`.

    Deltas of one Stripe customer and meter go one after another in the outbox's order, which is
    also Stripe's limit; others go side by side.
    """

    topics: Sequence[str] = (OUTBOX.name,)

    def __init__(
        self,
        client: stripe.StripeClient,
        *,
        calls_per_second: float,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(CONNECTIONS),
    ) -> None:
        """`wall` also counts the seconds in which this machine slept; `executor` makes what sends
        lanes side by side, a new one for each write.
        """
        pace = Pace(calls_per_second * _SHARE, sleep=sleep, monotonic=monotonic)
        self._settler = Settler(client, pace, sleep, wall)
        self._wall = wall
        self._executor = executor
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._progress: dict[tuple[str, int, int], Progress] = {}

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:
        """Begin with a partition; records of `attempt` may have reached Stripe already."""
        self.forget(topic, partition)
        if attempt is not None:
            self._attempts[topic, partition] = attempt

    def ahead(self) -> Set[tuple[str, int]]:
        """Nothing ever waits for another topic."""
        return frozenset()

    def forget(self, topic: str, partition: int) -> None:
        """Drop what is known of a partition."""
        self._attempts.pop((topic, partition), None)
        for place in [place for place in self._progress if place[:2] == (topic, partition)]:
            del self._progress[place]

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Send `records`, less those that were settled before it raised the last time.

        Returns:
            The positions behind `records`, and one `Delivery` for each of them.

        Raises:
            Retry: Stripe cannot be reached, or is overloaded, or this took too long.
            Stop: the key may not write meter events, or the outbox holds what is no delta.
        """
        batch = [(record, _delta(record), self._progress_of(record)) for record in records]
        lanes: dict[tuple[str, str], list[tuple[Delta, Progress]]] = {}
        for _, delta, progress in batch:
            lane = lanes.setdefault((delta.stripe_customer_id, delta.event_name), [])
            lane.append((delta, progress))
        write = _Write(now_ms, self._wall() + _WRITE_SECONDS_MAX, threading.Event())
        with self._executor() as pool:
            futures = [pool.submit(self._send_lane, lane, write) for lane in lanes.values()]
        failures = [failure for future in futures if (failure := future.exception())]
        if failures:
            raise max(failures, key=_gravity)
        positions: dict[tuple[str, int], int] = {}
        outgoing = []
        for record, _, progress in batch:
            if progress.delivery is not None:
                outgoing.append(_outgoing(record, progress.delivery))
            positions[record.topic, record.partition] = record.offset + 1
            self._progress.pop(_place(record), None)
        return Written(positions, outgoing)

    def _progress_of(self, record: Record) -> Progress:
        attempt = self._attempts.get((record.topic, record.partition))
        sent_before = attempt is not None and record.offset <= attempt.through_offset
        fresh = Progress(attempt.since_ms if attempt and sent_before else None)
        return self._progress.setdefault(_place(record), fresh)

    def _send_lane(self, lane: Sequence[tuple[Delta, Progress]], write: _Write) -> None:
        """One customer and meter, in order; leaves the rest as soon as any lane has failed."""
        try:
            for delta, progress in lane:
                if write.failed.is_set():
                    return
                if progress.delivery is None:
                    progress.delivery = self._settler.settle(
                        delta, progress, write.now_ms, write.deadline
                    )
        except BaseException:
            write.failed.set()
            raise


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _delta(record: Record) -> Delta:
    try:
        # What a newer version says beside this may be what makes it count.
        return Delta.model_validate_json(record.value or b"", extra="forbid")
    except ValidationError:
        topic, partition, offset = _place(record)
        raise Stop(
            f"The record in {topic}/{partition} at offset {offset} is not a delta.",
            remedy="Find what else writes to the outbox, or upgrade this program.",
        ) from None


def _outgoing(record: Record, delivery: Delivery) -> Outgoing:
    return Outgoing(
        DELIVERIES.name,
        delivery.model_dump_json().encode(),
        key=delivery.identifier.encode(),
        partition=record.partition,
    )


def _gravity(failure: BaseException) -> tuple[bool, float]:
    """Orders failures: what must stop the process first, then the longest wait."""
    if isinstance(failure, Retry):
        return False, failure.after_seconds or 0
    return True, 0
