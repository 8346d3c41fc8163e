"""Mistakes of the pure core: identities, periods, thresholds, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline import batch, bill, intake, unpack
from pipeline.batch import Batch
from pipeline.cross import Crosser
from pipeline.dedupe import IdTable
from pipeline.record import Outgoing, Record, Records
from schemas import topics
from schemas.decisions import Status
from streams.bill import BillStage
from tests.simulation.plant import Bug, replaced


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
    def planted(self: Crosser, events: Batch) -> Any:
        seen = set()
        for alert in alerts(self, events):
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


def _last_one_lost(elements: Any) -> Any:
    def planted(headers: Any, value: Any) -> Any:
        found = elements(headers, value)
        return found[:-1] if len(found) > 2 else found

    return planted


def _without_index(unpacked: Any) -> Any:
    def planted(records: Records, events_max: int) -> Any:
        for events in unpacked(records, events_max):
            events.__dict__["indices"] = np.zeros(len(events), np.int32)
            yield events

    return planted


def _state(record: Outgoing) -> bytes:
    return (record.value or b"") if record.topic == topics.BILL_STATE.name else b""


CORE = (
    Bug(
        "the last event of a packed record is lost",
        replaced(unpack, "elements", _last_one_lost),
    ),
    Bug(
        "the places of events in a packed record are ignored",
        replaced(intake, "unpacked", _without_index),
    ),
    Bug(
        "of two payloads of one id the first wins silently",
        replaced(IdTable, "claim", _first_wins),
    ),
    Bug("identities collide", replaced(IdTable, "claim", _of_eight_bits)),
    Bug("month-end drift: months of 30 days", replaced(batch, "period_bounds", _thirty_days)),
    Bug(
        "a batch that crosses several thresholds alerts once",
        replaced(Crosser, "alerts", _only_the_first_threshold),
    ),
    Bug(
        "a re-aggregated value under a used identifier",
        replaced(bill, "identifier", _identifier_without_sequence),
    ),
    Bug(
        "what was frozen is not part of the transaction",
        replaced(BillStage, "step", _nothing_frozen),
    ),
)
