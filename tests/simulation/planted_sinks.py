"""Mistakes of the sinks and of the loop that feeds them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from pipeline.errors import Retry
from pipeline.record import Record, Written
from schemas import topics
from schemas.billing import Delta
from sinks.clickhouse.pair import Pairing
from sinks.stripe import settle
from sinks.stripe.deliver import StripeSink
from streams.clients import Committed, Place
from streams.deliver import Deliverer
from streams.forgotten import Answers
from tests.simulation.outside import SimulatedClickHouse
from tests.simulation.plant import Bug, replaced


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

    def planted(self: Any, delta: Delta, key_suffix: str) -> None:
        name = f"{delta.identifier}-{next(numbers)}"
        send(self, delta.model_copy(update={"identifier": name}), key_suffix)

    return planted


def _at_the_time_of_sending(send: Any) -> Any:
    def planted(self: Any, delta: Delta, key_suffix: str) -> None:
        end = int(delta.period_end.timestamp()) + 60
        send(self, delta.model_copy(update={"timestamp": end}), key_suffix)

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


def _passes_what_waits(written: Any) -> Any:
    def planted(self: StripeSink, batch: Any, refusal: Any) -> Written:
        done: Written = written(self, batch, refusal)
        ends = {(record.topic, record.partition): record.offset + 1 for record, *_ in batch}
        # Only beside what was settled: else nothing would ever be sent.
        return replace(done, positions=ends, waiting=()) if done.outgoing else done

    return planted


def _not_extended(note: Any) -> Any:
    """What is sent beside what waits is not noted."""

    def planted(self: Any, consumer: Any) -> Any:
        given, self._given = self._given, {}
        due, later = note(self, consumer)
        self._given = given
        return [*due, *later], []

    return planted


SINKS = (
    Bug(
        "an unstable batch: deltas added up when they are sent",
        replaced(StripeSink, "write", _added_up_at_sending),
    ),
    Bug(
        "no identifier: a new one with every try",
        replaced(settle.Settler, "_send", _random_identifier),
    ),
    Bug(
        "a retry across the period boundary is billed in the next one",
        replaced(settle.Settler, "_send", _at_the_time_of_sending),
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
        replaced(Deliverer, "_note_attempts", _without_notes),
    ),
    Bug(
        "what is sent beside what waits for Stripe is not noted",
        replaced(Deliverer, "_note_attempts", _not_extended),
    ),
    Bug(
        "a position passes what waits for Stripe",
        replaced(StripeSink, "_written", _passes_what_waits),
    ),
    Bug(
        "what was said of a delta before a restart is not looked up",
        lambda: mock.patch.object(Answers, "given", return_value=set()),
    ),
    Bug(
        "a sink's offsets are committed before it wrote",
        replaced(Deliverer, "_deliver", _confirms_first),
    ),
    Bug(
        "a pack's offset is committed while its decisions are missing",
        replaced(Pairing, "positions", _confirms_what_waits),
    ),
    Bug("decisions read for the wrong pack", replaced(Pairing, "_decide", _newest_decision_first)),
    Bug(
        "a time-out of ClickHouse is taken for success",
        replaced(SimulatedClickHouse, "insert_arrow", _time_out_is_success),
    ),
)
