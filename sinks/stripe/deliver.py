"""Deliver: take deltas from the outbox to Stripe, and record what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import stripe
from pydantic import ValidationError

from pipeline.errors import Retry, Stop
from pipeline.record import Attempt, Outgoing, Record, Written
from schemas.billing import Delivery, Delta
from schemas.topics import DELIVERIES, OUTBOX
from sinks.stripe.client import CONNECTIONS
from sinks.stripe.pace import Pace
from sinks.stripe.settle import TRIES, Progress, Settler

#: Nothing is sent later than this after its write began: `settle` counts on Stripe's memory from
#: the beginning of a write.
_WRITE_SECONDS_MAX: Final = 120.0

#: How long a lane is left alone that fails while Stripe takes others, and of it nothing.
_REST_SECONDS: Final = 120.0

#: By how much the clocks of two machines may differ.
_CLOCKS_DIFFER_MS_MAX: Final = 3_600_000

#: The part of the allowed rate that is used: calls arrive less evenly than they are sent, and at
#: the full rate some second would see a few too many (`benchmarks.stripe_flush`).
_SHARE: Final = 0.95

#: A customer at Stripe, and the name of a meter's events.
_Name = tuple[str, str]


@dataclass
class _Lane:
    """Deltas of one customer and meter, in the outbox's order."""

    name: _Name
    deltas: list[tuple[Delta, Progress]] = field(default_factory=list)
    failure: Retry | None = None

    def is_settled(self) -> bool:
        """Whether nothing of it is left to send."""
        return all(progress.is_done for _, progress in self.deltas)

    def gets_on(self) -> bool:
        """Whether some of it was settled in this write."""
        return any(progress.delivery is not None for _, progress in self.deltas)

    def fails_alone(self) -> bool:
        """Whether it failed, and Stripe did not ask everybody to wait."""
        return self.failure is not None and self.failure.after_seconds is None


@dataclass(frozen=True)
class _Write:
    """One call of `write`: its time, its deadline by `wall`, and what has happened so far."""

    now_ms: int
    deadline: float
    failed: threading.Event = field(default_factory=threading.Event)
    settled: threading.Event = field(default_factory=threading.Event)


