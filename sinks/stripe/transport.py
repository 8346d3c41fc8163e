"""HTTP beneath Stripe's SDK: what is no answer of Stripe's API counts as no connection to it.

A gateway on the way answers in its own words. The SDK takes each JSON answer for one of Stripe's,
and fails on those of another shape.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import stripe
from pydantic import BaseModel, ValidationError
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

#: How long an answer may take after its head. The SDK's own time-out is for each piece, and a byte
#: now and then would hold a write for good.
_BODY_SECONDS_MAX: Final = 30.0
_PIECE_BYTES: Final = 65_536


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
        stream, status, answered = self.request_stream(method, url, headers, post_data)
        body = _whole(stream)
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


def _whole(stream: BaseHTTPResponse) -> bytes:
    deadline = time.monotonic() + _BODY_SECONDS_MAX
    body = bytearray()
    try:
        while piece := stream.read1(_PIECE_BYTES, decode_content=True):
            body += piece
            if time.monotonic() > deadline:
                raise TimeoutError("the answer came too slowly")
    except (HTTPError, TimeoutError) as error:
        stream.close()
        raise stripe.APIConnectionError(str(error)) from error  # type: ignore[no-untyped-call]
    return bytes(body)
