"""Looks at every link of a running deployment, in an order that makes what is seen comparable.

Confirmed positions come first, then what lies behind them; and what is downstream is read before
what is upstream of it, so that everything seen downstream has its cause in what is seen upstream.
A second look reads only what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from pipeline.commands.look_at_positions import Passed, PositionLook
from pipeline.difference import instant, shown
from pipeline.open_frame import open_frame
from pipeline.open_message import open_message
from pipeline.overrun import READERS, Overrun
from pipeline.reconcile_bill import Bills, Window
from pipeline.reconcile_chain import Confirmed, Seen, left_out, unreadable
from pipeline.reconcile_ledger import Outcomes, Positions, Tally
from pipeline.reconcile_report import InFlight
from pipeline.reconcile_totals import Key, Named, Recomputed, Selection, Totals
from pipeline.route import Router
from pipeline.settings import Settings
from schemas import topics
from schemas.billing import Delivery, Delta
from schemas.definitions import Definitions
from schemas.quantity import plain
from schemas.reconciliation import NotChecked
from schemas.topics import Topic
from sinks.clickhouse import recompute
from sinks.clickhouse.connect import Connection
from sinks.stripe.client import calls_per_second, stripe_client
from sinks.stripe.read import meter_ids, summaries
from streams.chain import Tail, named_by_definitions
from streams.cut import committed, extents, overruns


class Look(NamedTuple):
    """What one look saw of the periods in `selection`."""

    selection: Selection
    seen: Seen
    in_flight: InFlight
    not_checked: list[NotChecked]
    older_periods: int


class Chain:
    """Looks again and again at one deployment; close it in the end."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        selection: Selection,
        *,
        stripe_lag_ms: int,
    ) -> None:
        self._settings = settings
        self._kafka = settings.kafka()
        self._definitions = definitions
        self._selection = selection
        self._stripe_lag_ms = stripe_lag_ms
        self._clickhouse = Connection(settings.clickhouse_url, settings.clickhouse_password)
        # A rejection names no customer, so positions are counted for all of them or not at all.
        self._positions = None if selection.customer else PositionLook(self._kafka)
        self._totals = Totals(selection)
        self._bills = Bills(selection)
        self._tail = Tail(self._kafka)

    def close(self) -> None:
        """Let go of ClickHouse."""
        self._clickhouse.close()

    def look(self, selection: Selection, now_ms: int) -> Look:
        """Look at all links; `now_ms` is in milliseconds since 1970.

        The periods of `selection` are looked at from then on, if it begins later than before.

        Raises:
            KafkaException: the broker does not answer.
            Retry: ClickHouse or Stripe cannot now.
            Stop: one of them refuses, or a record is not what it should be.
        """
        # What was dropped is not read again, so a clock that was set back moves nothing.
        if selection.from_ms > self._selection.from_ms:
            self._selection = selection
            self._totals.select(selection)
            self._bills.select(selection)

        # 1. How far each stage is. From here on everything below these positions stays what it is.
        stored = self._committed("clickhouse", topics.METERED)
        confirmed = Confirmed(
            events=stored,
            totals=self._committed("clickhouse", topics.TOTALS),
            billed=self._committed("bill", topics.TOTALS),
            sent=self._committed("stripe", topics.OUTBOX),
        )
        passed = Passed(
            taken_in=self._committed("intake", topics.EVENTS),
            decided=self._committed("tally", topics.METERED),
            stored=stored,
            rejections_stored=self._committed("clickhouse", topics.REJECTED),
        )

        # 2. Stripe. What was frozen meanwhile is read afterwards, and may be in its sums or not.
        self._read_bills()
        not_checked: list[NotChecked] = []
        sums, without_meter = self._ask_stripe(not_checked)

        # 3. The cut, and ClickHouse up to it.
        positions, waits = None, InFlight()
        if self._positions is not None:
            positions, waits = self._positions.cut(passed)
        with self._clickhouse.client() as client:
            outcomes = {} if positions is None else _outcomes(client, positions)
            totals = recompute.stored_totals(client, self._selection)
            older = recompute.older_totals(client, self._selection)
            versions = named_by_definitions(self._kafka)
            again = self._recompute(client, versions, not_checked)

        # 4. What explains all that: downstream before upstream.
        self._read_bills()
        for record in self._tail.read(topics.TOTALS.name):
            self._totals.take(record.partition, record.offset, open_frame(record))
        if self._positions is not None:
            self._positions.read(passed)
        faults = self._bills.settle(confirmed.sent, now_ms - self._stripe_lag_ms)
        seen = Seen(
            definitions=self._definitions,
            router=Router(len(confirmed.events)),
            confirmed=confirmed,
            positions=positions,
            outcomes=outcomes,
            totals=self._totals,
            shortened=self._shortened(topics.TOTALS),
            stored=totals,
            recomputed=again,
            bills=self._bills,
            faults=faults,
            frozen=self._bills.frozen_by_key(),
            summaries=sums,
            without_meter=without_meter,
            versions=versions,
            overruns=[] if self._positions is None else self._overruns(),
        )
        not_checked += _left_out(seen)
        return Look(self._selection, seen, waits, not_checked, older)

    def forget(self, look: Look) -> None:
        """Drop what no later look needs of what was compared."""
        self._totals.prune([look.seen.confirmed.totals, look.seen.confirmed.billed])

    def _committed(self, stage: str, topic: Topic) -> dict[int, int]:
        found = committed(self._kafka, stage, topic.name)
        return {partition: offset or 0 for partition, offset in enumerate(found)}

    def _overruns(self) -> list[Overrun]:
        return [each for reader in READERS.items() for each in overruns(self._kafka, *reader)]

    def _recompute(
        self, client: Client, versions: Mapping[str, Named], not_checked: list[NotChecked]
    ) -> dict[str, dict[Key, Recomputed]]:
        found = {}
        for meter in self._definitions.meters:
            reason = recompute.why_not_recomputed(meter)
            if reason is None:
                without = [
                    name for name, named in versions.items() if meter.slug not in named.meters
                ]
                found[meter.slug] = recompute.recomputed(client, meter, without, self._selection)
                if hidden := unreadable(found[meter.slug]):
                    reason = (
                        f"{meter.slug}: {hidden} totals have a number of more digits than "
                        "ClickHouse reads exactly from JSON"
                    )
                    if meter.aggregation == "latest":
                        reason += ", or latest events of one time from several partitions"
            if reason is not None:
                not_checked.append(NotChecked(link="recomputed", reason=reason))
        return found

    def _shortened(self, topic: Topic) -> frozenset[int]:
        found = extents(self._kafka, [topic.name])[topic.name]
        return frozenset(partition for partition, extent in enumerate(found) if extent.begin)

    def _read_bills(self) -> None:
        for record in self._tail.read(topics.DELIVERIES.name):
            self._bills.take_delivery(open_message(record, Delivery))
        for record in self._tail.read(topics.OUTBOX.name):
            delta = open_message(record, Delta)
            self._bills.take_delta(record.partition, record.offset, delta)

    def _ask_stripe(
        self, not_checked: list[NotChecked]
    ) -> tuple[dict[Window, int] | None, frozenset[str]]:
        """Stripe's sums in nanos, None where it was not asked; event names that have no meter."""
        key = self._settings.stripe_api_key
        if not key.get_secret_value():
            reason = "METERLINE_STRIPE_API_KEY is not set"
            not_checked.append(NotChecked(link="stripe", reason=reason))
            return None, frozenset()
        windows = self._bills.windows()
        if not windows:
            return {}, frozenset()
        client = stripe_client(key, self._settings.stripe_api_base)
        meters = meter_ids(client)
        if meters is None:
            reason = "the Stripe key has no right to read billing meters"
            not_checked.append(NotChecked(link="stripe", reason=reason))
            return None, frozenset()
        names = {window.event_name for window in windows}
        for name in sorted(names & meters.keys()):
            if meters[name] is None:
                reason = f"Stripe's meter with the event name {name} is not active"
                not_checked.append(NotChecked(link="stripe", reason=reason))
        sums = summaries(client, windows, meters, calls_per_second=calls_per_second(key))
        return sums, frozenset(names - meters.keys())


def _left_out(seen: Seen) -> Iterator[NotChecked]:
    for slug, totals in left_out(seen):
        (first, _), *_ = totals
        yield NotChecked(
            link="frozen",
            reason=f"{slug}: {len(totals)} totals with {plain(sum(gap for _, gap in totals))} that "
            "are not frozen had their last usage before they were billed; the first is of "
            f"{shown(first.customer)}, from {instant(first.start_ms)[:10]}",
        )


def _outcomes(client: Client, positions: Positions) -> Outcomes:
    partitions = range(max(positions.cut, default=-1) + 1)
    first, cut = ([at.get(p, 0) for p in partitions] for at in (positions.first, positions.cut))
    rows = recompute.outcomes(client, first, cut)
    return {(row.partition, row.outcome): Tally(row.events, row.checksum) for row in rows}
