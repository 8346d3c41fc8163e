"""What the demo shows in the end is what users named, letter by letter."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from pipeline.commands.show_demo import show
from pipeline.reconcile import Seen, reconcile
from schemas.alert import Alert
from schemas.billing import Delta
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.quantity import from_plain
from schemas.total import Total

NOVEMBER, DECEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (11, 12))

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [{"slug": "calls", "event_type": "call", "aggregation": "count"}],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)


def seen_of(customer: str) -> Seen:
    """A run in which `customer` has a total, an alert and a forecast."""
    of_customer = {
        "customer": customer,
        "meter": "calls",
        "period_start": NOVEMBER,
        "period_end": DECEMBER,
    }
    total = Total(
        **of_customer, group={}, value="3", usage="3", events=3, as_of=NOVEMBER, version=1
    )
    alert = Alert(
        **of_customer,
        plan="free",
        limit="3",
        threshold="100%",
        value="3",
        crossed_at=NOVEMBER,
        event_source="/gateway",
        event_id="7",
    )
    forecast = Forecast(
        **of_customer,
        threshold="100%",
        usage="3",
        projected="9",
        crosses_at=DECEMBER,
        as_of=NOVEMBER,
    )
    return Seen(
        sent=3,
        kafka_ledger={"accepted": 3},
        clickhouse_ledger={"accepted": 3},
        kafka_totals=[total],
        clickhouse_totals=[total],
        kafka_alerts=[alert],
        clickhouse_alerts=[alert],
        stripe={},
        quarantine={},
        deltas=[],
        reasons={},
        forecasts=[forecast],
    )


def page(seen: Seen, definitions: Definitions = DEFINITIONS) -> str:
    """What is shown of it."""
    file = io.StringIO()
    console = Console(file=file, width=200, highlight=False)
    show(console, definitions, seen, reconcile(seen, definitions))
    return file.getvalue()


@pytest.mark.parametrize("customer", ["team[/ops]", "[eu] acme", "[bold]", "\\[x]", "cus_1"])
def test_a_customer_is_shown_as_it_is_named(customer: str) -> None:
    text = page(replace(seen_of(customer), clickhouse_alerts=[]))
    assert text.count(f"│ {customer} ") == 2
    assert f"the next is {customer}, at 100%" in text
    assert f"✗ alert ({customer!r}, " in text


def test_a_customer_whose_name_has_steering_characters_steers_no_terminal() -> None:
    assert "\x1b" not in page(replace(seen_of("cus\x1b[2J"), clickhouse_alerts=[]))


def test_bills_that_are_short_are_not_said_to_be_whole() -> None:
    meter = {"slug": "calls", "event_type": "call", "aggregation": "count"}
    definitions = Definitions.model_validate(
        {
            "meters": [meter | {"stripe": {"event_name": "calls"}}],
            "plans": [{"slug": "free"}],
            "default_plan": "free",
            "customers": [{"id": "cus_1", "stripe_customer_id": "cus_stripe_1"}],
        }
    )
    delta = Delta(
        identifier="calls-1-0",
        customer="cus_1",
        stripe_customer_id="cus_stripe_1",
        meter="calls",
        event_name="calls",
        period_start=NOVEMBER,
        period_end=DECEMBER,
        sequence=0,
        value="3",
        timestamp=1795253400,
    )
    seen = replace(
        seen_of("cus_1"),
        quarantine={delta.identifier: from_plain(delta.value)},
        deltas=[delta],
        reasons={"The timestamp is too old. Bill it by hand.": 1},
    )
    text = page(seen, definitions)
    assert "0 bills, 0 units + 3 in quarantine" in text
    assert "! 1 delta is in quarantine: The timestamp is too old. Bill it by hand." in text
    assert "= Stripe; but the bills are short by what is in quarantine" in text
    whole = page(seen_of("cus_1"))
    assert whole.splitlines()[-1].endswith("and ClickHouse = Kafka totals = Stripe")
