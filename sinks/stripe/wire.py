"""The wire beneath Stripe's SDK, with the stand-in's account at its other end instead of HTTP."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import stripe

from sinks.stripe.account import Account, Answer, call_of


class Wire(stripe.HTTPClient, ABC):
    """Carries the SDK's calls to `account`; `carry` says what they meet on their way."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self._account = account

    @abstractmethod
    def carry(self, call: Callable[[], Answer]) -> Answer:
        """Make one call, or raise what the SDK would see; an answer without a status is lost."""

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        **_: Any,
    ) -> tuple[str, int, Mapping[str, str]]:
        """One call of the SDK.

        Raises:
            stripe.APIConnectionError: the answer was lost.
        """
        del method, url
        call = call_of(post_data or "", (headers or {}).get("Idempotency-Key", ""))
        answer = self.carry(lambda: self._account.create(call))
        if answer.status is None:
            raise no_connection()
        return json.dumps(answer.body), answer.status, answer.headers

    def close(self) -> None:
        """Nothing to close."""


def no_connection() -> Exception:
    """What the SDK raises when no answer comes."""
    return stripe.APIConnectionError("no answer")  # type: ignore[no-untyped-call]
