"""A Stripe account as far as meter events need it: the state and the rules of the stand-in.

Imitated are https://docs.stripe.com/api/billing/meter-event and
https://docs.stripe.com/api/idempotent_requests, with the texts and codes Stripe uses.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, auto
from typing import Any, Final
from urllib.parse import parse_qsl

#: How long an identifier and an idempotency key are remembered.
MEMORY_MS: Final = 24 * 3_600_000

_AGE_MS_MAX: Final = 35 * 24 * 3_600_000
_AHEAD_MS_MAX: Final = 5 * 60_000
_DIGITS_MAX: Final = 15
_NAME_LENGTH_MAX: Final = 100
_VALUE = re.compile(r"-?(\d+)(?:\.(\d+))?", re.ASCII)


class Fault(Enum):
    """What may go wrong with one call, whether or not it counts."""

    LOST_REQUEST = auto()
    LOST_RESPONSE = auto()
    ERROR_BEFORE_COMMIT = auto()
    ERROR_AFTER_COMMIT = auto()
    RATE_LIMITED = auto()
    RATE_LIMITED_WITHOUT_RETRY_AFTER = auto()
    CONFLICT = auto()
    FORBIDDEN = auto()


@dataclass(frozen=True)
class Call:
    """One call as it arrived."""

    event_name: str
    stripe_customer_id: str
    value: str
    identifier: str
    timestamp: str
    idempotency_key: str


def call_of(body: str, idempotency_key: str) -> Call:
    """A call from the form that the SDK sends."""
    form = dict(parse_qsl(body))
    return Call(
        event_name=form.get("event_name", ""),
        stripe_customer_id=form.get("payload[stripe_customer_id]", ""),
        value=form.get("payload[value]", ""),
        identifier=form.get("identifier", ""),
        timestamp=form.get("timestamp", ""),
        idempotency_key=idempotency_key,
    )


#: Decides what goes wrong with a call; it runs while the call is in flight.
Faults = Callable[[Call], Fault | None]


@dataclass(frozen=True)
class Answer:
    """What goes back. Without a `status` the connection is dropped."""

    status: int | None
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeterEvent:
    """A meter event that counts; `timestamp` in Unix seconds."""

    event_name: str
    stripe_customer_id: str
    value: Decimal
    timestamp: int
    identifier: str


DROPPED: Final = Answer(None)


def refusal(
    status: int,
    message: str,
    code: str | None = None,
    *,
    kind: str = "invalid_request_error",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """An error in the shape of https://docs.stripe.com/api/errors."""
    error = {"type": kind, "message": message} | ({"code": code} if code else {})
    return Answer(status, {"error": error}, headers or {})


