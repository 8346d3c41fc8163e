"""What the demo shows in the end is what users named, letter by letter."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from pipeline.commands.show_demo import show
from pipeline.reconcile import Seen, reconcile
from schemas.alert import Alert
from schemas.definitions import Definitions
from schemas.forecast import Forecast
from schemas.total import Total

NOVEMBER, DECEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (11, 12))

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [{"slug": "calls", "event_type": "call", "aggregation": "count"}],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)


def page(customer: str) -> str:
    """What is shown of a run in which `customer` has a total, an alert and a forecast."""
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
    seen = Seen(
        sent=3,
        kafka_ledger={"accepted": 3},
        clickhouse_ledger={"accepted": 3},
        kafka_totals=[total],
        clickhouse_totals=[total],
        kafka_alerts=[alert],
        clickhouse_alerts=[],
        stripe={},
        quarantine={},
        deltas=[],
        forecasts=[forecast],
    )
    file = io.StringIO()
    show(
        Console(file=file, width=200, highlight=False),
        DEFINITIONS,
        seen,
        reconcile(seen, DEFINITIONS),
    )
    return file.getvalue()


@pytest.mark.parametrize("customer", ["team[/ops]", "[eu] acme", "[bold]", "\\[x]", "cus_1"])
def test_a_customer_is_shown_as_it_is_named(customer: str) -> None:
    text = page(customer)
    assert text.count(f"│ {customer} ") == 2
    assert f"the next is {customer}, at 100%" in text
    assert f"✗ alert ({customer!r}, " in text


def test_a_customer_whose_name_has_steering_characters_steers_no_terminal() -> None:
    assert "\x1b" not in page("cus\x1b[2J")
