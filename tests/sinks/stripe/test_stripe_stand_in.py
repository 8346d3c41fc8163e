"""The stand-in does to the real SDK what Stripe does, as far as meter events go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import stripe
from pydantic import SecretStr

from sinks.stripe.account import Call, Fault
from sinks.stripe.client import stripe_client
from sinks.stripe.stand_in import StripeStandIn, seeded_faults

KEY = "rk_test_key"
NOW_S = 1_795_000_000
HOUR_S = 3_600
DAY_S = 86_400


class Clock:
    """Stripe's clock, set by hand."""

    def __init__(self) -> None:
        self.seconds = NOW_S

    def __call__(self) -> int:
        return self.seconds * 1000


def client(stand_in: StripeStandIn, key: str = KEY) -> stripe.StripeClient:
    """The real SDK, directed at the stand-in."""
    return stripe_client(SecretStr(key), stand_in.url)


def send(
    to: stripe.StripeClient,
    identifier: str,
    value: str = "1",
    *,
    key: str | None = None,
    customer: str = "cus_1",
    timestamp: int = NOW_S,
) -> str:
    """Send one meter event; its identifier as the answer has it."""
    return to.v1.billing.meter_events.create(
        params={
            "event_name": "tokens",
            "payload": {"stripe_customer_id": customer, "value": value},
            "identifier": identifier,
            "timestamp": timestamp,
        },
        options={"idempotency_key": key or identifier},
    ).identifier


def once(fault: Fault) -> Callable[[Call], Fault | None]:
    """Goes wrong with the first call only."""
    faults = [fault]
    return lambda _call: faults.pop() if faults else None


def test_a_meter_event_is_taken_and_stands_in_the_journal() -> None:
    with StripeStandIn(KEY) as stand_in:
        assert send(client(stand_in), "a", "12.5") == "a"
        (event,) = stand_in.journal
    assert (event.value, event.timestamp, event.identifier) == (Decimal("12.5"), NOW_S, "a")
    assert stand_in.sums() == {("cus_1", "tokens"): Decimal("12.5")}


def test_the_same_key_repeats_the_answer_and_counts_once() -> None:
    with StripeStandIn(KEY) as stand_in:
        assert [send(client(stand_in), "a"), send(client(stand_in), "a")] == ["a", "a"]
        assert len(stand_in.journal) == 1


def test_the_same_key_with_other_parameters_is_an_idempotency_error() -> None:
    with StripeStandIn(KEY) as stand_in:
        send(client(stand_in), "a", "1")
        with pytest.raises(stripe.IdempotencyError):
            send(client(stand_in), "a", "2")


def test_a_known_identifier_under_a_new_key_is_refused_in_stripe_s_words() -> None:
    with StripeStandIn(KEY) as stand_in:
        send(client(stand_in), "a", key="first")
        with pytest.raises(stripe.InvalidRequestError) as refused:
            send(client(stand_in), "a", key="second")
    assert refused.value.http_status == 400
    assert refused.value.user_message == "An event already exists with identifier a."
    assert refused.value.code is None


@pytest.mark.parametrize(
    ("fault", "counted"), [(Fault.ERROR_BEFORE_COMMIT, 0), (Fault.ERROR_AFTER_COMMIT, 1)]
)
def test_an_answer_500_is_repeated_under_its_key(fault: Fault, counted: int) -> None:
    with StripeStandIn(KEY, faults=once(fault)) as stand_in:
        for _ in range(3):
            with pytest.raises(stripe.APIError) as failed:
                send(client(stand_in), "a")
            assert failed.value.http_status == 500
        assert len(stand_in.journal) == counted


@pytest.mark.parametrize(("fault", "counted"), [(Fault.LOST_REQUEST, 0), (Fault.LOST_RESPONSE, 1)])
def test_a_dropped_connection_may_or_may_not_have_counted(fault: Fault, counted: int) -> None:
    with StripeStandIn(KEY, faults=once(fault)) as stand_in:
        with pytest.raises(stripe.APIConnectionError):
            send(client(stand_in), "a")
        assert len(stand_in.journal) == counted
        assert send(client(stand_in), "a") == "a"
        assert len(stand_in.journal) == 1


