"""The oracle is checked itself: a case counted by hand, and planted differences it must report."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.counted_by_hand import (
    DEFINITIONS,
    LINES,
    NOON,
    alert,
    billed,
    event,
    found,
    line,
    observed,
)
from tests.oracle import main


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
