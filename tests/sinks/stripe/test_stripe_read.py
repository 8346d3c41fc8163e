"""Meters and their summaries are read through the real SDK."""

from __future__ import annotations

import pytest
import stripe
from pydantic import SecretStr

from pipeline.errors import Retry, Stop
from pipeline.reconcile_bill import Window
from schemas.quantity import NANOS
from sinks.stripe.client import stripe_client
from sinks.stripe.look import active_meters
from sinks.stripe.read import meter_ids, summaries
from sinks.stripe.stand_in import StripeStandIn

KEY = "rk_live_reader"
DAY_MS = 86_400_000
FAST = 100_000.0


def client(stand_in: StripeStandIn, key: str = KEY) -> stripe.StripeClient:
    return stripe_client(SecretStr(key), stand_in.url)


def send(stand_in: StripeStandIn, identifier: str, value: str, day: int) -> None:
    client(stand_in).v1.billing.meter_events.create(
        {
            "event_name": "tokens",
            "payload": {"stripe_customer_id": "cus_1", "value": value},
            "identifier": identifier,
            "timestamp": day * DAY_MS // 1000,
        },
        {"idempotency_key": identifier},
    )


def test_a_summary_has_what_lies_in_its_window_to_the_nano() -> None:
    with StripeStandIn(KEY) as stand_in:
        for number, (value, day) in enumerate([("0.1", 3), ("0.2", 4), ("7", 5), ("9", 2)]):
            send(stand_in, f"id-{number}", value, day)
        window = Window("cus_1", "tokens", 3 * DAY_MS, 5 * DAY_MS)
        other = window._replace(stripe_customer_id="cus_2")
        unknown = window._replace(event_name="unknown")
        meters = meter_ids(client(stand_in))
        assert meters == {"tokens": "mtr_tokens"}
        windows = [window, other, unknown, window._replace(event_name="archived")]
        known = {**meters, "archived": None}
        found = summaries(client(stand_in), windows, known, calls_per_second=FAST)
        assert found == {window: 3 * NANOS // 10, other: 0, unknown: 0}


def test_the_stand_in_lists_the_meters_that_it_was_given() -> None:
    with StripeStandIn(KEY, meters={"b", "a"}) as stand_in:
        assert active_meters(client(stand_in)) == frozenset({"a", "b"})


def test_a_wrong_key_stops_and_a_silent_stripe_is_asked_later() -> None:
    window = Window("cus_1", "tokens", 0, DAY_MS)
    with StripeStandIn(KEY) as stand_in:
        with pytest.raises(Stop):
            meter_ids(client(stand_in, "rk_live_other"))
        connected = client(stand_in)
    with pytest.raises(Retry):
        meter_ids(connected)
    with pytest.raises(Retry):
        summaries(connected, [window], {"tokens": "mtr_tokens"}, calls_per_second=FAST)
