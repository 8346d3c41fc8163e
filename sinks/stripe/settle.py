"""Settle: send one delta until its end is known, and say what became of it.

Why a delta counts once although it may be sent more than once: its identifier and its value were
frozen before the first send, and Stripe takes an identifier once for at least 24 hours. A delta
whose end has been unknown for 23 hours is held, never sent again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import stripe

from pipeline.errors import Reject, Retry
from schemas.billing import Delivery, Delta
from sinks.stripe.client import answer_is_stored, interpret, is_duplicate
from sinks.stripe.pace import Pace

#: Stripe keeps identifiers and idempotency keys for 24 hours; an hour is left for a slow write.
HOLD_AFTER_MS: Final = 23 * 3_600_000

#: Tries of one delta in one write, the first wait between them, which doubles, and the longest
#: that Stripe may ask for; for a longer one the delivery loop waits.
TRIES: Final = 5
_BACKOFF_SECONDS: Final = 0.5
_WAIT_SECONDS_MAX: Final = 30.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RECONCILE = (
    "Compare the meter event summary of this customer and period in Stripe with the sum of its "
    "delivered values; if this value is missing there, send it once under a new identifier."
)


@dataclass
class Progress:
    """What is known of one delta while its batch is not committed.

    `unsettled_since_ms` is when the first send began. Whatever its answer was, it may have counted:
    a proxy that gets no answer may ask again, and pass on that Stripe is busy with the first call.
    `key_suffix` is there once Stripe answers the first idempotency key with a stored failure. What
    an earlier process has settled `is_answered`.
    """

    unsettled_since_ms: int | None = None
    key_suffix: str = ""
    delivery: Delivery | None = None
    is_answered: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to send."""
        return self.is_answered or self.delivery is not None


@dataclass(frozen=True)
class Settler:
    """Sends deltas through one client at one pace; for any number of threads."""

    client: stripe.StripeClient
    pace: Pace
    sleep: Callable[[float], None]
    wall: Callable[[], float]

    def settle(
        self,
        delta: Delta,
        progress: Progress,
        now_ms: int,
        deadline: float = math.inf,
        tries: int = TRIES,
    ) -> Delivery:
        """Send `delta`; `progress` keeps what a later call must know when this one raises.

        `now_ms` is the time for all tries, none of which begins after `deadline`, in seconds of
        `wall`: a machine that slept between two of them must look at the calendar again.

        Raises:
            Retry: when so many `tries` were in vain, the deadline has passed, or Stripe asks for a
                long wait.
            Stop: when no call can succeed before a person acts.
        """
        since_ms = progress.unsettled_since_ms
        if since_ms is not None and now_ms - since_ms > HOLD_AFTER_MS:
            began = _instant(since_ms).isoformat()
            reason = f"It may have been sent since {began}; Stripe may have forgotten it by now."
            return _delivery(delta, "held", now_ms, reason, _RECONCILE)
        tried = 0
        while True:
            self.pace.wait()
            if self.wall() > deadline:
                raise Retry(
                    "Stripe takes meter events too slowly for a batch of this size.",
                    remedy="Wait: what was delivered is not sent again.",
                    after_seconds=0,
                )
            tried += 1
            if progress.unsettled_since_ms is None:
                progress.unsettled_since_ms = now_ms
            try:
                self._send(delta, progress.key_suffix)
                return _delivery(delta, "delivered", now_ms)
            except stripe.StripeError as error:
                if is_duplicate(error):
                    return _delivery(delta, "delivered", now_ms, "Stripe had it already.")
                if answer_is_stored(error):
                    # By the time: an earlier process may have spent any number of keys.
                    progress.key_suffix = f"-{now_ms}-{tried}"
                asked = interpret(error)
            if isinstance(asked, Reject):
                return _refusal(delta, asked, progress, now_ms)
            if not isinstance(asked, Retry) or tried == tries:
                raise asked
            self._wait(asked, tried)

    def _send(self, delta: Delta, key_suffix: str) -> None:
        # Stripe's asynchronous error reports name an event by its idempotency key, so that is
        # the identifier, until a stored failure makes another key necessary.
        event = self.client.v1.billing.meter_events.create(
            params={
                "event_name": delta.event_name,
                "payload": {
                    "stripe_customer_id": delta.stripe_customer_id,
                    "value": delta.value,
                },
                "identifier": delta.identifier,
                "timestamp": delta.timestamp,
            },
            options={"idempotency_key": f"{delta.identifier}{key_suffix}"},
        )
        if getattr(event, "identifier", None) != delta.identifier:
            raise stripe.APIError("the answer is no meter event; a proxy may have written it")

    def _wait(self, asked: Retry, tried: int) -> None:
        if asked.after_seconds is None:
            self.sleep(_BACKOFF_SECONDS * 2 ** (tried - 1))
        elif asked.after_seconds <= _WAIT_SECONDS_MAX:
            self.pace.pause(asked.after_seconds)
        else:
            raise asked


def _refusal(delta: Delta, asked: Reject, progress: Progress, now_ms: int) -> Delivery:
    """Refused, unless a send under another key may have counted before.

    Under the same key Stripe would have repeated the success instead of refusing.
    """
    reason = f"{asked.reason}: {asked.message}"
    if progress.key_suffix:
        return _delivery(delta, "held", now_ms, reason, _RECONCILE)
    return _delivery(delta, "refused", now_ms, reason, asked.remedy)


def _delivery(
    delta: Delta,
    outcome: Literal["delivered", "refused", "held"],
    now_ms: int,
    reason: str = "",
    remedy: str = "",
) -> Delivery:
    return Delivery(
        identifier=delta.identifier,
        customer=delta.customer,
        stripe_customer_id=delta.stripe_customer_id,
        meter=delta.meter,
        event_name=delta.event_name,
        period_start=delta.period_start,
        value=delta.value,
        outcome=outcome,
        reason=reason,
        remedy=remedy,
        at=_instant(now_ms),
    )


def _instant(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
