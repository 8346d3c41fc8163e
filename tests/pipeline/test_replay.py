"""A replay finds live results the same, however they came about, and every change of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline import replay as replay_module
from pipeline import shard as shard_module
from pipeline import tally as tally_module
from pipeline import total_columns
from pipeline.difference import Compared, Differences
from pipeline.errors import Stop
from pipeline.pack import Pack
from pipeline.replay import Live, replay_shard, restore_after
from pipeline.replay_alerts import LiveAlerts
from pipeline.replay_decisions import LiveDecisions
from pipeline.replay_totals import LiveTotals
from pipeline.shard import Shard
from schemas import topics
from schemas.alert import Alert
from schemas.frame import Frame, Kind
from schemas.total import TOTAL_COLUMNS
from tests.pipeline.brute_force import Usage
from tests.pipeline.shard_log import DECEMBER_MS, Play, arriving, intake
from tests.pipeline.test_tally_any_log import AFTER, BEFORE, cuts, streams
from tests.pipeline.usage_log import core, frame_of, pieces

DAY_MS = 86_400_000


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
    small.setattr(tally_module, "_SEGMENT_IDS", data.draw(st.integers(0, 1)))
    small.setattr(shard_module, "_IDS_MAX", data.draw(st.sampled_from([1, 2, 100])))
    small.setattr(total_columns, "_ROWS_MAX", data.draw(st.sampled_from([1, 2, 100])))


@core(150)
@given(streams(), st.data())
def test_whatever_the_steps_of_live_tally_were_a_replay_finds_no_difference(
    events: list[Usage], data: st.DataObject
) -> None:
    played = filled(events, data)
    with pytest.MonkeyPatch.context() as small:
        draw_steps(data, small)
        count(played, data, len(played.log))
        found, compared = verify(played, Seen.of(played))
    assert found == []
    assert compared.events == len(events)
    assert compared.totals == len(played.outcome().totals)
    assert compared.alerts == len(played.outcome().alerts)


@core(150)
@given(streams(), st.data())
def test_what_live_tally_goes_on_to_write_is_no_difference(
    events: list[Usage], data: st.DataObject
) -> None:
    """The cut lies between two steps; alerts of later ones may be readable, or not yet."""
    played = filled(events, data)
    count(played, data, data.draw(st.integers(0, len(played.log))))
    before, alerts_before = played.counted, len(Seen.of(played).alerts)
    count(played, data, len(played.log))
    seen = Seen.of(played)
    asked_first = data.draw(st.integers(0, alerts_before))
    seen.alerts, seen.later_alerts = seen.alerts[:asked_first], seen.alerts[asked_first:]
    assert verify(played, seen, before=before)[0] == []


@core(150)
@given(streams(), st.data())
def test_a_log_that_lost_its_beginning_is_verified_from_a_state_on(
    events: list[Usage], data: st.DataObject
) -> None:
    played = filled(events, data)
    with pytest.MonkeyPatch.context() as small:
        draw_steps(data, small)
        count(played, data, len(played.log))
        first = data.draw(st.integers(0, len(played.log)))
        changelog = [frame_of(each) for each in played.changelog]
        lost = data.draw(st.integers(0, len(changelog)))
        begin = restore_after(changelog[lost:], first, is_whole=not lost)
        # With all of the changelog there is a state for every end of a step.
        assert lost or (begin is not None) == bool(changelog)
        assume(begin is not None)
        assert begin is not None
        assert begin.next_offset >= first
        seen = Seen.of(played)
        # Of the older results, too, any part may be gone; alerts are kept for ever.
        seen.totals = [t for t in seen.totals if t.header["version"] >= first]
        seen.decisions = [d for d in seen.decisions if d.header["pack_offset"] >= first]
        assert verify(played, seen, begin=begin, are_whole=False)[0] == []


def test_totals_and_decisions_that_retention_deleted_are_not_compared_and_are_counted() -> None:
    played = example()
    seen = Seen.of(played)
    del seen.totals[:2], seen.decisions[:2]
    found, compared = verify(played, seen, are_whole=False)
    assert found == []
    assert compared.uncompared_packs == 2
    assert compared.uncompared_totals > 0
    assert verify(played, seen)[0] != []


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


TAMPERINGS: dict[str, tuple[Callable[[Seen], None], str]] = {
    "a value": (
        change("totals", -1, lambda frame: with_column(frame, "value", "999")),
        "total of customer c1, meter count, period from 2026-11-29T00:00:00Z, group "
        '{"a":"m","b":""} (shard 0): value is 999, should be 1.',
    ),
    "a number of events": (
        change("totals", -1, lambda frame: with_column(frame, "events", 7)),
        "events is 7, should be",
    ),
    "a usage": (
        change("totals", -1, lambda frame: with_column(frame, "usage", "0")),
        "usage is 0, should be",
    ),
    "an end of a period": (
        change("totals", -1, lambda frame: with_column(frame, "period_end", DECEMBER_MS)),
        "period end is 2026-12-01T00:00:00Z, should be",
    ),
    "an arrival": (
        change("totals", -1, lambda frame: with_column(frame, "as_of", DECEMBER_MS)),
        "as of is 2026-12-01T00:00:00Z, should be 2026-11-29T00:00:00Z",
    ),
    "a group": (
        change("totals", -1, lambda frame: with_column(frame, "group", '{"model":"z"}')),
        'group {"model":"z"} (shard 0): is 1 in version',
    ),
    "a version": (
        change("totals", -1, lambda frame: with_version(frame, 8)),
        "version is 8, should be",
    ),
    "a missing row": (
        change("totals", -1, without_count),
        "is missing on usage.totals, should be 1.",
    ),
    "a doubled frame": (
        add("totals", lambda frame: frame),
        "was written after version",
    ),
    "a wrong frame behind": (
        add("totals", lambda frame: with_column(frame, "value", "1000000")),
        "was written after version",
    ),
    "missing totals": (
        lambda seen: seen.totals.clear(),
        "is missing on usage.totals",
    ),
    "a missing alert": (
        lambda seen: seen.alerts.__delitem__(0),
        "was crossed, but the alert is missing on usage.alerts.",
    ),
    "a doubled alert": (
        lambda seen: seen.alerts.append(seen.alerts[0]),
        "was announced 2 times.",
    ),
    "an alert's value": (
        change_alert(0, value="123456"),
        "value is 123456, should be",
    ),
    "an alert's event": (
        change_alert(0, event_id="8"),
        "event id is 8, should be",
    ),
    "an alert for another": (
        change_alert(0, customer="c2"),
        "was announced, but no event in the log crosses it.",
    ),
    "a missing decision": (
        lambda seen: seen.decisions.__delitem__(3),
        "decision (shard 0, pack at offset 4): is missing on usage.decisions.",
    ),
    "a doubled decision": (
        add("decisions", lambda frame: frame),
        "decision (shard 0, pack at offset 10): is there again, or where no pack is.",
    ),
    "a status": (
        change("decisions", 0, lambda frame: of_status(frame, 4)),
        "decision of customer c1 (shard 0, pack at offset 1): event 0, usage.events-0 at offset 0, "
        "is unknown, should be accepted.",
    ),
    "a status that does not exist": (
        change("decisions", 0, lambda frame: of_status(frame, 99)),
        "is of status 99, should be accepted.",
    ),
    "statuses for other events": (
        change("decisions", 0, lambda frame: replace(
            frame, parts=(frame.parts[0].slice(1), frame.parts[1])
        )),
        "has 0 statuses for 1 events.",
    ),
    "a meter too late": (
        change("decisions", -2, lambda frame: late_for(frame, 0, "max")),
        "meter max (shard 0, pack at offset 9): event 0, usage.events-0 at offset 8, is too late, "
        "should not be.",
    ),
    "a late event that is not there": (
        change("decisions", -2, lambda frame: late_for(frame, 5, "max")),
        "calls event 5 of 1 late.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_every_change_of_what_is_live_is_told_in_a_sentence(tampering: str) -> None:
    tamper, sentence = TAMPERINGS[tampering]
    played = example()
    seen = Seen.of(played)
    assert verify(played, seen)[0] == []
    tamper(seen)
    found, _ = verify(played, seen)
    assert any(sentence in each for each in found), found


def test_a_changed_event_in_the_log_changes_totals() -> None:
    played = example()
    seen = Seen.of(played)
    offset, frame = played.log[5]
    column = frame.parts[0].schema.get_field_index("value:$.n")
    field = frame.parts[0].schema.field(column)
    changed = frame.parts[0].set_column(column, field, pa.array([5], pa.int64()))
    played.log[5] = (offset, replace(frame, parts=(changed,)))
    found, _ = verify(played, seen)
    assert any("meter sum," in each and "should be" in each for each in found), found


def test_differences_are_counted_beyond_those_that_are_kept() -> None:
    played = example()
    seen = Seen.of(played)
    seen.decisions.clear()
    assert len(verify(played, seen, kept_max=3)[0]) == 3
    assert len(verify(played, seen)[0]) == 10


def test_the_text_of_a_user_cannot_steer_the_terminal() -> None:
    played = example()
    seen = Seen.of(played)
    change_alert(0, customer="c\x1b[2J\n" + "x" * 500)(seen)
    sentences = verify(played, seen)[0]
    assert any(r"c\x1b[2J\n" in each for each in sentences)
    assert all(each.isprintable() and len(each) < 400 for each in sentences)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("totals", Frame(Kind.TOTALS, {"version": 1}, ())),
        ("totals", Frame(Kind.TOTALS, {}, ())),
        ("decisions", Frame(Kind.DECISIONS, {"pack_offset": 1}, ())),
        ("decisions", Frame(Kind.DECISIONS, {"pack_offset": None}, ())),
    ],
)
def test_a_frame_that_says_something_else_stops_the_replay(name: str, frame: Frame) -> None:
    played = example()
    seen = Seen.of(played)
    getattr(seen, name).insert(0, frame)
    with pytest.raises(Stop, match=r"A frame on usage\.\w+ has .* Find the program that wrote it"):
        verify(played, seen)


def test_events_in_a_shard_that_is_not_theirs_are_told() -> None:
    played = example()
    differences = Differences(100)
    live = Live(
        LiveTotals(1, Seen.of(played).totals, played.counted, differences),
        LiveDecisions(1, Seen.of(played).decisions, played.counted, differences),
        LiveAlerts(Seen.of(played).alerts),
    )
    replay_shard(1, 4, Shard(), played.log, live, differences)
    assert differences.counts == {"event": 10}
    assert "event of customer c1 (shard 1, pack at offset 1): belongs to shard" in str(
        differences.kept[0]
    )


def test_a_state_of_another_number_of_shards_stops_the_replay() -> None:
    played = example()
    seen = Seen.of(played)
    begin = restore_after([frame_of(each) for each in played.changelog], 5, is_whole=True)
    assert begin is not None
    begin.number, begin.shards = 2, 4
    with pytest.raises(Stop, match="has the state of shard 2 of 4, but this is shard 0 of 1"):
        verify(played, seen, begin=begin)


def test_what_is_named_from_the_cut_on_must_be_a_pack() -> None:
    played = example()
    seen = Seen.of(played)
    cut = 8
    differences = Differences(100)
    live = Live(
        LiveTotals(0, seen.totals, cut, differences),
        LiveDecisions(0, seen.decisions, cut, differences),
        LiveAlerts([], seen.alerts),
    )
    replay_shard(0, 1, Shard(), played.log[:cut], live, differences)
    assert live.later == {8, 9, 10}
    live.compare_later({8, 9, 10, 11})
    assert differences.count == 0
    live.compare_later({8, 10})
    assert {(each.what, each.offset) for each in differences.kept} == {
        ("decision", 9),
        ("total", None),
    }
    assert "is there in version 9, which no pack has as its offset" in str(differences.kept[0])


def test_without_a_state_of_its_time_a_log_without_beginning_is_not_replayed() -> None:
    played = example()
    changelog = [frame_of(each) for each in played.changelog]
    assert restore_after(changelog, played.counted + 1, is_whole=True) is None
    assert restore_after(changelog[1:], 1, is_whole=False) is None
    assert restore_after([], 1, is_whole=True) is None


def test_a_pack_by_definitions_that_were_never_announced_stops_the_replay() -> None:
    played = example()
    seen = Seen.of(played)
    assert Pack(played.log[1][1]).definitions_version
    played.log = [(offset - 1, frame) for offset, frame in played.log[1:]]
    with pytest.raises(Stop, match="which its log never announced"):
        verify(played, seen, before=3)
