"""Known mistakes, each of which somebody has made: the simulation must find every one of them.

Only the simulation can switch them on. Each replaces one piece of the product (or of the broker's
promises) by what it would be with the mistake.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from pipeline import bill, tally
from pipeline.count import Counting
from pipeline.dedupe import IdTable
from pipeline.errors import Retry
from pipeline.record import Outgoing, Record, Written
from pipeline.shard import Shard
from schemas import topics
from schemas.billing import Delta
from schemas.decisions import Status
from sinks.clickhouse.pair import Pairing
from sinks.stripe import settle
from sinks.stripe.deliver import StripeSink
from streams.bill import BillStage
from streams.clients import Committed, Place
from streams.deliver import Deliverer
from streams.session import Session
from streams.tally import TallyStage
from tests.simulation.broker import Log
from tests.simulation.groups import Group
from tests.simulation.outside import SimulatedClickHouse

Patch = AbstractContextManager[object]


@dataclass(frozen=True)
class Bug:
    """One mistake; `plant` makes it while its context lasts."""

    name: str
    plant: Callable[[], Patch]


def _replaced(owner: object, name: str, wrap: Callable[[Any], Any]) -> Callable[[], Patch]:
    """`owner.name` becomes what `wrap` makes of it."""
    return lambda: mock.patch.object(owner, name, wrap(getattr(owner, name)))


def _apart(session: Any, outgoing: Sequence[Outgoing]) -> None:
    """One transaction without positions."""
    if outgoing:
        session._writer.begin()
        session._writer.write(outgoing)
        session._writer.commit()


def _reached(session: Any) -> dict[Place, Committed]:
    return {
        (record.topic, record.partition): Committed(
            record.offset + 1, str(session._anchors.get(record.partition, ""))
        )
        for record in session.batch
    }


def _in_two(first: Callable[[Outgoing], bool]) -> Callable[[Any], Any]:
    """Some outputs in a transaction of their own, before the rest."""

    def wrap(transact: Any) -> Any:
        def planted(self: Any, outgoing: Sequence[Outgoing]) -> None:
            _apart(self, [record for record in outgoing if first(record)])
            transact(self, [record for record in outgoing if not first(record)])

        return planted

    return wrap


def _positions_first(transact: Any) -> Any:
    def planted(self: Any, outgoing: Sequence[Outgoing]) -> None:
        self._consumer.commit(_reached(self))
        transact(self, outgoing)

    return planted


def _positions_afterwards(_: Any) -> Any:
    def planted(self: Any, outgoing: Sequence[Outgoing]) -> None:
        _apart(self, outgoing)
        reached = _reached(self)
        self._consumer.commit(reached)
        self._counted |= {partition: at.offset for (_, partition), at in reached.items()}
        self.batch.clear()

    return planted


def _alerts_afterwards(transact: Any) -> Any:
    def planted(self: Any, outgoing: Sequence[Outgoing]) -> None:
        transact(self, [record for record in outgoing if record.topic != topics.ALERTS.name])
        _apart(self, [record for record in outgoing if record.topic == topics.ALERTS.name])

    return planted


def _once_more(transact: Any) -> Any:
    """A commit without an answer is taken for a failure, and done again."""

    def planted(self: Any, outgoing: Sequence[Outgoing]) -> None:
        batch = list(self.batch)
        try:
            transact(self, outgoing)
        except Exception:
            self._writer.abort()
            self._writer = self._clients.transactional_writer(self._stage.name, "again")
            self._writer.fence()
            self.batch[:] = batch
            transact(self, outgoing)

    return planted


def _keeps_batch(_: Any) -> Any:
    def planted(self: Any, _: Sequence[Place]) -> None:
        self._consumer.unassign()

    return planted


def _trusts_its_memory(assigned: Any) -> Any:
    def planted(self: Any, places: Sequence[Place]) -> None:
        forget = self._forget
        self._forget = lambda _: None
        for place, committed in self._consumer.committed(places).items():
            if place[1] in self._counted:
                self._counted[place[1]] = committed.offset
        assigned(self, places)
        self._forget = forget

    return planted


def _restored_without(spoil: Callable[[Shard], None]) -> Callable[[Any], Any]:
    def wrap(restore: Any) -> Any:
        def planted(self: Any, partition: int, changelog: Iterator[Record]) -> Any:
            position = restore(self, partition, changelog)
            spoil(self._shards[partition].state)
            return position

        return planted

    return wrap


def _forget_ids(shard: Shard) -> None:
    shard.ids = IdTable()


def _stops_early(restore: Any) -> Any:
    """The last record of a changelog is not applied, but its position is believed."""

    def planted(self: Any, partition: int, changelog: Iterator[Record]) -> Any:
        records = list(changelog)
        position = restore(self, partition, iter(records))
        restore(self, partition, iter(records[:-1]))
        return position

    return planted


def _restores_too_soon(_: Any) -> Any:
    """Does not wait until the state is as new as the positions."""

    def planted(self: Any, place: Place, committed: Committed) -> int | None:
        if self._stage.state_topic is None:
            return committed.offset
        anchor = int(committed.note) if committed.note else 0
        self._stage.restore(
            place[1], self._clients.read_to_end(self._stage.state_topic, place[1], anchor)
        )
        self._anchors[place[1]] = anchor
        return committed.offset

    return planted


def _shows_all(log: Log) -> int:
    return len(log.entries)


def _shows_aborted(log: Log, begin: int, end: int) -> Iterator[Record]:
    return (entry.record for entry in log.entries[begin:end] if entry.record is not None)


def _first_wins(claim: Any) -> Any:
    def planted(self: IdTable, columns: Any, today: Any) -> Any:
        status = claim(self, columns, today)
        status[status == Status.CONFLICT] = Status.DUPLICATE
        return status

    return planted


def _of_eight_bits(claim: Any) -> Any:
    def planted(self: IdTable, columns: Any, today: Any) -> Any:
        _, low, *rest = columns
        eight_bits = low % np.uint64(256)
        return claim(self, (eight_bits * np.uint64(0x9E3779B97F4A7C15), eight_bits, *rest), today)

    return planted


def _thirty_days(bounds: Any) -> Any:
    def planted(times_ns: Any, period: Any) -> Any:
        if period != "month":
            return bounds(times_ns, period)
        month_ms = 30 * 86_400_000
        start = times_ns // 1_000_000 // month_ms * month_ms
        return start, start + month_ms

    return planted


def _only_the_first_threshold(alerts: Any) -> Any:
    def planted(self: Counting) -> Any:
        seen = set()
        for alert in alerts(self):
            if alert.key not in seen:
                seen.add(alert.key)
                yield alert

    return planted


def _identifier_without_sequence(identifier: Any) -> Any:
    def planted(meter: str, customer: str, period_start_ms: int, sequence: int) -> Any:
        return identifier(meter, customer, period_start_ms, sequence % 2)

    return planted


def _nothing_frozen(step: Any) -> Any:
    """What was frozen is kept in memory alone."""

    def planted(self: BillStage, records: Sequence[Record]) -> Any:
        return [record for record in step(self, records) if b"sequence" not in _state(record)]

    return planted


def _state(record: Outgoing) -> bytes:
    return (record.value or b"") if record.topic == topics.BILL_STATE.name else b""


def _confirms_first(deliver: Any) -> Any:
    def planted(self: Any, consumer: Any, writer: Any) -> None:
        reached: dict[Place, Committed] = {}
        for record in self._batch:
            reached[record.topic, record.partition] = Committed(record.offset + 1)
        consumer.commit(reached)
        deliver(self, consumer, writer)

    return planted


def _confirms_what_waits(_: Any) -> Any:
    def planted(self: Pairing) -> Mapping[Place, int]:
        return {
            (topic, self.partition): offset
            for topic, offset in (
                (topics.METERED.name, self.next_metered),
                (topics.DECISIONS.name, self.next_decisions),
            )
            if offset is not None
        }

    return planted


def _newest_decision_first(decide: Any) -> Any:
    """Decisions are paired with packs from the other end of what waits."""

    def planted(self: Pairing) -> Any:
        offsets = [decisions.pack_offset for decisions in self.decisions]
        turned = tuple(
            decisions._replace(pack_offset=offset)
            for decisions, offset in zip(reversed(self.decisions), offsets, strict=True)
        )
        same_size = len({d.frame.parts[0].num_rows for d in self.decisions}) <= 1
        return decide(replace(self, decisions=turned) if same_size else self)

    return planted


def _time_out_is_success(insert: Any) -> Any:
    def planted(self: SimulatedClickHouse, table: str, rows: Any) -> None:
        try:
            insert(self, table, rows)
        except Retry:
            return

    return planted


def _random_identifier(send: Any) -> Any:
    numbers = itertools.count()

    def planted(self: Any, delta: Delta, keys_spent: int) -> None:
        name = f"{delta.identifier}-{next(numbers)}"
        send(self, delta.model_copy(update={"identifier": name}), keys_spent)

    return planted


def _at_the_time_of_sending(send: Any) -> Any:
    def planted(self: Any, delta: Delta, keys_spent: int) -> None:
        end = int(delta.period_end.timestamp()) + 60
        send(self, delta.model_copy(update={"timestamp": end}), keys_spent)

    return planted


def _added_up_at_sending(write: Any) -> Any:
    """Deltas that meet in a batch go out as one, under the first one's identifier."""

    def planted(self: StripeSink, records: Sequence[Record], now_ms: int) -> Written:
        merged: dict[tuple[str, str, str], tuple[Record, Delta, int]] = {}
        for record in records:
            delta = Delta.model_validate_json(record.value or b"")
            key = (delta.stripe_customer_id, delta.event_name, str(delta.period_start))
            first, so_far, value = merged.get(key, (record, delta, 0))
            merged[key] = (first, so_far, value + int(delta.value))
        sums = []
        for first, delta, value in merged.values():
            content = delta.model_copy(update={"value": str(value)}).model_dump_json().encode()
            sums.append(Record(first.topic, first.partition, first.offset, 0, first.key, content))
        written = write(self, sums, now_ms)
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        return Written(ends, written.outgoing)

    return planted