class Account:
    """Takes meter events, each identifier once for 24 hours; safe for threads."""

    def __init__(
        self,
        *,
        now_ms: Callable[[], int] | None,
        refuses_future: bool,
        faults: Faults,
        meters: Collection[str] | None,
        customers: Collection[str] | None,
        refuses_unknown: bool,
        retry_after_seconds: int,
    ) -> None:
        """The arguments of `sinks.stripe.stand_in.StripeStandIn`."""
        self.journal: list[MeterEvent] = []
        self.unmatched: list[MeterEvent] = []
        self._now_ms = now_ms
        self._refuses_future = refuses_future
        self._faults = faults
        self._meters = meters
        self._customers = customers
        self._refuses_unknown = refuses_unknown
        self._retry_after_seconds = retry_after_seconds
        self._identifiers: dict[str, int] = {}
        self._answers: dict[str, tuple[int, Call, Answer]] = {}
        self._in_flight: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def event_names(self) -> set[str]:
        """Of all meters; where any event name has one, of those that were used."""
        if self._meters is not None:
            return set(self._meters)
        return {event.event_name for event in tuple(self.journal)}

    def create(self, call: Call) -> Answer:
        """Take one meter event, unless another of its customer and meter is in flight."""
        lane = (call.stripe_customer_id, call.event_name)
        with self._lock:
            if lane in self._in_flight:
                return _conflict()
            self._in_flight.add(lane)
        try:
            fault = self._faults(call)
            with self._lock:
                return self._answer(call, fault)
        finally:
            with self._lock:
                self._in_flight.remove(lane)

    def _answer(self, call: Call, fault: Fault | None) -> Answer:
        match fault:
            case Fault.LOST_REQUEST:
                return DROPPED
            case Fault.RATE_LIMITED:
                return _rate_limited({"Retry-After": str(self._retry_after_seconds)})
            case Fault.RATE_LIMITED_WITHOUT_RETRY_AFTER:
                return _rate_limited({})
            case Fault.CONFLICT:
                return _conflict()
            case Fault.FORBIDDEN:
                return refusal(403, "The provided key does not have the required permissions.")
        answer = self._replayed(call) or self._invalid(call) or self._executed(call, fault)
        return DROPPED if fault is Fault.LOST_RESPONSE else answer

    def _replayed(self, call: Call) -> Answer | None:
        """The stored answer to an idempotency key, whatever it was."""
        stored = self._answers.get(call.idempotency_key)
        if stored is None or self._forgotten(stored[0]):
            return None
        if stored[1] != call:
            return refusal(
                400,
                "Keys for idempotent requests can only be used with the same parameters they "
                "were first used with. Try using a key other than "
                f"'{call.idempotency_key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        answer = stored[2]
        return Answer(answer.status, answer.body, {"Idempotent-Replayed": "true"})

    def _invalid(self, call: Call) -> Answer | None:
        """A refusal before anything is executed; such an answer is not stored."""
        # Stricter than Stripe, which would make up an identifier and take the present for the
        # timestamp: with either, usage may count twice or in another period.
        missing = [name for name, value in vars(call).items() if not value]
        if missing:
            return refusal(400, f"Missing required param: {missing[0]}.", "parameter_missing")
        if len(call.identifier) > _NAME_LENGTH_MAX:
            return refusal(400, "Invalid string: identifier must be at most 100 characters.")
        number = _VALUE.fullmatch(call.value)
        if number is None:
            return refusal(
                400, "The value in the payload is no number.", "meter_event_invalid_value"
            )
        if len("".join(number.groups("")).strip("0")) > _DIGITS_MAX:
            return refusal(
                400,
                "The value in the payload has more than 15 significant digits.",
                "meter_event_value_too_many_digits",
            )
        if not re.fullmatch(r"\d{1,12}", call.timestamp, re.ASCII):
            return refusal(400, f"Invalid integer: timestamp {call.timestamp}")
        if self._now_ms is not None:
            ahead_ms = int(call.timestamp) * 1000 - self._now()
            if ahead_ms < -_AGE_MS_MAX:
                return refusal(400, "The timestamp is too old.", "timestamp_too_far_in_past")
            if self._refuses_future and ahead_ms > _AHEAD_MS_MAX:
                return refusal(400, "The timestamp is in the future.", "timestamp_in_future")
        return self._unknown(call) if self._refuses_unknown else None

    def _unknown(self, call: Call) -> Answer | None:
        if self._meters is not None and call.event_name not in self._meters:
            return refusal(400, f"No active meter found for {call.event_name}.", "no_meter")
        if self._customers is not None and call.stripe_customer_id not in self._customers:
            return refusal(
                400,
                f"No such customer: '{call.stripe_customer_id}'",
                "meter_event_customer_not_found",
            )
        return None

    def _executed(self, call: Call, fault: Fault | None) -> Answer:
        """Carry the call out; whatever the answer is, the idempotency key keeps it."""
        failure = refusal(500, "An unexpected error occurred.", kind="api_error")
        if fault is Fault.ERROR_BEFORE_COMMIT:
            answer = failure
        else:
            answer = self._commit(call)
            if fault is Fault.ERROR_AFTER_COMMIT:
                answer = failure
        self._answers[call.idempotency_key] = (self._now(), call, answer)
        return answer

    def _commit(self, call: Call) -> Answer:
        taken_ms = self._identifiers.get(call.identifier)
        if taken_ms is not None and not self._forgotten(taken_ms):
            return refusal(400, f"An event already exists with identifier {call.identifier}.")
        self._identifiers[call.identifier] = self._now()
        event = MeterEvent(
            call.event_name,
            call.stripe_customer_id,
            Decimal(call.value),
            int(call.timestamp),
            call.identifier,
        )
        known = self._unknown(call) is None
        (self.journal if known else self.unmatched).append(event)
        return Answer(200, _described(call))

    def _forgotten(self, at_ms: int) -> bool:
        return self._now() - at_ms > MEMORY_MS

    def _now(self) -> int:
        """Without a clock no time passes: nothing is too old, nothing is forgotten."""
        return self._now_ms() if self._now_ms is not None else 0


def _described(call: Call) -> dict[str, Any]:
    return {
        "object": "billing.meter_event",
        "event_name": call.event_name,
        "identifier": call.identifier,
        "payload": {"stripe_customer_id": call.stripe_customer_id, "value": call.value},
        "timestamp": int(call.timestamp),
        "livemode": False,
    }


def _conflict() -> Answer:
    return refusal(
        409,
        "Another meter event of this customer and meter is being processed.",
        "too_many_concurrent_requests",
    )


def _rate_limited(headers: Mapping[str, str]) -> Answer:
    return refusal(429, "Request rate limit exceeded.", "rate_limit", headers=headers)