def test_an_identifier_is_forgotten_after_a_day_and_counts_again() -> None:
    clock = Clock()
    with StripeStandIn(KEY, now_ms=clock) as stand_in:
        send(client(stand_in), "a")
        clock.seconds += 24 * HOUR_S + 1
        send(client(stand_in), "a")
        assert len(stand_in.journal) == 2


@pytest.mark.parametrize(
    ("offset_s", "code"),
    [
        (-35 * DAY_S, None),
        (-35 * DAY_S - 1, "timestamp_too_far_in_past"),
        (300, None),
        (301, "timestamp_in_future"),
    ],
)
def test_a_timestamp_is_at_most_35_days_old_and_5_minutes_ahead(
    offset_s: int, code: str | None
) -> None:
    with StripeStandIn(KEY, now_ms=Clock()) as stand_in:
        if code is None:
            send(client(stand_in), "a", timestamp=NOW_S + offset_s)
        else:
            with pytest.raises(stripe.InvalidRequestError) as refused:
                send(client(stand_in), "a", timestamp=NOW_S + offset_s)
            assert refused.value.code == code
        assert len(stand_in.journal) == (code is None)


def test_one_that_may_be_behind_others_takes_what_is_ahead() -> None:
    with StripeStandIn(KEY, now_ms=Clock(), refuses_future=False) as stand_in:
        send(client(stand_in), "a", timestamp=NOW_S + 301)
        assert len(stand_in.journal) == 1


def test_without_a_clock_an_old_trace_is_taken() -> None:
    with StripeStandIn(KEY) as stand_in:
        send(client(stand_in), "a", timestamp=1_000_000_000)
        assert len(stand_in.journal) == 1


@pytest.mark.parametrize("value", ["123456789012345", "-0.0000001", "1" + "0" * 20, "0.1"])
def test_a_plain_decimal_of_15_significant_digits_is_taken_exactly(value: str) -> None:
    with StripeStandIn(KEY) as stand_in:
        send(client(stand_in), "a", value)
        assert stand_in.sums() == {("cus_1", "tokens"): Decimal(value)}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1234567890123456", "meter_event_value_too_many_digits"),
        ("1234567890.123456", "meter_event_value_too_many_digits"),
        ("1E-7", "meter_event_invalid_value"),
        ("NaN", "meter_event_invalid_value"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "meter_event_invalid_value"),
    ],
)
def test_any_other_value_is_refused(value: str, code: str) -> None:
    with StripeStandIn(KEY) as stand_in:
        with pytest.raises(stripe.InvalidRequestError) as refused:
            send(client(stand_in), "a", value)
        assert refused.value.code == code
        assert not stand_in.journal


def test_sums_are_exact_beyond_28_digits() -> None:
    with StripeStandIn(KEY) as stand_in:
        send(client(stand_in), "a", "1" + "0" * 37)
        send(client(stand_in), "b", "0.000000001")
        assert stand_in.sums() == {("cus_1", "tokens"): Decimal("1" + "0" * 37 + ".000000001")}


def test_a_second_call_of_the_same_customer_and_meter_at_once_is_a_conflict() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def hold_back(_call: Call) -> None:
        arrived.set()
        assert go_on.wait(30)

    with StripeStandIn(KEY, faults=hold_back) as stand_in, ThreadPoolExecutor() as pool:
        first = pool.submit(send, client(stand_in), "a")
        assert arrived.wait(30)
        try:
            with pytest.raises(stripe.APIError) as conflict:
                send(client(stand_in), "b")
            assert conflict.value.http_status == 409
            other = pool.submit(send, client(stand_in), "c", customer="cus_2")
        finally:
            go_on.set()
        assert (first.result(), other.result()) == ("a", "c")


@pytest.mark.parametrize(
    ("fault", "header"),
    [(Fault.RATE_LIMITED, "9"), (Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER, None)],
)
def test_a_rate_limit_is_429_with_or_without_retry_after(fault: Fault, header: str | None) -> None:
    with StripeStandIn(KEY, faults=once(fault), retry_after_seconds=9) as stand_in:
        with pytest.raises(stripe.RateLimitError) as limited:
            send(client(stand_in), "a")
        assert (limited.value.headers or {}).get("Retry-After") == header
        send(client(stand_in), "a")
        assert len(stand_in.journal) == 1