class StripeSink:
    """Takes deltas from the outbox at least once and makes them count once; a `Sink`.

    Deltas of one Stripe customer and meter, a lane, go one after another in the outbox's order,
    which is also Stripe's limit; lanes go side by side. A lane that fails while Stripe takes others
    holds up nothing but itself.
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
        #: By record: its delta, and what is known of it while it is not committed.
        self._begun: dict[tuple[str, int, int], tuple[Delta, Progress]] = {}
        #: Offsets behind the last record of each partition that was given.
        self._ends: dict[tuple[str, int], int] = {}
        #: Lanes whose last try failed, and when by `wall` they may be tried again.
        self._failing: dict[_Name, float] = {}

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
        self._ends.pop((topic, partition), None)
        self._failing.clear()
        for place in [place for place in self._begun if place[:2] == (topic, partition)]:
            del self._begun[place]

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Send `records`, less those that were settled before.

        Returns:
            One `Delivery` for each that was settled now, and the positions before the first one of
            each partition that was not. Those wait: Stripe cannot be reached, is overloaded or too
            slow, or fails them alone.

        Raises:
            Stop: the key may not write meter events, or the outbox holds what is no delta.
        """
        batch = [(record, *self._known(record)) for record in records]
        lanes: dict[_Name, _Lane] = {}
        for _, delta, progress in batch:
            name = (delta.stripe_customer_id, delta.event_name)
            lanes.setdefault(name, _Lane(name)).deltas.append((delta, progress))
        began = self._wall()
        write = _Write(now_ms, began + _WRITE_SECONDS_MAX)
        # Those that have failed come last: what they do says little about Stripe.
        self._send((lane for lane in lanes.values() if lane.name not in self._failing), write)
        rested = {name for name, again_at in self._failing.items() if again_at <= began}
        self._send((lane for lane in lanes.values() if lane.name in rested), write, tries=1)
        self._remember_failing(lanes, rests=write.settled.is_set())
        return self._written(batch, _refusal(lanes.values(), write))

    def _known(self, record: Record) -> tuple[Delta, Progress]:
        """A record's delta, and what is known of it, from this process or from an earlier one."""
        known = self._begun.get(_place(record))
        if known is None:
            delta, progress = _delta(record), Progress()
            attempt = self._attempts.get((record.topic, record.partition))
            if attempt is not None and record.offset <= attempt.through_offset:
                # It was not sent before it was there.
                there_ms = record.timestamp_ms - _CLOCKS_DIFFER_MS_MAX
                progress.unsettled_since_ms = max(attempt.since_ms, there_ms)
                progress.is_answered = delta.identifier.encode() in attempt.answered
            known = self._begun[_place(record)] = delta, progress
        return known

    def _send(self, lanes: Iterable[_Lane], write: _Write, tries: int = TRIES) -> None:
        """Send lanes side by side, none any more as soon as one has failed.

        Raises:
            Stop: or whatever else no wait mends.
        """
        wanted = [lane for lane in lanes if not lane.is_settled()]
        if not wanted or write.failed.is_set():
            return
        with self._executor() as pool:
            futures = [pool.submit(self._send_lane, lane, write, tries) for lane in wanted]
        for future in futures:
            future.result()

    def _send_lane(self, lane: _Lane, write: _Write, tries: int) -> None:
        """One customer and meter, in order; leaves the rest as soon as any lane has failed."""
        try:
            for delta, progress in lane.deltas:
                if write.failed.is_set():
                    return
                if not progress.is_done:
                    progress.delivery = self._settler.settle(
                        delta, progress, write.now_ms, write.deadline, tries
                    )
                    write.settled.set()
        except Retry as failure:
            lane.failure = failure
            write.failed.set()
        except BaseException:
            write.failed.set()
            raise

    def _remember_failing(self, lanes: dict[_Name, _Lane], *, rests: bool) -> None:
        again_at = self._wall() + (_REST_SECONDS if rests else 0)
        for lane in lanes.values():
            if lane.gets_on() or lane.is_settled():
                self._failing.pop(lane.name, None)
            elif lane.fails_alone():
                self._failing[lane.name] = again_at
        # What waits is in every batch; other lanes went to another process.
        self._failing = {name: at for name, at in self._failing.items() if name in lanes}

    def _written(
        self, batch: Sequence[tuple[Record, Delta, Progress]], refusal: Retry | None
    ) -> Written:
        outgoing = []
        waiting: list[Record] = []
        ends: dict[tuple[str, int], int] = {}
        first_waiting: dict[tuple[str, int], int] = {}
        for record, _, progress in batch:
            place = (record.topic, record.partition)
            # What lies behind the batch's last record may have been settled beside what waited.
            ends[place] = max(record.offset + 1, self._ends.get(place, 0))
            self._ends[place] = ends[place]
            if not progress.is_done:
                waiting.append(record)
                first_waiting.setdefault(place, record.offset)
                continue
            if progress.delivery is not None:
                outgoing.append(_outgoing(record, progress.delivery))
            del self._begun[_place(record)]
        return Written(ends | first_waiting, outgoing, waiting, refusal)


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


def _refusal(lanes: Iterable[_Lane], write: _Write) -> Retry | None:
    """The longest wait that Stripe asks for; none, if it takes others meanwhile."""
    failures = [(lane, lane.failure) for lane in lanes if lane.failure is not None]
    if not failures:
        return None
    lane, failure = max(failures, key=lambda each: each[1].after_seconds or 0)
    wait = failure.after_seconds
    if wait is None and write.settled.is_set():
        wait = 0
    customer, event_name = lane.name
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return Retry(
        f"{failure.message} (events {event_name} of {customer}{others}).",
        remedy=failure.remedy,
        after_seconds=wait,
    )
