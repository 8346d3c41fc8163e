"""The oracle is checked itself: a case counted by hand, and planted differences it must report."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import check, load_definitions, main
from tests.oracle_lines import Undecidable, instant_ns, plain
from tests.oracle_rules import expect

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


def test_what_was_counted_by_hand_has_no_difference() -> None:
    assert found(observed()) == []


PLANTED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "an alert twice": ("alerts", lambda seen: seen["alerts"].append(alert("50%"))),
    "an alert missing": ("alerts", lambda seen: seen["alerts"].pop()),
    "an alert never crossed": ("alerts", lambda seen: seen["alerts"].append(alert("1000"))),
    "an alert with the total of a batch": (
        "alerts",
        lambda seen: seen["alerts"][0].update(value="100"),
    ),
    "a total off by a billionth": (
        "totals",
        lambda seen: seen["totals"][0].update(value="87.500000001"),
    ),
    "a total with trailing zeros": ("totals", lambda seen: seen["totals"][0].update(value="87.50")),
    "a total as a float": ("totals", lambda seen: seen["totals"][0].update(value=87.5)),
    "a total in another group": (
        "totals",
        lambda seen: seen["totals"][0].update(group={"model": "n"}),
    ),
    "a total in the next period": (
        "totals",
        lambda seen: seen["totals"][0].update(period_start="2026-12-01T00:00:00Z"),
    ),
    "a total twice": ("totals", lambda seen: seen["totals"].append(seen["totals"][0])),
    "a duplicate missing": ("set_aside", lambda seen: seen["set_aside"].pop(0)),
    "a duplicate taken for a conflict": (
        "set_aside",
        lambda seen: seen["set_aside"][0].update(status="conflict"),
    ),
    "an event twice": ("events", lambda seen: seen["events"].append(seen["events"][0])),
    "an event lost": ("events", lambda seen: seen["events"].pop()),
    "an event nobody sent": (
        "events",
        lambda seen: seen["events"].append(event("ann", "77", NOON, "{}")),
    ),
    "an event's quantity as a float": (
        "events",
        lambda seen: seen["events"][1].update(data='{"tokens": 12.500000000000002, "model": "n"}'),
    ),
    "an event's time cut short": (
        "events",
        lambda seen: seen["events"][0].update(time="2026-11-20T12:00:00.000000001Z"),
    ),
    "a rejection lost": ("rejections", lambda seen: seen["rejections"].pop()),
    "a position with two outcomes": (
        "position",
        lambda seen: seen["rejections"][0].update(source_partition=0),
    ),
    "a delta billed twice": (
        "stripe: tokens/ann/0 was billed 2 times",
        lambda seen: seen["stripe"].append(billed("tokens/ann/0", "12.5")),
    ),
    "a delta billed again under a new name": (
        "stripe",
        lambda seen: seen["stripe"].append(billed("tokens/ann/2", "12.5")),
    ),
    "a delta stamped in the next period": (
        "stripe",
        lambda seen: seen["stripe"][0].update(timestamp=1796083200),
    ),
    "a delta never sent": ("stripe", lambda seen: seen["stripe"].pop()),
    "a bill for a customer without one": (
        "stripe",
        lambda seen: seen["stripe"].append(
            billed("tokens/bob/0", "-3") | {"stripe_customer_id": "cus_bob"}
        ),
    ),
    "a delta in quarantine that Stripe would take": (
        "quarantine",
        lambda seen: seen.update(
            quarantine=[seen["stripe"].pop() | {"period_start": "2026-11-01T00:00:00Z"}]
        ),
    ),
    "a ledger that does not add up": (
        "sum of the statuses",
        lambda seen: seen["ledger"].update(sent=15),
    ),
    "a status missing from the ledger": (
        "ledger: unknown",
        lambda seen: seen["ledger"].pop("unknown"),
    ),
    "a late event counted": (
        "ledger: late",
        lambda seen: seen["ledger"].update(late=0, accepted=7),
    ),
    "a report with other totals": ("report.totals", lambda seen: seen["report"]["totals"].pop()),
    "a report with other alerts": ("report.alerts", lambda seen: seen["report"]["alerts"].pop()),
    "a report with another bill": (
        "report.stripe",
        lambda seen: seen["report"]["stripe"][0].update(value="99"),
    ),
    "a report with another ledger": (
        "report.ledger",
        lambda seen: seen["report"]["ledger"].update(conflict=0, duplicate=3),
    ),
    "a report that does not reconcile": (
        "report",
        lambda seen: seen["report"].update(reconciled=False),
    ),
}


@pytest.mark.parametrize("section", observed())
def test_a_section_that_nobody_observed_is_a_difference(section: str) -> None:
    seen = observed()
    del seen[section]
    assert f"{section}: not observed at all" in found(seen)


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_difference_is_reported(name: str) -> None:
    says, plant = PLANTED[name]
    seen = observed()
    plant(seen)
    assert any(says in difference for difference in found(seen))


def test_a_period_too_old_for_stripe_may_stay_in_quarantine() -> None:
    seen = observed()
    seen["quarantine"] = [
        row | {"period_start": "2026-11-01T00:00:00Z"} for row in seen.pop("stripe")
    ]
    seen["stripe"] = []
    seen["report"]["stripe"] = []
    in_january = line("11", "1", NOON, "2027-01-20T12:00:00Z", subject="eve")
    for ledger in (seen["ledger"], seen["report"]["ledger"]):
        ledger.update(sent=15, unknown=2)
    seen["set_aside"].append({"status": "unknown", "source": "s", "id": "11"})
    assert found(seen, [*LINES, in_january]) == []


def test_data_is_compared_by_its_bytes() -> None:
    spelled_otherwise = [line("1", "1", NOON, NOON), line("1", "1.0", NOON, NOON)]
    assert expect(load_definitions(DEFINITIONS), spelled_otherwise).ledger["conflict"] == 1


def test_true_is_not_one_and_a_text_is_not_a_number() -> None:
    lines = [
        line("1", data, NOON, NOON).replace(b"llm.request", b"other.type")
        for data in ("1", "true", '"1"')
    ]
    assert expect(load_definitions(DEFINITIONS), lines).ledger["conflict"] == 2


@pytest.mark.parametrize(
    ("received", "status"),
    [
        ("2026-12-04T00:00:00Z", "accepted"),
        ("2026-12-04T00:00:00.0009Z", "accepted"),
        ("2026-12-04T00:00:00.001Z", "late"),
    ],
)
def test_the_grace_time_ends_with_its_last_millisecond(received: str, status: str) -> None:
    definitions = load_definitions(DEFINITIONS)
    definitions["meters"].pop()
    assert expect(definitions, [line("1", "1", NOON, received)]).ledger[status] == 1


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("sum", "6"), ("count", "3"), ("max", "3"), ("min", "1"), ("latest", "2")],
)
def test_each_aggregation_counts_as_its_name_says(aggregation: str, value: str) -> None:
    definitions = load_definitions(DEFINITIONS)
    definitions["meters"][0].update(aggregation=aggregation, group_by={})
    lines = [
        line("1", "3", "2026-11-20T12:00:01Z", NOON),
        line("2", "2", "2026-11-20T12:00:01Z", NOON),
        line("3", "1", "2026-11-20T12:00:00Z", NOON),
    ]
    totals = expect(definitions, lines).totals
    assert totals["ann", "tokens", "2026-11-01T00:00:00Z", "{}", value] == 1


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        ("null", ""),
        ('"a b"', "a b"),
        ("true", "true"),
        ("1.50", "1.5"),
        ("1e2", "100"),
        ('{"b":[1.0,"é"],"a":null}', '{"a":null,"b":[1,"é"]}'),
    ],
)
def test_a_dimension_is_a_text(dimension: str, text: str) -> None:
    event = line("1", "1", NOON, NOON).replace(b'"m"', dimension.encode())
    group = json.dumps({"model": text})
    totals = expect(load_definitions(DEFINITIONS), [event]).totals
    assert totals["ann", "tokens", "2026-11-01T00:00:00Z", group, "1"] == 1


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.0000000019+01:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59Z", None),
        ("2262-04-11T00:00:00Z", None),
        ("2026-11-20T12:00:00", None),
        ("2026-02-29T12:00:00Z", None),
        ("20261120T120000Z", None),
    ],
)
def test_an_instant_is_an_rfc_3339_time(text: str, instant: int | None) -> None:
    assert instant_ns(text) == instant


def test_a_quantity_is_written_without_exponent_and_trailing_zeros() -> None:
    written = [plain(Decimal(text)) for text in ("1E+2", "12.50", "-0.0", "1E-9")]
    assert written == ["100", "12.5", "0", "0.000000001"]


def test_one_identity_under_two_customers_is_a_conflict() -> None:
    lines = [line("1", "1", NOON, NOON), line("1", "1", NOON, NOON, subject="bob")]
    assert expect(load_definitions(DEFINITIONS), lines).ledger["conflict"] == 1


def test_a_line_without_arrival_needs_to_be_told_when_it_arrived() -> None:
    without = [line("1", "1", NOON, "never")]
    with pytest.raises(Undecidable, match="no `now`"):
        found(observed(), without)
    definitions = load_definitions(DEFINITIONS)
    assert expect(definitions, without, NOON).ledger["accepted"] == 1
    assert expect(definitions, without, "2027-11-20T12:00:00Z").ledger["late"] == 1


def test_it_shares_no_code_with_the_product() -> None:
    allowed = sys.stdlib_module_names | {"yaml", "tests"}
    for program in sorted(Path(__file__).parent.glob("oracle*.py")):
        for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed
                assert not name.startswith("tests.") or name.startswith("tests.oracle_")


def test_the_command_prints_every_difference_and_exits_with_1(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("meterline.yaml", "events.ndjson", "observed.json")]
    config, events, seen = paths
    config.write_text(DEFINITIONS)
    events.write_bytes(b"".join(LINES))
    seen.write_text(json.dumps(observed()))
    options = [f"--config={config}", f"--input={events}", f"--observed={seen}"]
    assert main(options) == 0
    seen.write_text(json.dumps(observed() | {"alerts": []}))
    program = [sys.executable, str(Path(__file__).with_name("oracle.py")), *options]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout.count("alerts: missing") == 3
