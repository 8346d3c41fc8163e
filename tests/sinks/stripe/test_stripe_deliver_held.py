"""What Stripe refuses is shown as refused, what it may have counted as held: none bills twice."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec import structs

from pipeline.record import Attempt
from schemas.billing import Delivery, Delta
from schemas.topics import OUTBOX
from sinks.stripe import settle
from sinks.stripe.account import Call, Fault
from sinks.stripe.stand_in import StripeStandIn
from tests.sinks.stripe.delivering import (
    HOUR_MS,
    KEY,
    START_MS,
    Clock,
    check_exact,
    deliveries,
    delta,
    in_turn,
    records,
    refusal,
    said,
    sink,
)


def test_a_refused_delta_is_recorded_with_a_remedy_and_does_not_block_others() -> None:
    deltas = [delta(0), delta(0, "cus_unknown"), delta(1, "cus_unknown"), delta(1)]
    with StripeStandIn(KEY, customers={"cus_1"}, refuses_unknown=True) as stand_in:
        made = deliveries(sink(stand_in, Clock()), deltas, START_MS)
        check_exact(stand_in, deltas, made)
    outcomes = [each.outcome for each in made]
    assert outcomes == ["delivered", "refused", "refused", "delivered"]
    assert made[1].reason.startswith("meter_event_customer_not_found: ")
    assert "stripe_customer_id" in made[1].remedy


def test_a_refusal_after_a_send_that_may_have_counted_is_held() -> None:
    """Stripe counted the delta, failed to say so, and then the customer was removed."""
    customers = {"cus_1"}
    calls = 0

    def removes_the_customer(_call: Call) -> Fault | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            customers.clear()
        return Fault.ERROR_AFTER_COMMIT if calls == 1 else None

    with StripeStandIn(
        KEY, customers=customers, refuses_unknown=True, faults=removes_the_customer
    ) as stand_in:
        (made,) = deliveries(sink(stand_in, Clock()), [delta(0)], START_MS)
        assert len(stand_in.journal) == 1
    assert made.outcome == "held"
    assert "meter event summary" in made.remedy


def outage(now_ms: int) -> tuple[StripeStandIn, list[Delta], list[Delivery]]:
    """Stripe counts a delta, its answer is lost, and it is away until `now_ms`; a new process."""
    clock = Clock()
    deltas = [delta(0), delta(1), delta(2)]
    faults = in_turn(Fault.LOST_RESPONSE, *[Fault.LOST_REQUEST] * (settle.TRIES - 1))
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms, faults=faults) as stand_in:
        refusal(sink(stand_in, clock), deltas, START_MS)
        clock.now_ms = now_ms
        restarted = sink(stand_in, clock)
        restarted.resume(OUTBOX.name, 0, Attempt(1, START_MS))
        return stand_in, deltas, deliveries(restarted, deltas, now_ms)


def test_a_send_of_unknown_end_is_repeated_within_23_hours() -> None:
    stand_in, deltas, made = outage(START_MS + 23 * HOUR_MS)
    check_exact(stand_in, deltas, made)
    assert {each.outcome for each in made} == {"delivered"}


@pytest.mark.parametrize("hours", [24, 30])
def test_a_send_of_unknown_end_is_held_after_23_hours_and_never_billed_twice(hours: int) -> None:
    stand_in, deltas, made = outage(START_MS + hours * HOUR_MS)
    assert [each.outcome for each in made] == ["held", "held", "delivered"]
    assert made[0].reason
    assert "meter event summary" in made[0].remedy
    counted = Counter(event.identifier for event in stand_in.journal)
    assert counted == {deltas[0].identifier: 1, deltas[2].identifier: 1}


def test_the_checker_catches_a_blind_resend_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "HOLD_AFTER_MS", 10**15)
    stand_in, deltas, made = outage(START_MS + 30 * HOUR_MS)
    assert {each.outcome for each in made} == {"delivered"}
    with pytest.raises(AssertionError):
        check_exact(stand_in, deltas, made)


def test_a_process_that_outlives_a_long_outage_holds_what_it_may_have_sent() -> None:
    clock = Clock()
    deltas = [delta(0), delta(1)]
    faults = in_turn(Fault.LOST_RESPONSE, *[Fault.LOST_REQUEST] * (settle.TRIES - 1))
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms, faults=faults) as stand_in:
        to = sink(stand_in, clock)
        refusal(to, deltas, clock.now_ms)
        clock.now_ms = START_MS + 25 * HOUR_MS
        made = deliveries(to, deltas, clock.now_ms)
        assert [each.outcome for each in made] == ["held", "delivered"]
        assert len(stand_in.journal) == 2


def test_a_machine_that_slept_for_a_day_between_two_tries_looks_at_the_calendar_again() -> None:
    clock = Clock()

    def sleep_for_a_day(_: Call) -> Fault | None:
        clock.now_ms += 25 * HOUR_MS
        return Fault.LOST_RESPONSE

    faults = [sleep_for_a_day]
    with StripeStandIn(
        KEY, now_ms=lambda: clock.now_ms, faults=lambda call: faults.pop()(call) if faults else None
    ) as stand_in:
        to = sink(stand_in, clock)
        refusal(to, [delta(0)], clock.now_ms)
        made = deliveries(to, [delta(0)], clock.now_ms)
        assert [each.outcome for each in made] == ["held"]
        assert len(stand_in.journal) == 1


@pytest.mark.parametrize("said", [Fault.CONFLICT, Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER])
def test_a_send_that_was_doubled_on_its_way_is_held_after_a_day(said: Fault) -> None:
    """Stripe counted one copy, and turned away the one whose answer came back."""
    clock = Clock()
    faults = in_turn(None, *[said] * settle.TRIES)
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms, faults=faults) as stand_in:
        copy, to = sink(stand_in, clock), sink(stand_in, clock)
        assert [each.outcome for each in deliveries(copy, [delta(0)], START_MS)] == ["delivered"]
        refusal(to, [delta(0)], START_MS)
        clock.now_ms = START_MS + 25 * HOUR_MS
        assert [each.outcome for each in deliveries(to, [delta(0)], clock.now_ms)] == ["held"]
        assert len(stand_in.journal) == 1


def test_what_an_earlier_process_said_is_not_held_and_not_sent_again() -> None:
    """It was settled behind something that waited, so no position is behind it."""
    clock = Clock()
    deltas = [delta(0), delta(0, "cus_2"), delta(1, "cus_2"), delta(2)]
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms) as stand_in:
        clock.now_ms += 25 * HOUR_MS
        to = sink(stand_in, clock)
        answered = {each.identifier.encode() for each in deltas[1:3]}
        to.resume(OUTBOX.name, 0, Attempt(3, START_MS, answered))
        written = to.write(records(deltas), clock.now_ms)
        assert written.positions == {(OUTBOX.name, 0): 4}
        assert [(each.identifier, each.outcome) for each in said(written)] == [
            (deltas[0].identifier, "held"),
            (deltas[3].identifier, "held"),
        ]
        assert not stand_in.journal


def test_what_was_not_there_yet_was_not_sent_when_an_attempt_began() -> None:
    clock = Clock()
    late = delta(1)
    log = records([delta(0), late])
    log[1] = structs.replace(log[1], timestamp_ms=START_MS + 24 * HOUR_MS)
    with StripeStandIn(KEY, now_ms=lambda: clock.now_ms) as stand_in:
        clock.now_ms += 25 * HOUR_MS
        to = sink(stand_in, clock)
        to.resume(OUTBOX.name, 0, Attempt(1, START_MS))
        made = said(to.write(log, clock.now_ms))
        assert [each.outcome for each in made] == ["held", "delivered"]
        assert [event.identifier for event in stand_in.journal] == [late.identifier]
