"""Every delta counts once at Stripe and in order, over all faults and deaths of the process."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from pipeline.bill import split
from pipeline.record import Attempt, Record
from schemas.billing import Delivery, Delta
from schemas.quantity import from_plain, plain
from schemas.topics import OUTBOX
from sinks.stripe import settle
from sinks.stripe.account import Call, Fault
from sinks.stripe.stand_in import StripeStandIn, seeded_faults
from tests.sinks.stripe.delivering import (
    KEY,
    MINUTE_MS,
    START_MS,
    Clock,
    check_exact,
    deliveries,
    delta,
    records,
    said,
    sink,
)

#: Every fault that Stripe gets over by itself.
RATES: dict[Fault, float] = {fault: 0.09 for fault in Fault if fault != Fault.FORBIDDEN}
#: A run needs some 30 rounds; one that never gets on ends here.
ROUNDS_MAX = 300


class Loop:
    """The delivery loop in miniature; position, attempt and deliveries outlive the process."""

    def __init__(
        self, deltas: Sequence[Delta], stand_in: StripeStandIn, clock: Clock, seed: int
    ) -> None:
        self.log = records(deltas)
        self.position = 0
        self.attempt: Attempt | None = None
        self.deliveries: list[Delivery] = []
        self._stand_in = stand_in
        self._clock = clock
        self._draw = random.Random(seed)
        self._start()

    def _start(self) -> None:
        """A new process, which reads again from the position on."""
        self._sink = sink(self._stand_in, self._clock)
        if self.attempt is not None:
            answered = {each.identifier.encode() for each in self.deliveries}
            self.attempt = replace(self.attempt, answered=answered)
        self._sink.resume(OUTBOX.name, 0, self.attempt)
        self._waiting: Sequence[Record] = ()
        self._next = self.position

    def run(self) -> None:
        """Deliver everything; the process dies now and then, before or after a write's end."""
        for _ in range(ROUNDS_MAX):
            if self.position == len(self.log):
                return
            begin = self._next
            self._next = min(begin + self._draw.randint(1, 9), len(self.log))
            if self.attempt is not None and begin <= self.attempt.through_offset:
                # As the process before it began.
                self._next = self.attempt.through_offset + 1
            since_ms = self.attempt.since_ms if self.attempt else self._clock.now_ms
            self.attempt = Attempt(self._next - 1, since_ms)
            self._clock.now_ms += self._draw.randint(0, MINUTE_MS)
            batch = [*self._waiting, *self.log[begin : self._next]]
            written = self._sink.write(batch, self._clock.now_ms)
            if self._draw.random() < 0.2:
                self._start()
                continue
            self.deliveries += said(written)
            self.position = written.positions[OUTBOX.name, 0]
            self._waiting = written.waiting
            if self.position == self._next:
                self.attempt = None
            if self._draw.random() < 0.2:
                self._start()
        raise AssertionError(f"stuck at offset {self.position}")


def played(seed: int) -> tuple[StripeStandIn, list[Delta], list[Delivery], list[str]]:
    """One run with seeded faults and deaths: what there was, its end, and the order of events."""
    clock = Clock()
    deltas = [
        delta(number, customer, event_name)
        for number in range(4)
        for customer in ("cus_1", "cus_2", "cus_3")
        for event_name in ("tokens", "calls")
    ]
    faults = seeded_faults(seed, RATES)
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms, faults=faults) as stand_in:
        loop = Loop(deltas, stand_in, clock, seed)
        loop.run()
        return stand_in, deltas, loop.deliveries, [e.identifier for e in stand_in.journal]


@pytest.mark.parametrize("seed", range(24))
def test_sums_are_exact_over_all_faults_and_deaths(seed: int) -> None:
    stand_in, deltas, made, order = played(seed)
    check_exact(stand_in, deltas, made)
    assert {each.outcome for each in made} == {"delivered"}
    for lane in {(each.customer, each.meter) for each in deltas}:
        expected = [each.identifier for each in deltas if (each.customer, each.meter) == lane]
        assert [identifier for identifier in order if identifier in expected] == expected


def test_the_checker_catches_a_duplicate_that_is_taken_for_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settle, "is_duplicate", lambda _error: False)
    caught = 0
    for seed in range(6):
        stand_in, deltas, made, _ = played(seed)
        try:
            check_exact(stand_in, deltas, made)
        except AssertionError:
            caught += 1
    assert caught >= 3


@pytest.mark.parametrize(
    "usage", ["1234567890123456789012345678901234567.000000001", "-0.1", "7e20"]
)
def test_usage_of_any_size_arrives_exactly(usage: str) -> None:
    addends = [plain(units) for units in split(from_plain(usage))]
    deltas = [delta(n).model_copy(update={"value": value}) for n, value in enumerate(addends)]
    with StripeStandIn(KEY) as stand_in:
        check_exact(stand_in, deltas, deliveries(sink(stand_in, Clock()), deltas, START_MS))
        assert stand_in.sums() == {("cus_1", "tokens"): Decimal(usage)}


def test_one_customer_and_meter_has_one_call_at_a_time_and_others_go_side_by_side() -> None:
    together = threading.Barrier(2, timeout=30)
    clock = Clock()

    def waits_for_the_other(call: Call) -> Fault | None:
        if call.identifier.endswith("-0"):
            together.wait()
        return None

    deltas = [delta(number, customer) for number in range(9) for customer in ("cus_1", "cus_2")]
    with StripeStandIn(KEY, faults=waits_for_the_other) as stand_in:
        check_exact(stand_in, deltas, deliveries(sink(stand_in, clock), deltas, START_MS))
    assert max(clock.sleeps, default=0) < 0.1, "the stand-in saw two calls of a lane at once"
