"""The log of one shard: filled by intake, counted by tally, and what then can be seen outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pipeline.intake import Intake
from pipeline.pack import Pack
from pipeline.record import Outgoing, Record
from pipeline.shard import Restore, Shard
from pipeline.tally import Tally
from schemas import topics
from schemas.alert import Alert
from schemas.decisions import Status
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind
from tests.pipeline.brute_force import Crossing, Document, Outcome, Total, Usage
from tests.pipeline.usage_log import EPOCH, frame_of, utc

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOVEMBER_MS = int(utc(2026, 11, 1).timestamp()) * 1_000
DECEMBER_MS = int(utc(2026, 12, 1).timestamp()) * 1_000


def meter(slug: str, aggregation: str, period: str = "month", **fields: Any) -> Document:
    value = {} if aggregation == "count" else {"value": "$.n"}
    return {
        "slug": slug,
        "event_type": "llm",
        "aggregation": aggregation,
        "period": period,
        "grace_hours": 72,
        **value,
        **fields,
    }


def counting(shard: Shard, number: int = 0) -> Tally:
    """A tally of one shard, that takes whoever comes."""
    tally = Tally()
    tally.add(number, shard)
    return tally


@dataclass
class Play:
    """A log of one shard, counted step by step; the memory may be dropped at any time."""

    tally: Tally = field(default_factory=lambda: counting(Restore().shard()))
    log: list[tuple[int, Frame]] = field(default_factory=list)
    changelog: list[Outgoing] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    counted: int = 0

    @property
    def shard(self) -> Shard:
        """What tally remembers."""
        return self.tally.shards[0]

    def append(self, frames: Sequence[Outgoing]) -> None:
        """Write to the log."""
        for each in frames:
            assert each.topic == topics.METERED.name, each
            self.log.append((len(self.log), frame_of(each)))

    def step(self, count: int) -> None:
        """Count the next `count` records of the log."""
        outgoing = self.tally.step({0: self.log[self.counted : self.counted + count]})
        self.counted += count
        assert self.shard.next_offset == self.counted
        self.outgoing += outgoing
        self.changelog += [each for each in outgoing if each.topic == topics.TALLY_STATE.name]

    def drop_memory(self, from_anchor: bool = True) -> None:
        """Restore from the changelog, as after a crash."""
        anchor = begun = 0
        for index, each in enumerate(self.changelog):
            begun = index if each.begins else begun
            anchor = begun if each.completes else anchor
        begin = anchor if from_anchor else 0
        frames = [frame_of(each) for each in self.changelog[begin:]]
        self.tally = counting(Restore(frames).shard())
        assert self.shard.next_offset == self.counted

    def frames(self, topic: str) -> list[Frame]:
        return [frame_of(each) for each in self.outgoing if each.topic == topic]

    def outcome(self) -> Outcome:
        """What can be seen from outside; events by their position in usage.events."""
        found = Outcome()
        offsets = {offset: Pack(f) for offset, f in self.log if f.kind is Kind.PACK}
        statuses: dict[int, str] = {}
        decided = []
        for frame in self.frames(topics.DECISIONS.name):
            status, late = frame.parts
            decided.append(frame.header["pack_offset"])
            events = offsets[decided[-1]].numbers("source_offset").tolist()
            names = [Status(code).name.lower() for code in status.column("status").to_pylist()]
            statuses |= dict(zip(events, names, strict=True))
            found.late_for |= {(events[row["index"]], row["meter"]) for row in late.to_pylist()}
        assert decided == list(offsets)
        found.statuses = [statuses[offset] for offset in sorted(statuses)]
        version = -1
        for frame in self.frames(topics.TOTALS.name):
            assert frame.header["version"] >= version
            version = frame.header["version"]
            for row in frame.parts[0].to_pylist():
                start_ms = (row["period_start"] - EPOCH) // timedelta(milliseconds=1)
                key = row["customer"], row["meter"], start_ms, row["group"]
                as_of_ms = (row["as_of"] - EPOCH) // timedelta(milliseconds=1)
                found.totals[key] = Total(row["value"], row["events"], as_of_ms)
                # A group that has not changed keeps an older usage; the newest version holds.
                found.usage[key[:3]] = row["usage"]
        for each in self.outgoing:
            if each.topic == topics.ALERTS.name:
                alert = Alert.model_validate_json(each.value or b"")
                assert each.key == alert.customer.encode()
                assert alert.event_source == "/brute"
                found.alerts.append(
                    Crossing(
                        alert.customer,
                        alert.meter,
                        (alert.period_start - EPOCH) // timedelta(milliseconds=1),
                        alert.threshold,
                        alert.value,
                        alert.event_id,
                        (alert.crossed_at - EPOCH) // timedelta(milliseconds=1),
                    )
                )
        return found


def arriving(events: Sequence[Usage], begin: int = 0) -> list[Record]:
    return [
        Record(topics.EVENTS.name, 0, begin + index, event.received_ms, None, event.as_json())
        for index, event in enumerate(events)
    ]


def intake(document: Document) -> Intake:
    return Intake(Definitions.model_validate(document), shards=1)


def play(
    events: Sequence[Usage], document: Document, steps: Sequence[int] = ()
) -> tuple[Play, Outcome]:
    """Count events, each in a pack of its own, in steps of given lengths and then all at once."""
    played = Play()
    cutter = intake(document)
    played.append(cutter.announce())
    for record in arriving(events):
        played.append(cutter.step([record]))
    for count in (1, *steps, len(events) - sum(steps)):
        if count:
            played.step(count)
    return played, played.outcome()


def used(
    event_id: str,
    n: object = 1,
    customer: str = "c1",
    received_ms: int = DECEMBER_MS - 10 * DAY_MS,
    time_ms: int = DECEMBER_MS - 10 * DAY_MS,
    event_type: str = "llm",
) -> Usage:
    return Usage(event_id, customer, event_type, time_ms * 1_000, received_ms, {"n": str(n)})


def limited(*names: str, limit: str = "100", **fields: Any) -> Document:
    return {
        "meters": [meter("sum", "sum", **fields)],
        "plans": [
            {"slug": "p", "limits": [{"meter": "sum", "limit": limit, "thresholds": list(names)}]}
        ],
        "customers": [{"id": "c1", "plan": "p"}],
    }
