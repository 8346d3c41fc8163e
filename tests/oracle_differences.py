"""The oracle's comparison: each difference between what must be seen and what was, a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from tests.oracle_lines import (
    DAY_NS,
    EXACT,
    Event,
    Number,
    Row,
    Undecidable,
    instant_ns,
    period,
    plain,
)
from tests.oracle_rules import Expected

STATUSES = ("accepted", "duplicate", "conflict", "rejected", "late", "unknown")
STRIPE_AGE_NS_MAX = 35 * DAY_NS
STRIPE_AHEAD_NS_MAX = 5 * 60 * 10**9

SECTIONS = ("ledger", "events", "set_aside", "rejections", "totals", "alerts", "stripe", "report")

SET_ASIDE = ("status", "source", "id")
TOTAL = ("customer", "meter", "period_start", "group", "value")
ALERT = ("customer", "meter", "period_start", "threshold", "value")
STRIPE = ("stripe_customer_id", "event_name", "period_start", "value")


def differences(definitions: Row, expected: Expected, observed: Row) -> list[str]:
    """All of them; `observed` is described in `tests/oracle.py`."""
    found = [f"{section}: not observed at all" for section in SECTIONS if section not in observed]
    nothing: Row = {section: [] for section in SECTIONS}
    observed = nothing | {"ledger": {}, "report": {}} | observed
    report: Row = {"ledger": {}, "totals": [], "alerts": [], "stripe": []} | observed["report"]
    for name, seen in (("", observed), ("report.", report)):
        found += _ledger_differences(f"{name}ledger", expected.ledger, seen["ledger"])
        found += _multiset_differences(
            f"{name}totals", expected.totals, _rows(seen["totals"], TOTAL)
        )
        found += _multiset_differences(
            f"{name}alerts", expected.alerts, _rows(seen["alerts"], ALERT)
        )
    found += _event_differences(expected.accepted, observed["events"])
    set_aside = _rows(observed["set_aside"], SET_ASIDE)
    found += _multiset_differences("set_aside", expected.set_aside, set_aside)
    if len(observed["rejections"]) != expected.ledger["rejected"]:
        found.append(
            f"rejections: {len(observed['rejections'])}, not {expected.ledger['rejected']}"
        )
    found += _position_differences(observed)
    found += _stripe_differences(definitions, expected, observed, report)
    if report.get("reconciled") is not True:
        found.append("report: reconciled is not true")
    return found


def _rows(rows: list[Row], columns: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(
            json.dumps(row[column], sort_keys=True) if column == "group" else row[column]
            for column in columns
        )
        for row in rows
    )


def _multiset_differences(
    section: str, expected: Counter[tuple[str, ...]], seen: Counter[tuple[str, ...]]
) -> list[str]:
    missing = sorted((expected - seen).items(), key=repr)
    unexpected = sorted((seen - expected).items(), key=repr)
    return [
        *(f"{section}: missing {row}, {times} times" for row, times in missing),
        *(f"{section}: unexpected {row}, {times} times" for row, times in unexpected),
    ]


def _ledger_differences(section: str, expected: Counter[str], seen: Row) -> list[str]:
    found = [
        f"{section}: {name} must be {expected[name]}, is {seen.get(name)}"
        for name in ("sent", *STATUSES)
        if seen.get(name) != expected[name]
    ]
    if seen.get("sent") != sum(seen.get(status) or 0 for status in STATUSES):
        found.append(f"{section}: sent is not the sum of the statuses: {seen}")
    return found


def _event_differences(accepted: list[Event], rows: list[Row]) -> list[str]:
    times = Counter((row["customer"], row["source"], row["id"]) for row in rows)
    found = [f"events: {key} stands there {n} times" for key, n in times.items() if n > 1]
    by_key = {(row["customer"], row["source"], row["id"]): row for row in rows}
    for event in accepted:
        key = (event.customer, event.source, event.id)
        row = by_key.pop(key, None)
        if row is None:
            found.append(f"events: missing {key}")
            continue
        if row["type"] != event.type or instant_ns(row["time"]) != event.time_ns:
            found.append(f"events: {key} has another type or time: {row}")
        if _data_of(row["data"]) != event.data:
            found.append(f"events: {key} has other data: {row['data']}")
    return found + [f"events: unexpected {key}" for key in by_key]


def _data_of(text: str) -> Any:
    def number(literal: str) -> Number:
        return Number(Decimal(literal))

    try:
        return json.loads(text or "null", parse_int=number, parse_float=number)
    except (ValueError, InvalidOperation) as error:
        return error


def _position_differences(observed: Row) -> list[str]:
    """No input position may have two outcomes."""
    positions = Counter(
        (row["source_partition"], row["source_offset"], row.get("source_index", 0))
        for section in ("events", "set_aside", "rejections")
        for row in observed[section]
        if "source_offset" in row
    )
    return [f"position {at} has {n} outcomes" for at, n in positions.items() if n > 1]


def _stripe_differences(
    definitions: Row, expected: Expected, observed: Row, report: Row
) -> list[str]:
    meter_of: dict[str, Row] = {}
    for meter in definitions["meters"]:
        if meter.get("stripe"):
            same_name = meter_of.setdefault(meter["stripe"]["event_name"], meter)
            if same_name.get("period", "month") != meter.get("period", "month"):
                raise Undecidable("meters of different periods share a Stripe event name")
    journal, quarantine = observed["stripe"], observed.get("quarantine", [])
    found = [
        f"stripe: no meter feeds {row}" for row in journal if row["event_name"] not in meter_of
    ]
    identifiers = Counter(row["identifier"] for row in journal)
    found += [f"stripe: {name} was billed {n} times" for name, n in identifiers.items() if n > 1]
    sent = _bills(
        (row, period(int(row["timestamp"]) * 10**9, meter_of.get(row["event_name"], {}))[0])
        for row in journal
    )
    quarantined = _bills((row, row["period_start"]) for row in quarantine)
    found += [
        f"stripe: {row} is in quarantine, but Stripe would take it"
        for row in quarantine
        if _stripe_would_take(row, meter_of[row["event_name"]], expected.newest_received_ms)
    ]
    for key in sorted({*expected.stripe, *sent, *quarantined}):
        must_be = expected.stripe.get(key, Decimal(0))
        came = EXACT.add(sent.get(key, Decimal(0)), quarantined.get(key, Decimal(0)))
        if came != must_be:
            found.append(f"stripe: {key} must be {plain(must_be)}, is {plain(came)}")
    received: Counter[tuple[str, ...]] = Counter(
        (*key, plain(value)) for key, value in sent.items() if value
    )
    reported = _rows([row for row in report["stripe"] if row["value"] != "0"], STRIPE)
    return found + _multiset_differences("report.stripe", received, reported)


def _bills(rows: Iterable[tuple[Row, str]]) -> dict[tuple[str, str, str], Decimal]:
    """(Stripe customer, event name, period start) → sum, of rows and their period's start."""
    bills: dict[tuple[str, str, str], Decimal] = {}
    for row, period_start in rows:
        key = (row["stripe_customer_id"], row["event_name"], period_start)
        bills[key] = EXACT.add(bills.get(key, Decimal(0)), Decimal(row["value"]))
    return bills


def _stripe_would_take(row: Row, meter: Row, now_ms: int) -> bool:
    """Whether some second of the period is at most 35 days old and 5 minutes ahead."""
    start_ns = instant_ns(row["period_start"]) or 0
    _, end_ns = period(start_ns, meter)
    return (
        end_ns - 10**9 >= now_ms * 10**6 - STRIPE_AGE_NS_MAX
        and start_ns <= now_ms * 10**6 + STRIPE_AHEAD_NS_MAX
    )
