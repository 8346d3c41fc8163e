"""The example that the oracle is checked with: its lines, and what must be seen of them outside."""

from __future__ import annotations

import copy
from typing import Any

from tests.oracle import check, load_definitions

DEFINITIONS = """
meters:
  - slug: tokens
    event_type: llm.request
    aggregation: sum
    value: $.tokens
    group_by: {model: $.model}
    stripe: {event_name: llm_tokens}
  - slug: peak
    event_type: llm.request
    aggregation: max
    value: $.tokens
    period: day
    grace_hours: 1
plans:
  - slug: free
    limits:
      - {meter: tokens, limit: 100, thresholds: ["50%", "80.0%", 90, 1000]}
customers:
  - {id: ann, plan: free, stripe_customer_id: cus_ann}
  - {id: bob}
"""


def line(
    event_id: str, tokens: str, at: str, received: str, subject: str = "ann", model: str = "m"
) -> bytes:
    return (
        f'{{"specversion":"1.0","id":"{event_id}","source":"s","type":"llm.request",'
        f'"subject":"{subject}","time":"{at}","data":{{"tokens":{tokens},"model":"{model}"}},'
        f'"receivedat":"{received}"}}\n'
    ).encode()


NOON = "2026-11-20T12:00:00Z"

LINES = [
    line("1", '"12.5"', NOON, NOON),
    line("2", "1.25e1", NOON, NOON, model="n"),
    line("2", "1.25e1", "2026-11-20T13:00:00+01:00", NOON, model="n"),  # a duplicate
    line("2", "12.6", NOON, NOON, model="n"),  # a conflict
    line("3", "70", NOON, NOON),  # 95: crosses 50%, 80% and 90 at once
    line("4", "5", "2026-11-18T12:00:00Z", NOON),  # late for peak only: 100
    line("5", "7", "2026-09-30T23:59:59.999Z", NOON),  # late for both
    line("5", "7", "2026-09-30T23:59:59.999Z", NOON),  # a duplicate of a late one
    line("6", "9", NOON, NOON, subject="eve"),  # unknown
    line("7", "true", NOON, NOON),  # rejected
    line("8", "0.0000000001", NOON, NOON),  # rejected
    b"\n",
    b"{not json}\n",  # rejected
    line("9", "-3", NOON, NOON, subject="bob"),
    line("10", "1", NOON, NOON).replace(b"llm.request", b"other.type"),  # no meter counts it
]

LEDGER = {
    "sent": 14,
    "accepted": 6,
    "duplicate": 2,
    "conflict": 1,
    "rejected": 3,
    "late": 1,
    "unknown": 1,
}


def total(customer: str, meter: str, day: str, value: str, **group: str) -> dict[str, Any]:
    start = f"2026-11-{day}T00:00:00Z"
    return {
        "customer": customer,
        "meter": meter,
        "period_start": start,
        "group": group,
        "value": value,
    }


def alert(threshold: str) -> dict[str, Any]:
    return {
        "customer": "ann",
        "meter": "tokens",
        "period_start": "2026-11-01T00:00:00Z",
        "threshold": threshold,
        "value": "95",
    }


def event(customer: str, event_id: str, at: str, data: str, kind: str = "llm.request") -> Any:
    return {
        "customer": customer,
        "type": kind,
        "source": "s",
        "id": event_id,
        "time": at,
        "data": data,
    }


def billed(identifier: str, value: str) -> dict[str, Any]:
    return {
        "stripe_customer_id": "cus_ann",
        "event_name": "llm_tokens",
        "value": value,
        "timestamp": 1795176000,  # 2026-11-20T12:00:00Z
        "identifier": identifier,
    }


def observed() -> dict[str, Any]:
    """What is seen outside when nothing went wrong, counted by hand."""
    totals = [
        total("ann", "tokens", "01", "87.5", model="m"),
        total("ann", "tokens", "01", "12.5", model="n"),
        total("ann", "peak", "20", "70"),
        total("bob", "tokens", "01", "-3", model="m"),
        total("bob", "peak", "20", "-3"),
    ]
    alerts = [alert("50%"), alert("80%"), alert("90")]
    set_aside = [("duplicate", "2"), ("conflict", "2"), ("late", "5"), ("duplicate", "5")]
    seen: dict[str, Any] = {
        "ledger": dict(LEDGER),
        "events": [
            event("ann", "1", NOON, '{"model": "m", "tokens": "12.5"}'),
            event("ann", "2", NOON, '{"tokens": 12.5, "model": "n"}'),
            event("ann", "3", "2026-11-20T12:00:00.000Z", '{"tokens": 70, "model": "m"}'),
            event("ann", "4", "2026-11-18T12:00:00Z", '{"tokens": 5, "model": "m"}'),
            event("bob", "9", NOON, '{"tokens": -3, "model": "m"}'),
            event("ann", "10", NOON, '{"tokens": 1, "model": "m"}', "other.type"),
        ],
        "set_aside": [
            {
                "status": status,
                "source": "s",
                "id": event_id,
                "source_partition": 0,
                "source_offset": offset,
            }
            for offset, (status, event_id) in enumerate([*set_aside, ("unknown", "6")])
        ],
        "rejections": [{"source_partition": 1, "source_offset": offset} for offset in range(3)],
        "totals": totals,
        "alerts": alerts,
        "stripe": [billed("tokens/ann/0", "12.5"), billed("tokens/ann/1", "87.5")],
    }
    bill = {"period_start": "2026-11-01T00:00:00Z", "value": "100"}
    seen["report"] = {
        "ledger": dict(LEDGER),
        "totals": copy.deepcopy(totals),
        "alerts": copy.deepcopy(alerts),
        "stripe": [{"stripe_customer_id": "cus_ann", "event_name": "llm_tokens", **bill}],
        "reconciled": True,
    }
    return seen


def found(seen: dict[str, Any], lines: list[bytes] = LINES, **options: str) -> list[str]:
    return check(load_definitions(DEFINITIONS), lines, seen, **options)
