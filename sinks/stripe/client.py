"""Stripe's SDK as the sink uses it: how it is built, and what each of its errors asks for."""

from __future__ import annotations

import re
from typing import Final

import requests
import stripe
from pydantic import SecretStr
from stripe import oauth_error

from pipeline.errors import MeterlineError, Reject, Retry, Stop
from sinks.stripe.transport import Transport

#: Calls a second that Stripe allows an account, live and in a sandbox.
LIVE_CALLS_PER_SECOND: Final = 1000.0
SANDBOX_CALLS_PER_SECOND: Final = 25.0

#: Calls in flight at once, each on a connection of its own. At the live rate, calls that take an
#: eighth of a second keep 125 of them busy; with 8 a process would send 64 a second.
CONNECTIONS: Final = 128

#: The longest wait that one Retry-After gets: what was tried is held after 23 hours, and is to be
#: tried again many times before. Who needs longer says so again.
_RETRY_AFTER_SECONDS_MAX: Final = 15 * 60.0

_TIMEOUT_SECONDS = 30.0
_KEY = re.compile(r"[!-~]+")
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,9})?")

#: Nothing is known to be wrong with the delta: the same call may succeed later.
RETRIED: Final[tuple[type[stripe.StripeError], ...]] = (
    stripe.APIConnectionError,
    stripe.APIError,
    stripe.RateLimitError,
    stripe.QuotaExceededError,
    stripe.TemporarySessionExpiredError,
)
#: No call of this process can succeed before a person acts.
STOPPED: Final[tuple[type[stripe.StripeError], ...]] = (
    stripe.AuthenticationError,
    stripe.PermissionError,
    stripe.CapabilityNotEnabledError,
    stripe.FeatureNotEnabledError,
    stripe.SignatureVerificationError,
    oauth_error.OAuthError,
)
#: This one delta is not taken as it is.
REFUSED: Final[tuple[type[stripe.StripeError], ...]] = (
    stripe.AlreadyCanceledError,
    stripe.BlockedByStripeError,
    stripe.CannotProceedError,
    stripe.CardError,
    stripe.ControlledByAlternateResourceError,
    stripe.FinancialAccountNotOpenError,
    stripe.FxQuoteNeedsRefreshError,
    stripe.IdempotencyError,
    stripe.InsufficientFundsError,
    stripe.InvalidPaymentMethodError,
    stripe.InvalidPayoutMethodError,
    stripe.InvalidRequestError,
    stripe.InvalidVaultedCredentialError,
    stripe.NotCancelableError,
    stripe.RecipientNotNotifiableError,
    stripe.VerificationAttemptFailedError,
    stripe.VerificationExpiredError,
    stripe.VerificationNotInitiatedError,
)

_SEND_AGAIN = "then send its value once under a new identifier."
_REMEDIES = {
    "archived_meter": f"Reactivate the Stripe meter, {_SEND_AGAIN}",
    "no_meter": f"Create a Stripe meter with this event name, {_SEND_AGAIN}",
    "meter_event_customer_not_found": f"Correct the customer's stripe_customer_id, {_SEND_AGAIN}",
    "timestamp_too_far_in_past": "Add the value to the customer's next invoice by hand: Stripe "
    "takes no usage older than 35 days.",
    "timestamp_in_future": f"Wait until the period has begun, {_SEND_AGAIN}",
}
_REMEDY = f"Correct what Stripe names, {_SEND_AGAIN}"


def stripe_client(api_key: SecretStr, api_base: str = "") -> stripe.StripeClient:
    """A client for threads that retries nothing by itself; `api_base` replaces Stripe's address.

    Raises:
        Stop: for a missing or malformed key.
    """
    # The HTTP library puts a header that it cannot send into its error, and the key with it.
    if not _KEY.fullmatch(api_key.get_secret_value()):
        raise Stop(
            "The Stripe API key is missing or has blanks or other characters no key has.",
            remedy="Set METERLINE_STRIPE_API_KEY to a restricted key that may write meter events.",
        )
    session = requests.Session()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    # A stand-in is near; a proxy meant for the world outside must not see its calls.
    session.trust_env = not api_base
    return stripe.StripeClient(
        api_key.get_secret_value(),
        base_addresses={"api": api_base, "meter_events": api_base} if api_base else {},
        http_client=Transport(timeout=_TIMEOUT_SECONDS, session=session),
        # The SDK ignores Retry-After and repeats a stored 500 under the same key.
        max_network_retries=0,
    )


def calls_per_second(api_key: SecretStr) -> float:
    """The rate that Stripe allows this key's account."""
    sandbox = api_key.get_secret_value().startswith(("sk_test_", "rk_test_"))
    return SANDBOX_CALLS_PER_SECOND if sandbox else LIVE_CALLS_PER_SECOND


def is_duplicate(error: stripe.StripeError) -> bool:
    """Whether Stripe already has an event with this identifier: it has been delivered before.

    The answer has no code, only this text.
    """
    return isinstance(error, stripe.InvalidRequestError) and (error.user_message or "").startswith(
        "An event already exists with identifier"
    )


def answer_is_stored(error: stripe.StripeError) -> bool:
    """Whether Stripe repeats this very failure for as long as the idempotency key is the same."""
    return error.http_status is not None and error.http_status >= 500


def interpret(error: stripe.StripeError) -> MeterlineError:
    """What an error of the SDK asks for; never for a duplicate, see `is_duplicate`.

    Returns:
        Retry, Stop, or Reject for this one delta. Stripe's own text is quoted, except where it is
        about the key.
    """
    if isinstance(error, STOPPED):
        return Stop(
            f"Stripe does not let this key write meter events (HTTP {error.http_status}).",
            remedy="Set METERLINE_STRIPE_API_KEY to a restricted key that may write meter events.",
        )
    said = error.user_message or type(error).__name__
    if said.startswith("Unrecognized request URL"):
        return Stop(
            "The address in use is not Stripe's API.",
            remedy="Clear METERLINE_STRIPE_API_BASE, or set it to a running stand-in.",
        )
    if isinstance(error, REFUSED):
        code = error.code or ("idempotency" if isinstance(error, stripe.IdempotencyError) else "")
        return Reject(
            code or "invalid_request",
            f"Stripe refused: {said}",
            remedy=_REMEDIES.get(code, _REMEDY),
        )
    answer = "no answer" if error.http_status is None else f"HTTP {error.http_status}"
    return Retry(
        f"Stripe did not take the call ({answer}): {said}",
        remedy="Wait. If it lasts: check the network, proxy and status.stripe.com.",
        after_seconds=_retry_after_seconds(error),
    )


def _retry_after_seconds(error: stripe.StripeError) -> float | None:
    header = (error.headers or {}).get("Retry-After", "")
    return min(float(header), _RETRY_AFTER_SECONDS_MAX) if _SECONDS.fullmatch(header) else None