def _without_notes(note: Any) -> Any:
    del note

    def planted(self: Any, _: Any) -> Any:
        return self._batch, []

    return planted


BUGS = (
    Bug(
        "claim before write: identities in a transaction before the totals",
        _replaced(Session, "transact", _in_two(lambda r: r.topic == topics.TALLY_STATE.name)),
    ),
    Bug(
        "totals before the identities that they count",
        _replaced(Session, "transact", _in_two(lambda r: r.topic != topics.TALLY_STATE.name)),
    ),
    Bug(
        "rejections outside the transaction",
        _replaced(Session, "transact", _in_two(lambda r: r.topic == topics.REJECTED.name)),
    ),
    Bug(
        "alerts outside the transaction, before it",
        _replaced(Session, "transact", _in_two(lambda r: r.topic == topics.ALERTS.name)),
    ),
    Bug(
        "alerts outside the transaction, after it",
        _replaced(Session, "transact", _alerts_afterwards),
    ),
    Bug(
        "input offsets committed before the effects",
        _replaced(Session, "transact", _positions_first),
    ),
    Bug(
        "input offsets committed outside the transaction, after it",
        _replaced(Session, "transact", _positions_afterwards),
    ),
    Bug("a commit without an answer is repeated", _replaced(Session, "transact", _once_more)),
    Bug(
        "a missing fence: offsets without the group's generation",
        lambda: mock.patch.object(Group, "require", return_value=None),
    ),
    Bug(
        "an owner does not wait for transactions that are being decided",
        lambda: mock.patch.object(Group, "is_undecided", return_value=False),
    ),
    Bug(
        "work in hand survives the loss of its partition",
        _replaced(Session, "_revoked", _keeps_batch),
    ),
    Bug(
        "state in memory is trusted after another owner counted",
        _replaced(Session, "_assigned", _trusts_its_memory),
    ),
    Bug("a restore that stops early", _replaced(TallyStage, "restore", _stops_early)),
    Bug("a restore that begins too soon", _replaced(Session, "_restore", _restores_too_soon)),
    Bug(
        "a restore forgets identities",
        _replaced(TallyStage, "restore", _restored_without(_forget_ids)),
    ),
    Bug(
        "a restore forgets which thresholds have fired",
        _replaced(TallyStage, "restore", _restored_without(lambda shard: shard.fired.clear())),
    ),
    Bug(
        "readers see what is not decided",
        lambda: mock.patch.object(Log, "stable_end", property(_shows_all)),
    ),
    Bug(
        "readers see what was aborted", lambda: mock.patch.object(Log, "committed", _shows_aborted)
    ),
    Bug(
        "of two payloads of one id the first wins silently",
        _replaced(IdTable, "claim", _first_wins),
    ),
    Bug("identities collide", _replaced(IdTable, "claim", _of_eight_bits)),
    Bug("month-end drift: months of 30 days", _replaced(tally, "period_bounds", _thirty_days)),
    Bug(
        "a batch that crosses several thresholds alerts once",
        _replaced(Counting, "alerts", _only_the_first_threshold),
    ),
    Bug(
        "a re-aggregated value under a used identifier",
        _replaced(bill, "identifier", _identifier_without_sequence),
    ),
    Bug(
        "what was frozen is not part of the transaction",
        _replaced(BillStage, "step", _nothing_frozen),
    ),
    Bug(
        "an unstable batch: deltas added up when they are sent",
        _replaced(StripeSink, "write", _added_up_at_sending),
    ),
    Bug(
        "no identifier: a new one with every try",
        _replaced(settle.Settler, "_send", _random_identifier),
    ),
    Bug(
        "a retry across the period boundary is billed in the next one",
        _replaced(settle.Settler, "_send", _at_the_time_of_sending),
    ),
    Bug(
        "Stripe's 'already exists' is taken for a refusal",
        lambda: mock.patch.object(settle, "is_duplicate", return_value=False),
    ),
    Bug(
        "sent again after Stripe has forgotten it",
        lambda: mock.patch.object(settle, "HOLD_AFTER_MS", 10**15),
    ),
    Bug(
        "attempts are not noted before they begin",
        _replaced(Deliverer, "_note_attempts", _without_notes),
    ),
    Bug(
        "a sink's offsets are committed before it wrote",
        _replaced(Deliverer, "_deliver", _confirms_first),
    ),
    Bug(
        "a pack's offset is committed while its decisions are missing",
        _replaced(Pairing, "positions", _confirms_what_waits),
    ),
    Bug("decisions read for the wrong pack", _replaced(Pairing, "_decide", _newest_decision_first)),
    Bug(
        "a time-out of ClickHouse is taken for success",
        _replaced(SimulatedClickHouse, "insert_arrow", _time_out_is_success),
    ),
)