def test_an_unknown_customer_is_taken_and_counts_nowhere() -> None:
    with StripeStandIn(KEY, customers={"cus_2"}) as stand_in:
        assert send(client(stand_in), "a") == "a"
        assert not stand_in.journal
        assert [event.identifier for event in stand_in.unmatched] == ["a"]


@pytest.mark.parametrize(
    ("known", "code"),
    [({"customers": {"x"}}, "meter_event_customer_not_found"), ({"meters": {"x"}}, "no_meter")],
)
def test_an_unknown_customer_or_meter_may_be_refused_at_once(
    known: dict[str, set[str]], code: str
) -> None:
    with (
        StripeStandIn(
            KEY,
            refuses_unknown=True,
            customers=known.get("customers"),
            meters=known.get("meters"),
        ) as stand_in,
        pytest.raises(stripe.InvalidRequestError) as refused,
    ):
        send(client(stand_in), "a")
    assert refused.value.code == code


def test_another_key_is_not_let_in() -> None:
    with StripeStandIn(KEY) as stand_in, pytest.raises(stripe.AuthenticationError):
        send(client(stand_in, "rk_test_other"), "a")


def test_another_address_is_not_found() -> None:
    with StripeStandIn(KEY) as stand_in, pytest.raises(stripe.InvalidRequestError) as missing:
        client(stand_in).v1.customers.retrieve("cus_1")
    assert missing.value.http_status == 404


def test_summaries_add_up_what_was_taken_by_day_page_by_page() -> None:
    midnight = NOW_S // DAY_S * DAY_S
    with StripeStandIn(KEY) as stand_in:
        for day in range(12):
            send(client(stand_in), f"a{day}", "1.5", timestamp=midnight + day * DAY_S)
            send(client(stand_in), f"b{day}", "2", timestamp=midnight + day * DAY_S + 9)
        send(client(stand_in), "c", customer="cus_2", timestamp=midnight)
        read = client(stand_in).v1.billing.meters.event_summaries
        whole = read.list(
            "mtr_tokens",
            {"customer": "cus_1", "start_time": midnight, "end_time": midnight + 12 * DAY_S},
        )
        days = read.list(
            "mtr_tokens",
            {
                "customer": "cus_1",
                "start_time": midnight,
                "end_time": midnight + 12 * DAY_S,
                "value_grouping_window": "day",
                "limit": 5,
            },
        )
        assert [summary.aggregated_value for summary in whole.data] == [42.0]
        assert [s.aggregated_value for s in days.auto_paging_iter()] == [3.5] * 12
        assert [s.start_time for s in days.data] == [midnight + day * DAY_S for day in range(5)]


def test_summaries_of_times_off_their_window_are_refused() -> None:
    with StripeStandIn(KEY) as stand_in, pytest.raises(stripe.InvalidRequestError):
        client(stand_in).v1.billing.meters.event_summaries.list(
            "mtr_tokens", {"customer": "cus_1", "start_time": 1, "end_time": 60}
        )


def test_a_closed_stand_in_answers_no_more_even_on_open_connections() -> None:
    stand_in = StripeStandIn(KEY)
    connected = client(stand_in)
    send(connected, "a")
    stand_in.close()
    with pytest.raises(stripe.APIConnectionError):
        send(connected, "b")
    assert len(stand_in.journal) == 1


def test_seeded_faults_strike_the_same_calls_in_any_order() -> None:
    calls = [Call("tokens", "cus_1", "1", f"id-{n}", "1", "key") for n in range(50)]
    rates = {Fault.CONFLICT: 0.3, Fault.LOST_RESPONSE: 0.3}

    def struck(order: list[Call]) -> dict[str, Fault | None]:
        faults = seeded_faults(7, rates)
        return {call.identifier: faults(call) for call in order}

    assert struck(calls) == struck(calls[::-1])
    assert set(struck(calls).values()) == {None, *rates}
