"""A replay tells every change of what is live, in a sentence that is safe to print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.difference import Differences
from pipeline.replay import Live, replay_shard
from pipeline.replay_alerts import LiveAlerts
from pipeline.replay_decisions import LiveDecisions
from pipeline.replay_totals import LiveTotals
from pipeline.shard import Shard
from tests.pipeline.replayed import (
    Seen,
    add,
    change,
    change_alert,
    example,
    late_for,
    of_status,
    verify,
    with_column,
    with_version,
    without_count,
)
from tests.pipeline.shard_log import DECEMBER_MS

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
