"""HTTP beneath Stripe's SDK: what is no answer of Stripe's API counts as no connection to it.

A gateway on the way answers in its own words. The SDK takes each JSON answer for one of Stripe's,
and fails on those of another shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import stripe
from pydantic import BaseModel, ValidationError


class _Error(BaseModel):
    # Always there, and what tells Stripe's refusal from that of a gateway with the same shape.
    type: Literal["api_error", "card_error", "idempotency_error", "invalid_request_error"]
    message: str | None = None
    code: str | None = None


class _Failure(BaseModel):
    """https://docs.stripe.com/api/errors."""

    error: _Error


class _Success(BaseModel):
    """Whatever Stripe gives says what it is, also a list."""

    object: str


class Transport(stripe.RequestsClient):
    """The SDK's own, less the answers that are not Stripe's."""

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        **_: Any,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """One call of the SDK.

        Raises:
            stripe.APIConnectionError: no answer came, or not one of Stripe's API; that has a
                status.
        """
        body, status, answered = super().request(method, url, headers, post_data)
        shape = _Success if 200 <= status < 300 else _Failure
        try:
            shape.model_validate_json(body)
        except ValidationError:
            # Its status and headers are kept: Stripe's own 500 may lie behind it, and it may ask
            # for a wait.
            raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]
                "the answer is not one of Stripe's API; a gateway may have written it",
                http_status=status,
                headers=answered,
            ) from None
        return body, status, answered
