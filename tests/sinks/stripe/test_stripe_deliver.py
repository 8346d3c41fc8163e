"""Every delta counts once at Stripe, or is shown as refused or held, whatever goes wrong."""

from __future__ import annotations

import logging
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal

import pytest
from pydantic import SecretStr

from pipeline.bill import split
from pipeline.errors import MeterlineError, Retry, Stop
from pipeline.record import Attempt, Record
from schemas.billing import Delivery, Delta
from schemas.quantity import from_plain, plain
from schemas.topics import DELIVERIES, OUTBOX
from sinks.stripe import settle
from sinks.stripe.account import Call, Fault, Faults
from sinks.stripe.client import stripe_client
from sinks.stripe.deliver import StripeSink
from sinks.stripe.stand_in import StripeStandIn, no_faults, seeded_faults

KEY = "rk_live_canary_4f1d9a"
START_MS = 1_795_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EXACT = Context(prec=400)


class Clock:
    """Time that passes only while someone sleeps, and when a test says so."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.sleeps: list[float] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self.now_ms += round(seconds * 1000)

    def monotonic(self) -> float:
        return self.now_ms / 1000


def delta(number: int, customer: str = "cus_1", event_name: str = "tokens") -> Delta:
    """The `number`th delta of a customer and meter."""
    return Delta(
        identifier=f"meterline-{customer}-{event_name}-{number}",
        customer=customer,
        stripe_customer_id=customer,
        meter=event_name,
        event_name=event_name,
        period_start=datetime(2026, 11, 1, tzinfo=UTC),
        period_end=datetime(2026, 12, 1, tzinfo=UTC),
        sequence=number,
        value=f"{number + 1}.000000001",
        timestamp=START_MS // 1000 - 1000,
    )


def records(deltas: Sequence[Delta]) -> list[Record]:
    """`deltas` as one partition of the outbox."""
    return [
        Record(OUTBOX.name, 0, offset, START_MS, None, each.model_dump_json().encode())
        for offset, each in enumerate(deltas)
    ]


def sink(stand_in: StripeStandIn, clock: Clock, key: str = KEY) -> StripeSink:
    """A new process's sink: the real SDK, directed at the stand-in."""
    return StripeSink(
        stripe_client(SecretStr(key), stand_in.url),
        calls_per_second=1000,
        sleep=clock.sleep,
        monotonic=clock.monotonic,
        wall=clock.monotonic,
    )


def deliveries(to: StripeSink, deltas: Sequence[Delta], now_ms: int) -> list[Delivery]:
    """Write all of `deltas`; what became of each."""
    written = to.write(records(deltas), now_ms)
    assert written.positions == {(OUTBOX.name, 0): len(deltas)}
    assert {(out.topic, out.partition) for out in written.outgoing} == {(DELIVERIES.name, 0)}
    made = [Delivery.model_validate_json(out.value or b"") for out in written.outgoing]
    assert [out.key for out in written.outgoing] == [d.identifier.encode() for d in made]
    return made


def in_turn(*faults: Fault | None) -> Faults:
    """These faults, one a call, then none."""
    left = list(faults)
    return lambda _call: left.pop(0) if left else None


def check_exact(stand_in: StripeStandIn, deltas: Sequence[Delta], made: Sequence[Delivery]) -> None:
    """Each delta has one outcome, and Stripe's sums are exactly those of the delivered ones."""
    assert [each.identifier for each in made] == [each.identifier for each in deltas]
    sums: dict[tuple[str, str], Decimal] = {}
    for each in made:
        if each.outcome == "delivered":
            key = (each.stripe_customer_id, each.event_name)
            sums[key] = EXACT.add(sums.get(key, Decimal(0)), Decimal(each.value))
    assert stand_in.sums() == sums


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
        self._sink = self._started()

    def _started(self) -> StripeSink:
        started = sink(self._stand_in, self._clock)
        started.resume(OUTBOX.name, 0, self.attempt)
        return started

    def run(self) -> None:
        """Deliver everything; the process dies now and then, before or after a write's end."""
        for _ in range(ROUNDS_MAX):
            if self.position == len(self.log):
                return
            through = min(self.position + self._draw.randint(1, 9), len(self.log))
            if self.attempt is None or self.attempt.through_offset < through - 1:
                since_ms = self.attempt.since_ms if self.attempt else self._clock.now_ms
                self.attempt = Attempt(through - 1, since_ms)
            self._clock.now_ms += self._draw.randint(0, MINUTE_MS)
            try:
                batch = self.log[self.position : self.attempt.through_offset + 1]
                written = self._sink.write(batch, self._clock.now_ms)
            except Retry:
                if self._draw.random() < 0.5:
                    self._sink = self._started()
                continue
            if self._draw.random() < 0.3:
                self._sink = self._started()
                continue
            self.position = written.positions[OUTBOX.name, 0]
            self.attempt = None
            self.deliveries += [
                Delivery.model_validate_json(out.value or b"") for out in written.outgoing
            ]
        raise AssertionError(f"stuck at offset {self.position}")


#: Every fault that Stripe gets over by itself.
RATES: dict[Fault, float] = {fault: 0.09 for fault in Fault if fault != Fault.FORBIDDEN}
#: A run needs some 30 rounds; one that never gets on ends here.
ROUNDS_MAX = 300


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
        with pytest.raises(Retry) as asked:
            deliveries(sink(stand_in, clock), [delta(0)], START_MS)
        assert asked.value.after_seconds == 600
        assert clock.now_ms - START_MS < 1000


