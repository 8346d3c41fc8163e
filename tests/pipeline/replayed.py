"""A log that live tally has counted, what it wrote, changes of it, and the replay that compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from pipeline import replay as replay_module
from pipeline import shard as shard_module
from pipeline import tally as tally_module
from pipeline import total_columns
from pipeline.difference import Compared, Differences
from pipeline.replay import Live, replay_shard
from pipeline.replay_alerts import LiveAlerts
from pipeline.replay_decisions import LiveDecisions
from pipeline.replay_totals import LiveTotals
from pipeline.shard import Shard
from schemas import topics
from schemas.alert import Alert
from schemas.frame import Frame
from schemas.total import TOTAL_COLUMNS
from tests.pipeline.brute_force import Usage
from tests.pipeline.shard_log import DAY_MS, DECEMBER_MS, Play, arriving, intake
from tests.pipeline.test_tally_any_log import AFTER, BEFORE, cuts
from tests.pipeline.usage_log import pieces


@dataclass
class Seen:
    """What live tally wrote, to be tampered with."""

    totals: list[Frame]
    decisions: list[Frame]
    alerts: list[Alert]
    later_alerts: list[Alert] = field(default_factory=list)

    @classmethod
    def of(cls, played: Play) -> Seen:
        """Everything that a play has written."""
        return cls(
            played.frames(topics.TOTALS.name),
            played.frames(topics.DECISIONS.name),
            [
                Alert.model_validate_json(each.value or b"")
                for each in played.outgoing
                if each.topic == topics.ALERTS.name
            ],
        )


def verify(
    played: Play,
    seen: Seen,
    *,
    before: int | None = None,
    begin: Shard | None = None,
    are_whole: bool = True,
    kept_max: int = 100,
) -> tuple[list[str], Compared]:
    """The differences as sentences, and how much was compared."""
    begin = begin or Shard()
    before = played.counted if before is None else before
    differences = Differences(kept_max)
    live = Live(
        LiveTotals(0, seen.totals, before, differences, is_whole=are_whole),
        LiveDecisions(0, seen.decisions, before, differences, is_whole=are_whole),
        LiveAlerts(seen.alerts, seen.later_alerts),
    )
    log = played.log[begin.next_offset : before]
    compared = replay_shard(0, 1, begin, log, live, differences)
    assert differences.count >= len(differences.kept)
    return [str(each) for each in differences.kept], compared


def filled(events: Sequence[Usage], data: st.DataObject) -> Play:
    """A log of events under two definitions, with packs of any size."""
    played = Play()
    half = len(events) // 2
    for document, part, begin in ((BEFORE, events[:half], 0), (AFTER, events[half:], half)):
        cutter = intake(document)
        played.append(cutter.announce())
        records = arriving(part, begin)
        for piece in pieces(len(records), data.draw(cuts)):
            played.append(cutter.step(records[piece]))
    return played


def count(played: Play, data: st.DataObject, end: int) -> None:
    """Count up to `end` in steps of any size."""
    for piece in pieces(end - played.counted, data.draw(cuts)):
        played.step(piece.stop - piece.start)


def draw_steps(data: st.DataObject, small: pytest.MonkeyPatch) -> None:
    """Steps of a replay of any size, and snapshots every few events."""
    small.setattr(replay_module, "STEP_EVENTS", data.draw(st.sampled_from([1, 250, 1_000, 10**9])))
    small.setattr(tally_module, "_SNAPSHOT_IDS", data.draw(st.integers(1, 20)))
    small.setattr(tally_module, "_SEGMENT_IDS", data.draw(st.integers(0, 5)))
    small.setattr(shard_module, "_IDS_MAX", data.draw(st.sampled_from([1, 2, 100])))
    small.setattr(total_columns, "_ROWS_MAX", data.draw(st.sampled_from([1, 2, 100])))


def example() -> Play:
    """Ten packs of one customer, counted in steps of two: totals by day, alerts, a duplicate,
    and an event that is late for some meters."""
    usages = [
        Usage(
            id=str(number % 9),
            customer="c1",
            type="llm",
            time_us=(DECEMBER_MS - (9 if number == 7 else 10 - number) * DAY_MS) * 1_000,
            received_ms=DECEMBER_MS - (10 - number) * DAY_MS,
            data={"n": "4", "model": "m"},
        )
        for number in range(10)
    ]
    played = Play()
    cutter = intake(BEFORE)
    played.append(cutter.announce())
    for record in arriving(usages):
        played.append(cutter.step([record]))
    while played.counted < len(played.log):
        played.step(min(2, len(played.log) - played.counted))
    return played


def with_column(frame: Frame, name: str, value: object) -> Frame:
    """A totals frame whose row of the meter `count` says something else."""
    columns = frame.parts[0].to_pydict()
    columns[name][columns["meter"].index("count")] = value
    return replace(frame, parts=(pa.RecordBatch.from_pydict(columns, schema=TOTAL_COLUMNS),))


def with_version(frame: Frame, version: int) -> Frame:
    return replace(frame, header={"version": version})


def without_count(frame: Frame) -> Frame:
    (rows,) = frame.parts
    return replace(frame, parts=(rows.filter(pa.compute.not_equal(rows["meter"], "count")),))


def of_status(frame: Frame, status: int) -> Frame:
    part = pa.RecordBatch.from_arrays(
        [pa.array([status], pa.uint8())], schema=frame.parts[0].schema
    )
    return replace(frame, parts=(part, frame.parts[1]))


def late_for(frame: Frame, row: int, meter: str) -> Frame:
    part = pa.RecordBatch.from_arrays(
        [pa.array([row], pa.int32()), pa.array([meter])], schema=frame.parts[1].schema
    )
    return replace(frame, parts=(frame.parts[0], part))


def change(name: str, index: int, make: Callable[[Frame], Frame]) -> Callable[[Seen], None]:
    """Replaces one frame."""

    def tamper(seen: Seen) -> None:
        frames: list[Frame] = getattr(seen, name)
        frames[index] = make(frames[index])

    return tamper


def add(name: str, make: Callable[[Frame], Frame]) -> Callable[[Seen], None]:
    """Writes one more frame, made of the last one."""

    def tamper(seen: Seen) -> None:
        frames: list[Frame] = getattr(seen, name)
        frames.append(make(frames[-1]))

    return tamper


def change_alert(index: int, **fields: object) -> Callable[[Seen], None]:
    def tamper(seen: Seen) -> None:
        seen.alerts[index] = seen.alerts[index].model_copy(update=fields)

    return tamper
