"""What `meterline reconcile` shows: the ledger, a row a meter and period, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.difference import shown
from schemas.discrepancy import LINKS
from schemas.quantity import NANOS, PLACES, from_plain, plain
from schemas.reconciliation import Ledger, PeriodRow, Reconciliation

#: Places in a table, which has no room for more; from a million on, none. Differences have all.
_PLACES = 3
_NO_PLACES_FROM = 10**6 * NANOS

_LINKS: Sequence[tuple[str, str]] = (
    ("from\nevents", "recomputed"),
    ("Click-\nHouse", "clickhouse"),
    ("\nKafka", "kafka"),
    ("\nbillable", "billable"),
    ("\nfrozen", "frozen"),
    ("\nsent", "delivered"),
    ("\nStripe", "stripe"),
)


def show(console: Console, found: Reconciliation) -> None:
    """Print one look."""
    if found.ledger is not None:
        _show_ledger(console, found.ledger)
    if found.periods:
        _title(console, "Every meter and period, from events to Stripe")
        console.print(_periods(found.periods))
        console.print(
            Text(
                "Sums over customers, rounded; --json has all digits. = is the same as the column\n"
                "before, +1 so much more, - not billed, or not checked. Not taken: held, refused.\n"
                "Differences: how many customers have any.\n",
                style="dim",
            )
        )
    if found.older_periods:
        console.print(
            f"{found.older_periods:,} totals of older periods were not looked at; see --period."
        )
    if found.unsent:
        console.print(f"In flight: {found.unsent:,} frozen deltas are not confirmed by Stripe yet.")
    for gap in found.not_checked:
        _line(console, "○", "yellow", f"Not checked, {LINKS[gap.link]}: {gap.reason}.")
    for item in found.open_items:
        deltas = "1 delta" if item.deltas == 1 else f"{item.deltas:,} deltas"
        _line(
            console, "!", "red",
            f"{shown(item.customer)}, {item.meter} from {item.period_start:%Y-%m-%d}: {deltas} of "
            f"{item.value} {item.outcome}. {item.reason}",
        )  # fmt: skip
        console.print(Text.assemble("  ", ("Remedy: ", "bold"), item.remedy), soft_wrap=True)
    for difference in found.differences:
        _line(console, "✗", "red", f"{difference.link}: {difference.sentence}")
    if found.difference_count > len(found.differences):
        hidden = found.difference_count - len(found.differences)
        console.print(f"  … and {hidden:,} more differences; see --limit.")
    _verdict(console, found)


def _verdict(console: Console, found: Reconciliation) -> None:
    if not found.reconciled:
        count = found.difference_count
        text = "1 difference" if count == 1 else f"{count:,} differences"
        _line(console, "✗", "bold red", f"{text}. docs/operating.md says where to look.")
        return
    text = "Reconciled: nothing was lost, doubled or changed"
    if found.not_checked:
        text += ", as far as it was checked"
    if found.open_items:
        text += "; but the bills are short by what was held or refused"
    _line(console, "✓", "bold green", f"{text}.")


def _title(console: Console, text: str) -> None:
    console.print(Text(text, style="bold"))


def _line(console: Console, mark: str, style: str, text: str) -> None:
    console.print(Text.assemble((mark, style), " ", text), soft_wrap=True)


def _show_ledger(console: Console, ledger: Ledger) -> None:
    _title(console, "Every position of usage.events that has come through")
    table = Table(box=SIMPLE_HEAD)
    table.add_column("outcome")
    for name in ("Kafka", "ClickHouse", "difference"):
        table.add_column(name, justify="right")
    for outcome in ledger.outcomes:
        table.add_row(
            outcome.outcome, f"{outcome.kafka:,}", *_compared(outcome.kafka, outcome.clickhouse)
        )
    in_kafka = sum(outcome.kafka for outcome in ledger.outcomes)
    in_clickhouse = sum(outcome.clickhouse for outcome in ledger.outcomes)
    table.add_section()
    table.add_row("all outcomes", f"{in_kafka:,}", *_compared(in_kafka, in_clickhouse))
    table.add_row("positions", f"{ledger.input:,}", "", _compared(ledger.input, in_kafka)[1])
    console.print(table)
    waiting = {
        "not yet taken in": ledger.not_taken_in,
        "not yet decided": ledger.not_decided,
        "not yet in ClickHouse": ledger.not_stored,
    }
    console.print(
        "In flight, not compared: "
        + ", ".join(f"{count:,} {what}" for what, count in waiting.items())
        + "."
    )
    if any(ledger.first.values()):
        begins = ", ".join(f"{p}: {at:,}" for p, at in sorted(ledger.first.items()))
        console.print(
            f"Counted from these positions on, as Kafka deleted what was before: {begins}."
        )


def _compared(expected: int, found: int) -> tuple[str, Text]:
    gap = found - expected
    return f"{found:,}", Text(f"{gap:+,}", style="bold red") if gap else Text("-", style="dim")


def _periods(rows: Sequence[PeriodRow]) -> Table:
    has_aside = any(row.set_aside not in (None, "0") for row in rows)
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("meter,\nperiod", no_wrap=True)
    for title, name in _LINKS:
        table.add_column(title, justify="right", no_wrap=True)
        if name == "delivered" and has_aside:
            table.add_column("not\ntaken", justify="right", no_wrap=True, style="red")
    table.add_column("differ-\nences", justify="right", no_wrap=True)
    meter = ""
    for row in rows:
        if row.meter != meter:
            meter = row.meter
            table.add_row(Text(meter, style="bold"))
        table.add_row(f" {row.period_start:%Y-%m-%d}", *_cells(row, has_aside), _state(row))
    return table


def _cells(row: PeriodRow, has_aside: bool) -> list[str]:
    cells = []
    before: str | None = None
    for _, name in _LINKS:
        value = getattr(row, name)
        if value is None:
            cells.append("-")
        elif before is None or name == "billable":
            # A part of what is before it: the customers who are billed.
            cells.append("=" if value == before else _rounded(value))
        else:
            cells.append(_gap(before, value))
        before = before if value is None else value
        if name == "delivered" and has_aside:
            aside = row.set_aside
            cells.append("-" if aside in (None, "0") else _rounded(str(aside)))
    return cells


def _gap(before: str, value: str) -> str:
    """What a column has more, or less, than the one before."""
    gap = from_plain(value) - from_plain(before)
    if not gap:
        return "="
    shown_gap = _rounded(plain(gap))
    return shown_gap if gap < 0 else f"+{shown_gap}"


def _state(row: PeriodRow) -> Text:
    if row.differences:
        return Text(f"{row.differences:,}", style="bold red")
    return Text(f"{row.moving:,} moving", style="yellow") if row.moving else Text("0", style="dim")


def _rounded(value: str) -> str:
    units = from_plain(value)
    places = 0 if abs(units) >= _NO_PLACES_FROM else _PLACES
    rounded = round(units, places - PLACES)
    if not rounded:
        return value
    whole, _, rest = plain(abs(rounded)).partition(".")
    return ("-" if units < 0 else "") + f"{int(whole):,}" + (f".{rest}" if rest else "")
