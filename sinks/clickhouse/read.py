"""Read models: what the demo, reconciliation and the console ask ClickHouse.

Every query reads under FINAL, so its numbers are exact whatever has been merged so far. Quantities
are read as plain decimal strings. Use inside `Connection.client`, which maps errors.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from schemas.alert import Alert
from schemas.total import Total


class TopCustomer(NamedTuple):
    """One of those who used most of a meter in a period. `usage` is a plain decimal string."""

    meter: str
    period_start: datetime
    customer: str
    usage: str
    events: int


def ledger(client: Client) -> dict[str, int]:
    """How many records of usage.events ended as what; every outcome is named, also at 0."""
    return {
        str(outcome): int(events)
        for outcome, events in client.query("SELECT outcome, events FROM ledger").result_rows
    }


def totals(client: Client) -> list[Total]:
    """All current totals, ordered by customer, meter, period and group."""
    rows = client.query(
        """
        SELECT customer, meter, period_start, period_end, `group`, toString(value),
               toString(usage), events, as_of, version
        FROM totals FINAL
        ORDER BY customer, meter, period_start, group_key
        """
    ).result_rows
    return [Total(**dict(zip(Total.model_fields, row, strict=True))) for row in rows]


def top_customers(client: Client, limit: int) -> list[TopCustomer]:
    """For each meter and period, newest first, the `limit` customers who used most."""
    rows = client.query(
        """
        SELECT meter, period_start, customer, toString(usage), events
        FROM usage_by_customer
        ORDER BY meter, period_start DESC, usage_by_customer.usage DESC, customer
        LIMIT {limit:UInt32} BY meter, period_start
        """,
        parameters={"limit": limit},
    ).result_rows
    return [TopCustomer(*row) for row in rows]


def alerts(client: Client) -> list[Alert]:
    """All alerts, in the order in which the thresholds were crossed."""
    rows = client.query(
        """
        SELECT customer, meter, period_start, period_end, plan, toString(`limit`), threshold,
               toString(value), crossed_at, event_source, event_id
        FROM alerts FINAL
        ORDER BY crossed_at, customer, meter, period_start, value, threshold
        """
    ).result_rows
    return [Alert(**dict(zip(Alert.model_fields, row, strict=True))) for row in rows]
