"""A person can read what was found, and no number is cut off."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from pipeline.commands.show_chain import show
from schemas.discrepancy import Difference
from schemas.reconciliation import Ledger, NotChecked, OpenItem, Outcome, PeriodRow, Reconciliation

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
ROW = PeriodRow(
    meter="tokens",
    period_start=NOVEMBER,
    period_end=datetime(2026, 12, 1, tzinfo=UTC),
    customers=9,
    recomputed="123456789012.123456",
    clickhouse="123456789012.123456",
    kafka="123456789013.123456",
    billable="98765432109.5",
    frozen="98765432109.5",
    delivered="98765432000.5",
    set_aside="109",
    stripe="98765432000.500000001",
    moving=0,
    differences=2,
)
LEDGER = Ledger(
    first={0: 0, 1: 7},
    cut={0: 10, 1: 20},
    input=23,
    outcomes=(Outcome(outcome="accepted", kafka=22, clickhouse=20),),
    not_taken_in=3,
    not_decided=4,
    not_stored=1_000,
)


def page(**changed: Any) -> str:
    found = Reconciliation(
        at=NOVEMBER,
        reconciled=True,
        ledger=LEDGER,
        periods=(ROW,),
        open_items=(),
        not_checked=(),
        unsent=0,
        older_periods=0,
        difference_count=0,
        differences=(),
    )
    file = io.StringIO()
    show(Console(file=file, width=100, highlight=False), found.model_copy(update=changed))
    return file.getvalue()


def test_each_column_shows_what_it_has_more_than_the_one_before() -> None:
    (line,) = [line for line in page().splitlines() if line.startswith(" 2026-11-01")]
    assert line.split() == [
        "2026-11-01", "123,456,789,012", "=", "+1", "98,765,432,110", "=", "-109", "109",
        "+0.000000001", "2",
    ]  # fmt: skip
    assert len(line) <= 100


def test_the_ledger_shows_gaps_what_is_in_flight_and_where_it_begins() -> None:
    lines = [line.split() for line in page().splitlines()]
    assert ["accepted", "22", "20", "-2"] in lines
    assert ["positions", "23", "-1"] in lines
    assert "3 not yet taken in, 4 not yet decided, 1,000 not yet in ClickHouse" in page()
    assert "as Kafka deleted what was before: 0: 0, 1: 7" in page()


def test_what_moves_is_no_difference() -> None:
    assert "5 moving" in page(periods=(ROW.model_copy(update={"moving": 5, "differences": 0}),))


def test_what_is_held_is_named_with_its_remedy_and_the_bill_is_short() -> None:
    item = OpenItem(
        customer="cus_1",
        meter="tokens",
        period_start=NOVEMBER,
        outcome="held",
        deltas=2,
        value="109",
        reason="It may have been sent.",
        remedy="Compare the summaries.",
    )
    text = page(open_items=(item,))
    assert "! cus_1, tokens from 2026-11-01: 2 deltas of 109 held. It may have been sent." in text
    assert "Remedy: Compare the summaries." in text
    assert "the bills are short by what was held or refused" in text


def test_what_was_not_checked_says_why() -> None:
    text = page(not_checked=(NotChecked(link="stripe", reason="no key"),), older_periods=4)
    assert "Not checked, delivered = Stripe's meter event summaries: no key." in text
    assert "as far as it was checked" in text
    assert "4 totals of older periods were not looked at" in text


def test_differences_end_with_how_many_there_are() -> None:
    difference = Difference(key="a", link="totals", sentence="It differs.", expected="1", found="2")
    text = page(reconciled=False, difference_count=7, differences=(difference,))
    assert "✗ totals: It differs." in text
    assert "and 6 more differences" in text
    assert "✗ 7 differences." in text
    assert "Reconciled" not in text