def test_what_was_delivered_before_a_retry_is_not_sent_again() -> None:
    sent: Counter[str] = Counter()
    down = True

    def second_is_down(call: Call) -> Fault | None:
        sent[call.identifier] += 1
        return Fault.LOST_REQUEST if down and call.identifier.endswith("-1") else None

    deltas = [delta(0), delta(1), delta(2)]
    with StripeStandIn(KEY, faults=second_is_down) as stand_in:
        to = sink(stand_in, Clock())
        with pytest.raises(Retry):
            deliveries(to, deltas, START_MS)
        assert sent == {deltas[0].identifier: 1, deltas[1].identifier: settle.TRIES}
        down = False
        check_exact(stand_in, deltas, deliveries(to, deltas, START_MS))
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
            with pytest.raises(Retry):
                deliveries(to, deltas, START_MS)
            if leave == "forget":
                to.forget(OUTBOX.name, 0)
            else:
                to.resume(OUTBOX.name, 0, None)
        assert len(stand_in.journal) == 1
    assert sent[deltas[0].identifier] == 2


def test_a_failure_ends_the_write_before_all_other_customers_were_tried() -> None:
    deltas = [delta(0, f"cus_{number}") for number in range(300)]
    with StripeStandIn(KEY, faults=in_turn(Fault.FORBIDDEN)) as stand_in:
        with pytest.raises(Stop):
            deliveries(sink(stand_in, Clock()), deltas, START_MS)
        assert len(stand_in.journal) < 200


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
        with pytest.raises(Retry):
            sink(stand_in, clock).write(records(deltas), START_MS)
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
        with pytest.raises(Retry):
            deliveries(to, deltas, clock.now_ms)
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
        with pytest.raises(Retry):
            deliveries(to, [delta(0)], clock.now_ms)
        made = deliveries(to, [delta(0)], clock.now_ms)
        assert [each.outcome for each in made] == ["held"]
        assert len(stand_in.journal) == 1


def test_what_was_only_turned_away_is_sent_however_late() -> None:
    clock = Clock()
    faults = in_turn(*[Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER, Fault.CONFLICT] * 3)
    with StripeStandIn(KEY, faults=faults) as stand_in:
        to = sink(stand_in, clock)
        with pytest.raises(Retry):
            deliveries(to, [delta(0)], START_MS)
        made = deliveries(to, [delta(0)], START_MS + 30 * HOUR_MS)
        check_exact(stand_in, [delta(0)], made)
    assert made[0].outcome == "delivered"


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, None])
def test_a_key_that_is_wrong_or_may_not_write_stops(fault: Fault | None) -> None:
    with StripeStandIn(KEY, faults=in_turn(fault)) as stand_in:
        key = KEY if fault else "rk_live_another"
        with pytest.raises(Stop, match="METERLINE_STRIPE_API_KEY"):
            deliveries(sink(stand_in, Clock(), key), [delta(0), delta(1)], START_MS)
        assert not stand_in.journal


def test_what_is_no_delta_stops_before_anything_is_sent() -> None:
    with StripeStandIn(KEY) as stand_in:
        broken = Record(OUTBOX.name, 0, 1, START_MS, None, b"{}")
        with pytest.raises(Stop, match="at offset 1 is not a delta"):
            sink(stand_in, Clock()).write([*records([delta(0)]), broken], START_MS)
        assert not stand_in.journal


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


def test_a_write_ends_in_time_and_the_next_one_goes_on() -> None:
    """A slow Stripe must not use up the hour between holding and forgetting."""
    clock = Clock()

    def slow(_call: Call) -> Fault | None:
        clock.now_ms += MINUTE_MS
        return None

    deltas = [delta(number) for number in range(5)]
    with StripeStandIn(KEY, faults=slow) as stand_in:
        to = sink(stand_in, clock)
        with pytest.raises(Retry) as asked:
            deliveries(to, deltas, clock.now_ms)
        assert asked.value.after_seconds == 0
        assert 0 < len(stand_in.journal) < len(deltas)
        check_exact(stand_in, deltas, deliveries(to, deltas, clock.now_ms))


def failures() -> Iterator[tuple[Callable[[], StripeStandIn], str]]:
    """Each way to fail: a stand-in, and the key to come with."""
    for fault in Fault:
        yield lambda fault=fault: StripeStandIn(KEY, faults=lambda _call: fault), KEY  # type: ignore[misc]
    yield lambda: StripeStandIn("rk_live_another"), KEY
    yield lambda: StripeStandIn(KEY, customers=(), refuses_unknown=True), KEY
    yield lambda: StripeStandIn(KEY, faults=no_faults), f"{KEY}\n"


def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for start, key in failures():
            with start() as stand_in:
                try:
                    made = deliveries(sink(stand_in, Clock(), key), [delta(0)], START_MS)
                    shown += [each.model_dump_json() for each in made]
                except MeterlineError as error:
                    shown += [repr(error), "".join(traceback.format_exception(error))]
    assert len(shown) > len(Fault)
    assert delta(0).identifier in caplog.text, "the SDK's own log was captured"
    assert KEY not in "".join(shown) + caplog.text
    assert "canary" not in "".join(shown) + caplog.text
