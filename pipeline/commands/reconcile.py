"""`meterline reconcile`: the whole chain, from input positions to Stripe's sums, on a live system.

Retention: positions are counted from where Kafka still has all about them, and totals are compared
with Kafka's while it keeps them, 40 days. So by default the periods of these 40 days are looked at.

Held and refused deltas are no difference: they are named, with the remedy. But they are shown in
red, since the bill is short by them.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from pipeline.commands.definitions import read_definitions
from pipeline.commands.look_at_chain import Chain, Look
from pipeline.commands.show_chain import show
from pipeline.errors import Retry, Stop
from pipeline.periods import PERIOD_DAYS_MAX
from pipeline.reconcile_bill import milliseconds
from pipeline.reconcile_chain import confirmed_in_both, differences
from pipeline.reconcile_report import report
from pipeline.reconcile_totals import Selection
from pipeline.reconcile_watch import changes
from pipeline.settings import read_settings
from schemas import topics
from schemas.discrepancy import Difference
from schemas.reconciliation import Reconciliation
from streams.cut import explained
from streams.discrepancies import open_discrepancies, publish

log = structlog.get_logger()

#: Kafka keeps a total this long after its last change.
_HORIZON = timedelta(milliseconds=topics.TOTALS.retention_ms)

#: Between two looks, when the first one saw a difference.
_AGAIN_SECONDS = 3.0

_PERIOD = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?", re.ASCII)


def reconcile(
    period: Annotated[
        str,
        typer.Option(
            help="Periods that begin in this month (2026-11) or on this day (2026-11-20), UTC; "
            "`all`; else those that ended no more than 40 days ago, as far back as Kafka keeps "
            "totals."
        ),
    ] = "",
    customer: Annotated[
        str | None,
        typer.Option(help="Only this customer; without the ledger, as rejections name nobody."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many differences are listed.")] = 20,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON document, as in schemas/published/reconciliation.schema.json; with "
            "--every one a line and check.",
        ),
    ] = False,
    every: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=7 * 86_400,
            help="Check every so many seconds until SIGTERM. A difference in two checks in a row "
            "is published on usage.discrepancies, once while it lasts, and again as resolved, also "
            "when it is too old to be looked at.",
        ),
    ] = None,
    stripe_lag: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seconds that Stripe may take to count what it took: younger deliveries may be in "
            "its sums or not.",
        ),
    ] = 600,
    config: Annotated[Path | None, typer.Option(help="The definitions, meterline.yaml.")] = None,
) -> None:
    """Compare every link from the input to the invoice, while everything runs.

    Positions of usage.events = outcomes = rows in ClickHouse; totals counted anew from ClickHouse's
    events = ClickHouse's totals = Kafka's totals = deltas frozen = delivered = Stripe's summaries.
    What is in flight is counted and is no difference, and what one look finds a second one must
    find again.

    Exit code: 0 reconciled, 1 a difference, 2 a person is needed, 70 a fault of Meterline's own, 75
    try again later. Held and refused deltas are named in red with their remedy and do not change
    the exit code; a link that could not be checked is named as well. Without any total of the named
    customer or period nothing is proved: 2.
    """
    settings = read_settings(config=config)
    definitions = read_definitions(settings.config)
    selected = partial(select, period, customer)
    selection = selected(datetime.now(UTC))
    chain = Chain(settings, definitions, selection, stripe_lag_ms=stripe_lag * 1000)
    with closing(chain), explained("reconcile"):
        if every is not None:
            _watch(chain, settings.kafka(), selected, every, limit, as_json)
            return
        look, found = _look(chain, selected)
        if found:
            time.sleep(_AGAIN_SECONDS)
            before = found
            look, found = _look(chain, selected)
            found = confirmed_in_both(before, found)
    document = _document(look, found, limit)
    if document.reconciled and not document.periods:
        _refuse_to_prove_nothing(period, customer)
    if as_json:
        typer.echo(_json(document, indent=1))
    else:
        show(Console(highlight=False), document)
    if not document.reconciled:
        raise typer.Exit(1)


def select(period: str, customer: str | None, now: datetime) -> Selection:
    """What the options ask to look at.

    Raises:
        Stop: the period is none, or the customer is empty, as an unset variable of a shell is.
    """
    if customer == "":
        raise Stop(
            "--customer names nobody.",
            remedy="Name a customer, or leave --customer out to look at all of them.",
        )
    if period == "all":
        return Selection(customer=customer)
    if not period:
        begin = now - _HORIZON - timedelta(days=PERIOD_DAYS_MAX)
        return Selection(from_ms=milliseconds(begin), customer=customer)
    parts = _PERIOD.fullmatch(period)
    try:
        if parts is None:
            raise ValueError
        year, month, day = (int(part or 1) for part in parts.groups())
        begin = datetime(year, month, day, tzinfo=UTC)
        following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        end = begin + timedelta(days=1) if parts[3] else following
    except ValueError:
        raise Stop(
            f"{period!r} is no period.",
            remedy="Give a month such as 2026-11, a day such as 2026-11-20, or all.",
        ) from None
    # ClickHouse's times have an end, and no event is older than 1970.
    return Selection(max(milliseconds(begin), 0), max(milliseconds(end), 0), customer)


def _refuse_to_prove_nothing(period: str, customer: str | None) -> None:
    """Nothing is not reconciled where something was asked for by name: it may be misspelt.

    Raises:
        Stop: a customer or a period was named.
    """
    of_whom = "" if customer is None else f" of customer {customer!r}"
    when = "" if period == "all" else f" in {period}" if period else " in the last 40 days"
    if customer is not None or period not in ("", "all"):
        raise Stop(
            f"There are no totals{of_whom}{when}, so nothing was compared.",
            remedy="Check the spelling of --customer and --period; --period all looks at every "
            "period.",
        )


def _look(chain: Chain, selected: Callable[[datetime], Selection]) -> tuple[Look, list[Difference]]:
    now = datetime.now(UTC)
    look = chain.look(selected(now), milliseconds(now))
    found = list(differences(look.seen))
    return look, found


def _document(look: Look, found: list[Difference], limit: int) -> Reconciliation:
    return report(
        look.seen,
        look.in_flight,
        found,
        look.not_checked,
        older_periods=look.older_periods,
        at=datetime.now(UTC),
        limit=limit,
    )


def _json(document: Reconciliation, indent: int | None = None) -> bytes:
    """In UTF-8, whatever the terminal knows."""
    return document.model_dump_json(indent=indent).encode()


def _watch(
    chain: Chain,
    kafka: dict[str, str],
    selected: Callable[[datetime], Selection],
    every_seconds: int,
    limit: int,
    as_json: bool,
) -> None:
    """Look again and again, and tell of what changes."""
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    first = selected(datetime.now(UTC))
    told = open_discrepancies(kafka)
    before: list[Difference] | None = None
    while not stop.is_set():
        started = time.monotonic()
        looked = _patiently(lambda: _look(chain, selected))
        if looked is not None:
            look, found = looked
            known = None if before is None else {difference.key for difference in before}
            at = datetime.now(UTC)
            news = changes(told, known, found, look.seen, first, look.selection, at)
            publish(kafka, news)
            for each in news:
                told[each.key] = each
                say = log.error if each.state == "open" else log.info
                say(f"difference {each.state}", link=each.link, what=each.sentence)
            told = {key: each for key, each in told.items() if each.state == "open"}
            confirmed = confirmed_in_both(before or [], found)
            document = _document(look, confirmed, limit)
            if as_json:
                typer.echo(_json(document))
            else:
                _log(document)
            before = found
            chain.forget(look)
        stop.wait(max(every_seconds - (time.monotonic() - started), 0))


def _patiently(
    look: Callable[[], tuple[Look, list[Difference]]],
) -> tuple[Look, list[Difference]] | None:
    """A look, or None where the outside cannot answer now: the next one will tell."""
    try:
        with explained("reconcile"):
            return look()
    except Retry as refusal:
        log.warning("not checked", why=str(refusal))
        return None


def _log(found: Reconciliation) -> None:
    ledger = found.ledger
    counts = {} if ledger is None else {"positions": ledger.input}
    if ledger is not None:
        counts["in_flight"] = ledger.not_taken_in + ledger.not_decided + ledger.not_stored
    ending = "reconciled" if found.periods else "no totals to compare"
    log.info(
        ending if found.reconciled else f"{found.difference_count} differences",
        **counts,
        totals=sum(row.customers for row in found.periods),
        held_or_refused=len(found.open_items),
        not_checked=len(found.not_checked),
    )
