"""What the demo shows in the end: where each event went, and one line that adds up."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.difference import shown
from pipeline.reconcile import OUTCOMES, Reconciliation, Seen
from schemas.definitions import Definitions
from schemas.quantity import from_plain, plain

_ROWS_MAX = 10

_MEANINGS = {
    "accepted": "counted, stored in ClickHouse `events`",
    "duplicate": "seen before with the same content, not counted again",
    "conflict": "known id with other content, the first one counts",
    "rejected": "unusable, kept on `usage.rejected` with reason and remedy",
    "late": "after the grace time of every meter, set aside",
    "unknown": "no such customer, parked",
}


def show(console: Console, definitions: Definitions, seen: Seen, result: Reconciliation) -> None:
    """Print the outcome of a run."""
    console.print()
    console.print(_outcomes(seen))
    console.print(_alerts(seen))
    console.print(_top_customers(seen, definitions))
    if seen.forecasts:
        first = min(seen.forecasts, key=lambda forecast: forecast.crosses_at)
        console.print(
            Text(
                f"Forecasts: {len(seen.forecasts)} on usage.forecasts; the next is"
                f" {shown(first.customer)}, at {first.threshold} of {first.meter} by"
                f" {first.crosses_at:%Y-%m-%d %H:%M}"
            ),
            soft_wrap=True,
        )
    counts = " + ".join(f"{seen.kafka_ledger.get(name, 0)} {name}" for name in OUTCOMES)
    console.print(f"{seen.sent} sent = {counts}", soft_wrap=True)
    billed = plain(sum(result.stripe.values()))
    held = sum(result.quarantine.values())
    quarantine = f" + {plain(held)} in quarantine" if held else ""
    console.print(
        f"ClickHouse {len(seen.clickhouse_totals)} totals = Kafka {len(seen.kafka_totals)} totals"
        f" = Stripe {len(result.stripe)} bills, {billed} units{quarantine}",
        soft_wrap=True,
    )
    for reason, count in seen.reasons.items():
        deltas = "1 delta is" if count == 1 else f"{count} deltas are"
        console.print(Text(f"! {deltas} in quarantine: {reason}", "yellow"), soft_wrap=True)
    for difference in result.differences[:_ROWS_MAX]:
        console.print(Text.assemble(("✗", "red"), f" {difference}"), soft_wrap=True)
    if result.reconciled:
        console.print(
            "[bold green]✓ reconciled:[/] sent = accepted + duplicate + conflict + rejected + late"
            " + unknown, and ClickHouse = Kafka totals = Stripe"
            + ("; but the bills are short by what is in quarantine" if held else ""),
            soft_wrap=True,
        )
    else:
        console.print(f"[bold red]✗ {len(result.differences)} differences[/]")


def _outcomes(seen: Seen) -> Table:
    table = Table("outcome", "events", "where it went", title="Where each event went")
    for name in OUTCOMES:
        table.add_row(name, str(seen.kafka_ledger.get(name, 0)), _MEANINGS[name])
    return table


def _alerts(seen: Seen) -> Table:
    table = Table(
        "customer", "meter", "threshold", "usage", "crossed at",
        title=f"Alerts: {len(seen.kafka_alerts)} on usage.alerts",
    )  # fmt: skip
    for alert in sorted(seen.kafka_alerts, key=lambda a: a.crossed_at)[-_ROWS_MAX:]:
        crossed_at = f"{alert.crossed_at:%Y-%m-%d %H:%M:%S}"
        customer = Text(shown(alert.customer))
        table.add_row(customer, alert.meter, alert.threshold, alert.value, crossed_at)
    return table


def _top_customers(seen: Seen, definitions: Definitions) -> Table:
    """Who used most of the first meter, in its newest period."""
    slug = definitions.meters[0].slug if definitions.meters else ""
    table = Table("customer", "period", f"usage of {slug}", title="Top customers, by ClickHouse")
    totals = [total for total in seen.clickhouse_totals if total.meter == slug]
    newest = max((total.period_start for total in totals), default=None)
    usage = {
        total.customer: total.usage
        for total in sorted(totals, key=lambda total: total.version)
        if total.period_start == newest
    }
    for customer in sorted(usage, key=lambda name: -from_plain(usage[name]))[:_ROWS_MAX]:
        table.add_row(Text(shown(customer)), f"{newest:%Y-%m-%d}", usage[customer])
    return table
