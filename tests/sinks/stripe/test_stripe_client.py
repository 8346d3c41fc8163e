"""Every error of Stripe's SDK asks for one known reaction, and none of them shows the key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from pydantic import SecretStr
from stripe import oauth_error

from pipeline.errors import Reject, Retry, Stop
from sinks.stripe.client import (
    REFUSED,
    RETRIED,
    STOPPED,
    calls_per_second,
    interpret,
    is_duplicate,
    stripe_client,
)


def made(kind: Any, *arguments: Any, **named: Any) -> stripe.StripeError:
    """An error as the SDK makes it; some of its constructors have no types."""
    error: stripe.StripeError = kind(*arguments, **named)
    return error


def raised_classes(base: type[stripe.StripeError]) -> Iterator[type[stripe.StripeError]]:
    """Every class that the SDK raises: those that no other class is derived from."""
    derived = base.__subclasses__()
    if not derived:
        yield base
    for each in derived:
        yield from raised_classes(each)


def test_every_error_class_of_the_sdk_asks_for_exactly_one_reaction() -> None:
    assert oauth_error.InvalidClientError in set(raised_classes(stripe.StripeError))
    for each in raised_classes(stripe.StripeError):
        reactions = [issubclass(each, kinds) for kinds in (RETRIED, STOPPED, REFUSED)]
        assert reactions.count(True) == 1, each


@pytest.mark.parametrize(
    ("error", "reaction"),
    [
        (made(stripe.APIConnectionError, "no route", should_retry=True), Retry),
        (made(stripe.APIConnectionError, "certificate", should_retry=False), Retry),
        (made(stripe.APIError, "conflict", http_status=409), Retry),
        (made(stripe.APIError, "broken", http_status=503), Retry),
        (made(stripe.RateLimitError, "slow down", http_status=429), Retry),
        (made(stripe.AuthenticationError, "wrong key", http_status=401), Stop),
        (made(stripe.PermissionError, "not allowed", http_status=403), Stop),
        (
            made(stripe.InvalidRequestError, "Unrecognized request URL (x)", None, http_status=404),
            Stop,
        ),
        (made(stripe.InvalidRequestError, "no such", None, "no_meter", http_status=400), Reject),
        (made(stripe.IdempotencyError, "other parameters", http_status=400), Reject),
        (made(stripe.CardError, "card", "p", "c", http_status=402), Reject),
    ],
)
def test_an_error_is_interpreted_as(error: stripe.StripeError, reaction: type[Exception]) -> None:
    asked = interpret(error)
    assert type(asked) is reaction
    assert asked.remedy


def test_what_was_not_answered_has_no_status() -> None:
    """It may have been a meter event or a question."""
    silent = interpret(made(stripe.APIConnectionError, "no route", should_retry=True))
    assert silent.message == "Stripe did not take the call (no answer): no route"
    broken = interpret(made(stripe.APIError, "broken", http_status=503))
    assert broken.message == "Stripe did not take the call (HTTP 503): broken"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("900", 900.0),
        ("nan", None),
        ("-1", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds(header: str, seconds: float | None) -> None:
    asked = interpret(made(stripe.RateLimitError, "slow", None, 429, None, {"Retry-After": header}))
    assert isinstance(asked, Retry)
    assert asked.after_seconds == seconds


def test_no_retry_after_makes_a_delta_wait_until_it_must_be_held() -> None:
    asked = interpret(
        made(stripe.RateLimitError, "slow", None, 429, None, {"Retry-After": "90000"})
    )
    assert isinstance(asked, Retry)
    assert asked.after_seconds == 900


def test_only_a_known_identifier_is_a_duplicate() -> None:
    said = "An event already exists with identifier meterline-1."
    assert is_duplicate(made(stripe.InvalidRequestError, said, None, http_status=400))
    assert not is_duplicate(
        made(stripe.InvalidRequestError, "No such meter", None, http_status=400)
    )
    assert not is_duplicate(made(stripe.APIError, said, http_status=500))


@pytest.mark.parametrize("key", ["", "rk_live_canary\n", "rk_live_canary 2", "rk_live_canarý"])
def test_a_malformed_key_stops_before_any_call_and_is_not_shown(key: str) -> None:
    with pytest.raises(Stop) as stopped:
        stripe_client(SecretStr(key))
    assert "METERLINE_STRIPE_API_KEY" in str(stopped.value)
    assert "canar" not in str(stopped.value)


@pytest.mark.parametrize(
    ("key", "rate"),
    [("sk_test_1", 25), ("rk_test_1", 25), ("sk_live_1", 1000), ("rk_live_1", 1000)],
)
def test_the_rate_is_that_of_the_key_s_account(key: str, rate: float) -> None:
    assert calls_per_second(SecretStr(key)) == rate
