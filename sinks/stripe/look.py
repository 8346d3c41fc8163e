"""Whether Stripe lets a key in, and which meters it has: looked at, never changed."""

from __future__ import annotations

import stripe

from sinks.stripe.client import interpret

#: Any whole day; a meter of this name need not exist.
_NOBODY = {"customer": "cus_nobody", "start_time": 0, "end_time": 86_400}


def active_meters(client: stripe.StripeClient) -> frozenset[str] | None:
    """The event names that have an active meter; None for a key that may not list meters.

    Raises:
        Retry: Stripe cannot be reached, or cannot answer now.
        Stop: it does not let the key in.
    """
    try:
        found = client.v1.billing.meters.list({"status": "active", "limit": 100})
        return frozenset(meter.event_name for meter in found.auto_paging_iter())
    except stripe.PermissionError:
        return None  # a key that may only write meter events is a good key
    except stripe.StripeError as error:
        raise interpret(error) from error


def try_stand_in(client: stripe.StripeClient) -> None:
    """Asks a stand-in for a summary: it may have none of the meters yet, which come with their use.

    Raises:
        Retry: nothing answers there, or not as Stripe does.
        Stop: what answers is no stand-in, or has another key.
    """
    try:
        client.v1.billing.meters.event_summaries.list("mtr_none", _NOBODY)  # type: ignore[arg-type]
    except stripe.StripeError as error:
        raise interpret(error) from error
