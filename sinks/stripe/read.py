"""Reading Stripe's meter event summaries: what Stripe will bill, as far as it tells.

A summary is a binary float, and lags behind what was delivered; `pipeline.reconcile_bill` knows.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Final

import stripe

from pipeline.errors import Retry
from pipeline.reconcile_bill import Window
from schemas.quantity import NANOS
from sinks.stripe.client import CONNECTIONS, interpret
from sinks.stripe.pace import Pace

#: The part of the account's rate that reading takes: delivering must not wait for it.
SHARE: Final = 0.25

_TRIES = 3


def meter_ids(client: stripe.StripeClient) -> dict[str, str | None] | None:
    """Event name → id of each meter, None of one that is not active; None for a key that may not
    read meters.

    Raises:
        Retry: Stripe cannot be reached, or cannot answer now.
        Stop: it does not let the key in.
    """
    try:
        found = client.v1.billing.meters.list({"limit": 100})
        return {
            meter.event_name: meter.id if meter.status == "active" else None
            for meter in found.auto_paging_iter()
        }
    except stripe.PermissionError:
        return None  # a key that may only write meter events is a good key
    except stripe.StripeError as error:
        raise interpret(error) from error


def summaries(
    client: stripe.StripeClient,
    windows: Collection[Window],
    meters: Mapping[str, str | None],
    *,
    calls_per_second: float,
) -> dict[Window, int]:
    """What Stripe has counted in each window, in nanos; nothing for a meter that it does not have.

    One that is not active is not asked: its windows are left out.

    Raises:
        Retry: Stripe cannot be reached, or cannot answer now.
        Stop: it does not let the key read summaries.
    """
    pace = Pace(calls_per_second * SHARE, sleep=time.sleep, monotonic=time.monotonic)
    active = {name: meter_id for name, meter_id in meters.items() if meter_id is not None}
    asked = [window for window in windows if window.event_name in active]
    nothing = {window: 0 for window in windows if window.event_name not in meters}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sums = pool.map(lambda one: _summary(client, one, active[one.event_name], pace), asked)
        return nothing | dict(zip(asked, sums, strict=True))


def _summary(client: stripe.StripeClient, window: Window, meter_id: str, pace: Pace) -> int:
    tried = 0
    while True:
        pace.wait()
        tried += 1
        try:
            found = client.v1.billing.meters.event_summaries.list(
                meter_id,
                {
                    "customer": window.stripe_customer_id,
                    "start_time": window.start_ms // 1000,
                    "end_time": window.end_ms // 1000,
                    "limit": 100,
                },
            )
            return sum(_nanos(each.aggregated_value) for each in found.auto_paging_iter())
        except stripe.StripeError as error:
            if error.code == "resource_missing":
                return 0  # a customer whom Stripe does not know has no usage there
            asked = interpret(error)
            if not isinstance(asked, Retry) or tried == _TRIES:
                raise asked from error
            pace.pause(1.0 if asked.after_seconds is None else asked.after_seconds)


def _nanos(value: float) -> int:
    """A float to the nearest of 10^-9; finer than what it can tell apart is not looked at."""
    nanos: int = round(Decimal(value) * NANOS)
    return nanos
