"""What failed is sent again: when Stripe asks for it, under the right key, and nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from msgspec import structs

from pipeline.record import Record
from schemas.topics import OUTBOX
from sinks.stripe import settle
from sinks.stripe.account import Call, Fault, Faults
from sinks.stripe.stand_in import StripeStandIn
from tests.sinks.stripe.delivering import (
    KEY,
    MINUTE_MS,
    REST_SECONDS,
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


def test_a_duplicate_identifier_counts_as_delivered() -> None:
    with StripeStandIn(KEY, faults=in_turn(Fault.ERROR_AFTER_COMMIT)) as stand_in:
        made = deliveries(sink(stand_in, Clock()), [delta(0)], START_MS)
        check_exact(stand_in, [delta(0)], made)
    assert (made[0].outcome, made[0].reason) == ("delivered", "Stripe had it already.")
    assert made[0].at.timestamp() * 1000 == START_MS


def test_a_stored_500_is_settled_under_a_fresh_key_and_the_same_identifier() -> None:
    calls: list[Call] = []

    def fails_first(call: Call) -> Fault | None:
        calls.append(call)
        return Fault.ERROR_BEFORE_COMMIT if len(calls) == 1 else None

    with StripeStandIn(KEY, faults=fails_first) as stand_in:
        deliveries(sink(stand_in, Clock()), [delta(0)], START_MS)
        assert len(stand_in.journal) == 1
    identifier = delta(0).identifier
    assert [call.identifier for call in calls] == [identifier] * 2
    assert calls[0].idempotency_key == identifier
    assert calls[1].idempotency_key != identifier


def test_a_new_process_need_not_walk_through_the_keys_that_an_earlier_one_spent() -> None:
    is_down = [True]

    def fails(_call: Call) -> Fault | None:
        return Fault.ERROR_BEFORE_COMMIT if is_down[0] else None

    clock = Clock()
    with StripeStandIn(KEY, faults=fails) as stand_in:
        former = sink(stand_in, clock)
        for _ in range(3):
            former.write(records([delta(0)]), clock.now_ms)
            clock.sleep(2 * REST_SECONDS)
        is_down[0] = False
        made = deliveries(sink(stand_in, clock), [delta(0)], clock.now_ms)
        check_exact(stand_in, [delta(0)], made)


def test_a_lost_response_is_asked_for_again_under_the_same_key() -> None:
    calls: list[Call] = []

    def loses_first(call: Call) -> Fault | None:
        calls.append(call)
        return Fault.LOST_RESPONSE if len(calls) == 1 else None

    with StripeStandIn(KEY, faults=loses_first) as stand_in:
        deliveries(sink(stand_in, Clock()), [delta(0)], START_MS)
        assert len(stand_in.journal) == 1
    assert {call.idempotency_key for call in calls} == {delta(0).identifier}


def test_nothing_is_sent_before_retry_after_has_passed() -> None:
    clock, times = Clock(), list[int]()

    def limits_first(_call: Call) -> Fault | None:
        times.append(clock.now_ms)
        return Fault.RATE_LIMITED if len(times) == 1 else None

    with StripeStandIn(KEY, faults=limits_first, retry_after_seconds=17) as stand_in:
        deliveries(sink(stand_in, clock), [delta(0), delta(1)], START_MS)
    assert times[1] - times[0] == 17_000
    assert len(times) == 3


def test_a_rate_limit_without_retry_after_is_met_with_growing_waits() -> None:
    clock = Clock()
    limits = [Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER] * 4
    with StripeStandIn(KEY, faults=in_turn(*limits)) as stand_in:
        deliveries(sink(stand_in, clock), [delta(0)], START_MS)
    assert [seconds for seconds in clock.sleeps if seconds >= 0.1] == [0.5, 1, 2, 4]


def test_a_long_retry_after_is_handed_to_the_delivery_loop() -> None:
    clock = Clock()
    faults = in_turn(Fault.RATE_LIMITED)
    with StripeStandIn(KEY, faults=faults, retry_after_seconds=600) as stand_in:
        assert refusal(sink(stand_in, clock), [delta(0)], START_MS).after_seconds == 600
        assert clock.now_ms - START_MS < 1000


def test_what_was_delivered_before_a_failure_is_said_at_once_and_not_sent_again() -> None:
    sent: Counter[str] = Counter()
    down = True

    def second_is_down(call: Call) -> Fault | None:
        sent[call.identifier] += 1
        return Fault.LOST_REQUEST if down and call.identifier.endswith("-1") else None

    deltas = [delta(0), delta(1), delta(2)]
    with StripeStandIn(KEY, faults=second_is_down) as stand_in:
        clock = Clock()
        to = sink(stand_in, clock)
        first = to.write(records(deltas), START_MS)
        assert [each.identifier for each in said(first)] == [deltas[0].identifier]
        assert first.positions == {(OUTBOX.name, 0): 1}
        assert first.waiting == records(deltas)[1:]
        assert sent == {deltas[0].identifier: 1, deltas[1].identifier: settle.TRIES}
        down = False
        clock.sleep(REST_SECONDS)
        second = to.write(first.waiting, clock.now_ms)
        assert second.positions == {(OUTBOX.name, 0): 3}
        check_exact(stand_in, deltas, [*said(first), *said(second)])
    assert sent[deltas[0].identifier] == 1


@pytest.mark.parametrize("leave", ["forget", "resume"])
def test_a_partition_that_comes_back_is_begun_afresh(leave: str) -> None:
    """Another process may have gone on with it; what Stripe knows decides, not this memory."""
    sent: Counter[str] = Counter()

    def second_is_down(call: Call) -> Fault | None:
        sent[call.identifier] += 1
        return Fault.LOST_REQUEST if call.identifier.endswith("-1") else None

    deltas = [delta(0), delta(1)]
    with StripeStandIn(KEY, faults=second_is_down) as stand_in:
        to = sink(stand_in, Clock())
        for _ in range(2):
            assert to.write(records(deltas), START_MS).waiting == records(deltas)[1:]
            if leave == "forget":
                to.forget(OUTBOX.name, 0)
            else:
                to.resume(OUTBOX.name, 0, None)
        assert len(stand_in.journal) == 1
    assert sent[deltas[0].identifier] == 2


def test_a_write_ends_in_time_and_the_next_one_goes_on() -> None:
    """A slow Stripe must not use up the hour between holding and forgetting."""
    clock = Clock()

    def slow(_call: Call) -> Fault | None:
        clock.now_ms += MINUTE_MS
        return None

    deltas = [delta(number) for number in range(5)]
    with StripeStandIn(KEY, faults=slow) as stand_in:
        to = sink(stand_in, clock)
        first = to.write(records(deltas), clock.now_ms)
        assert first.refusal is not None
        assert first.refusal.after_seconds == 0
        assert 0 < len(stand_in.journal) < len(deltas)
        second = to.write(first.waiting, clock.now_ms)
        check_exact(stand_in, deltas, [*said(first), *said(second)])


def fails(customers: Collection[str], sent: Counter[str]) -> Faults:
    """Stripe answers 500 to every call for one of these customers."""

    def fault(call: Call) -> Fault | None:
        sent[call.stripe_customer_id] += 1
        return Fault.ERROR_BEFORE_COMMIT if call.stripe_customer_id in customers else None

    return fault


def test_a_customer_whose_calls_fail_holds_up_nobody_else() -> None:
    clock, sent = Clock(), Counter[str]()
    deltas = [delta(number, customer) for number in range(3) for customer in ("cus_1", "cus_2")]
    with StripeStandIn(KEY, faults=fails({"cus_1"}, sent)) as stand_in:
        to = sink(stand_in, clock)
        first = to.write(records(deltas)[:2], clock.now_ms)
        assert [each.customer for each in said(first)] == ["cus_2"]
        assert first.positions == {(OUTBOX.name, 0): 0}
        assert first.refusal is not None
        assert "(events tokens of cus_1)" in first.refusal.message
        assert first.refusal.after_seconds == 0
        # It rests, and others go on.
        second = to.write([*first.waiting, *records(deltas)[2:]], clock.now_ms)
        assert {each.customer for each in said(second)} == {"cus_2"}
        assert second.waiting == records(deltas)[::2]
        assert second.refusal is None
        assert sent == {"cus_1": settle.TRIES, "cus_2": 3}
        clock.sleep(REST_SECONDS)
        third = to.write(second.waiting, clock.now_ms)
        assert sent["cus_1"] == settle.TRIES + 1
        assert not third.outgoing
        assert third.refusal is not None


def test_a_customer_whose_calls_failed_is_billed_when_they_succeed_again() -> None:
    clock, sent = Clock(), Counter[str]()
    deltas = [delta(0), delta(0, "cus_2"), delta(1), delta(1, "cus_2")]
    failing = {"cus_1"}
    with StripeStandIn(KEY, faults=fails(failing, sent)) as stand_in:
        to = sink(stand_in, clock)
        first = to.write(records(deltas), clock.now_ms)
        failing.clear()
        clock.sleep(REST_SECONDS)
        second = to.write(first.waiting, clock.now_ms)
        # Also behind what was settled before it.
        assert second.positions == {(OUTBOX.name, 0): 4}
        assert not second.waiting
        check_exact(stand_in, deltas, [*said(first), *said(second)])


def test_a_customer_of_whose_calls_some_fail_does_not_rest_after_each_of_them() -> None:
    """When Stripe comes back, all wait who failed before, and not all that they send goes well."""
    clock, sent, made = Clock(), Counter[str](), []
    deltas = [delta(number, customer) for number in range(6) for customer in ("cus_1", "cus_2")]
    down = True

    def every_other_fails_once(call: Call) -> Fault | None:
        sent[call.identifier] += not down
        is_other = call.stripe_customer_id == "cus_1" and call.identifier[-1] in "135"
        return Fault.LOST_REQUEST if down or (is_other and sent[call.identifier] == 1) else None

    with StripeStandIn(KEY, faults=every_other_fails_once) as stand_in:
        to = sink(stand_in, clock)
        waiting: Sequence[Record] = records(deltas)
        assert refusal(to, deltas, clock.now_ms).after_seconds is None
        down = False
        begin_ms = clock.now_ms
        while waiting:
            written = to.write(waiting, clock.now_ms)
            made += said(written)
            waiting = written.waiting
            clock.sleep(0.01)
        assert clock.now_ms - begin_ms < 1000 * REST_SECONDS / 10
        check_exact(stand_in, deltas, made)


def test_positions_are_only_of_partitions_in_the_batch() -> None:
    """Those of others may have moved on since."""
    clock = Clock()
    first, second = records([delta(0)])[0], records([delta(0, "cus_2")])[0]
    second = structs.replace(second, partition=1)
    with StripeStandIn(KEY) as stand_in:
        to = sink(stand_in, clock)
        assert to.write([first], clock.now_ms).positions == {(OUTBOX.name, 0): 1}
        assert to.write([second], clock.now_ms).positions == {(OUTBOX.name, 1): 1}


def test_while_stripe_takes_nothing_each_write_tries_few_and_the_loop_waits_longer() -> None:
    clock, sent = Clock(), Counter[str]()

    def down(call: Call) -> Fault | None:
        sent[call.stripe_customer_id] += 1
        return Fault.LOST_REQUEST

    deltas = [delta(0, f"cus_{number}") for number in range(400)]
    with StripeStandIn(KEY, faults=down) as stand_in:
        asked = refusal(sink(stand_in, clock), deltas, clock.now_ms)
    assert asked.after_seconds is None
    assert " and " in asked.message
    assert len(sent) < 200
