"""Tally decides each event once, fires each threshold once, and remembers as long as it must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from pipeline import tally as tally_module
from pipeline.errors import Stop
from pipeline.record import Outgoing
from pipeline.shard import Restore
from schemas import topics
from schemas.frame import Kind, seal
from tests.pipeline.brute_force import Outcome
from tests.pipeline.shard_log import (
    DAY_MS,
    DECEMBER_MS,
    HOUR_MS,
    NOVEMBER_MS,
    Play,
    arriving,
    counting,
    intake,
    limited,
    meter,
    play,
    used,
)
from tests.pipeline.usage_log import frame_of


def fired(found: Outcome) -> list[tuple[str, str, str]]:
    return [(alert.threshold, alert.value, alert.event_id) for alert in found.alerts]


@pytest.mark.parametrize("steps", [(), (1,), (1, 1), (2,)])
def test_one_event_that_crosses_n_thresholds_gives_n_alerts_lowest_first(
    steps: tuple[int, ...],
) -> None:
    document = limited("100%", "50%", "120", "80%")
    events = [used("1", 49), used("2", "71.5"), used("3", 500)]
    assert fired(play(events, document, steps)[1]) == [
        ("50%", "120.5", "2"),
        ("80%", "120.5", "2"),
        ("100%", "120.5", "2"),
        ("120", "120.5", "2"),
    ]


def test_an_alert_says_what_the_plan_said_and_when_the_event_arrived() -> None:
    played, _ = play([used("1", 80)], limited("80%"))
    (alert,) = (each for each in played.outgoing if each.topic == topics.ALERTS.name)
    assert json.loads(alert.value or b"") == {
        "customer": "c1",
        "meter": "sum",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "plan": "p",
        "limit": "100",
        "threshold": "80%",
        "value": "80",
        "crossed_at": "2026-11-21T00:00:00Z",
        "event_source": "/brute",
        "event_id": "1",
    }


@pytest.mark.parametrize("restored", [False, True])
def test_a_threshold_fires_once_though_usage_falls_and_rises_and_memory_is_lost(
    restored: bool,
) -> None:
    cutter = intake(limited("50%"))
    played = Play()
    played.append(cutter.announce())
    for record in arriving([used("1", 60), used("2", -60), used("3", 60), used("4", 1)]):
        played.append(cutter.step([record]))
        played.step(len(played.log) - played.counted)
        if restored:
            played.drop_memory()
    assert fired(played.outcome()) == [("50%", "60", "1")]


def test_a_threshold_that_fired_is_silent_when_the_limit_is_raised_and_reached_again() -> None:
    played = Play()
    events = arriving([used("1", 60), used("2", 100), used("3", 5)])
    for record, limit in zip(events, ("100", "200", "300"), strict=True):
        cutter = intake(limited("50%", "80%", limit=limit))
        played.append(cutter.announce())
        played.append(cutter.step([record]))
        played.step(2)
    assert fired(played.outcome()) == [("50%", "60", "1"), ("80%", "160", "2")]


def test_the_next_period_fires_anew() -> None:
    december = used("2", 60, time_ms=DECEMBER_MS, received_ms=DECEMBER_MS)
    _, found = play([used("1", 60), december, used("3", 60)], limited("50%"))
    assert [(a.event_id, a.period_start_ms) for a in found.alerts] == [
        ("1", NOVEMBER_MS),
        ("2", DECEMBER_MS),
    ]


def test_a_meter_counts_from_the_first_pack_that_knows_it() -> None:
    played = Play()
    document = limited()
    added = meter("added", "count")
    before, after = intake(document), intake({**document, "meters": [*document["meters"], added]})
    events = arriving([used("1"), used("2"), used("3")])
    played.append([*before.announce(), *before.step(events[:1]), *after.announce()])
    # A pack that another instance of intake had cut before it was told.
    played.append([*before.step(events[1:2]), *after.step(events[2:])])
    played.step(5)
    counted = {key[1]: total.events for key, total in played.outcome().totals.items()}
    assert counted == {"sum": 3, "added": 1}


def test_limits_are_those_that_hold_now_whatever_a_pack_was_cut_with() -> None:
    played = Play()
    before, after = intake(limited("50%")), intake(limited("50%", limit="20"))
    played.append([*before.announce(), *after.announce()])
    played.append(before.step(arriving([used("1", 10)])))
    played.step(3)
    assert fired(played.outcome()) == [("50%", "10", "1")]


def test_late_for_every_meter_is_late_and_late_for_some_is_accepted() -> None:
    two = limited() | {"meters": [meter("sum", "sum"), meter("daily", "count", "day")]}
    end_of_day = DECEMBER_MS - 9 * DAY_MS
    on_time, too_late = end_of_day + 72 * HOUR_MS, end_of_day + 72 * HOUR_MS + 1
    much_too_late = DECEMBER_MS + 72 * HOUR_MS + 1
    events = [
        used("1", received_ms=on_time),
        used("2", received_ms=too_late),
        used("3", received_ms=much_too_late),
        used("4", received_ms=much_too_late, event_type="unmetered"),
        used("3", received_ms=much_too_late),
    ]
    _, found = play(events, two)
    assert found.statuses == ["accepted", "accepted", "late", "accepted", "duplicate"]
    assert found.late_for == {(1, "daily")}
    assert {key[1]: total.events for key, total in found.totals.items()} == {"sum": 2, "daily": 1}


def test_an_unknown_customer_is_parked_and_counts_from_when_it_is_known() -> None:
    played = Play()
    known = limited() | {"default_plan": "p"}
    events = [used("1", customer="new"), used("2", customer="new"), used("1", customer="new")]
    for document, record in zip((limited(), known, known), arriving(events), strict=True):
        cutter = intake(document)
        played.append([*cutter.announce(), *cutter.step([record])])
        played.step(2)
    found = played.outcome()
    assert found.statuses == ["unknown", "accepted", "duplicate"]
    assert [total.events for total in found.totals.values()] == [1]


def test_every_difference_under_a_known_identity_is_a_conflict() -> None:
    first = used("1", 5)
    copies = [
        first,
        first,
        first._replace(received_ms=first.received_ms + DAY_MS),
        first._replace(data={"n": "6"}),
        first._replace(data={"n": 5}),
        first._replace(type="other"),
        first._replace(customer="c2"),
        first._replace(time_us=first.time_us + 1),
    ]
    _, found = play(copies, limited())
    assert found.statuses == ["accepted", "duplicate", "duplicate", *["conflict"] * 5]
    (november,) = [total for key, total in found.totals.items() if key[1] == "sum"]
    assert november.value == "5"


# Outputs


def test_a_replay_writes_the_same_bytes() -> None:
    events = [used(f"{n}", n * Decimal("0.3"), f"c{n % 3}") for n in range(40)]
    document = limited("50%") | {"default_plan": "p"}
    once, again = (play(events, document, (3, 10))[0].outgoing for _ in range(2))
    assert once == again


def test_every_output_lies_in_the_shard_of_its_input_but_alerts_go_by_customer() -> None:
    tally = counting(Restore().shard(), 5)
    cutter = intake(limited("50%"))
    log = [*cutter.announce(), *cutter.step(arriving([used("1", 60)]))]
    outgoing = tally.step({5: [(offset, frame_of(each)) for offset, each in enumerate(log)]})
    assert {(each.topic, each.partition) for each in outgoing} == {
        (topics.DECISIONS.name, 5),
        (topics.TOTALS.name, 5),
        (topics.TALLY_STATE.name, 5),
        (topics.ALERTS.name, None),
    }


def test_nothing_counted_is_nothing_written_but_decisions_and_state() -> None:
    parked = [used("1", event_type="unmetered"), used("2", customer="stranger")]
    played, _ = play(parked, limited())
    assert not played.frames(topics.TOTALS.name)
    assert len(played.frames(topics.DECISIONS.name)) == 2


def test_a_log_that_ends_in_what_is_no_record_is_counted_up_to_there() -> None:
    played, _ = play([used("1"), used("2", event_type="unmetered")], limited())
    told = played.tally.move_on(0, 9)
    shard = Restore(map(frame_of, [*played.changelog, *told])).shard()
    assert (shard.next_offset, len(shard.ids), len(shard.totals)) == (9, 2, 1)


def one_by_one(count: int) -> Iterator[Play]:
    """A play, again and again: each time one more event has been counted, in a step of its own."""
    played = Play()
    cutter = intake(limited())
    played.append(cutter.announce())
    for record in arriving([used(f"{n}", event_type="unmetered") for n in range(count)]):
        played.append(cutter.step([record]))
        played.step(len(played.log) - played.counted)
        yield played


@pytest.mark.parametrize("restored", [False, True])
def test_snapshots_come_when_a_restore_would_read_three_times_what_is_held(
    restored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 10)
    # Reading what an event leaves takes as long as reading three identities.
    monkeypatch.setattr(tally_module, "_SEGMENT_IDS", 2)
    for played in one_by_one(100):
        if restored:
            played.drop_memory()
    anchors = [each for each in played.changelog if each.begins]
    assert [len(Restore([frame_of(each)]).shard().ids) for each in anchors] == [4, 12, 36]
    assert [frame_of(each).header["completes"] for each in anchors] == [True] * 3


def test_a_large_shard_is_written_piece_by_piece_while_it_goes_on_counting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 900)
    monkeypatch.setattr(tally_module, "_SEGMENT_IDS", 2)
    monkeypatch.setattr(tally_module, "_PIECE_IDS", 20)
    sizes = []
    before = 0
    for played in one_by_one(450):
        written = played.changelog[before:]
        before += len(written)
        sizes.append(sum(frame_of(each).parts[0].num_rows for each in written))
        if any(each.completes for each in written):
            break
    begins = [index for index, each in enumerate(played.changelog) if each.begins]
    assert len(begins) == 1
    assert len(played.changelog) - begins[0] > 20
    # An identity of the step, and a piece of the snapshot.
    assert max(sizes) < 1 + 40
    live = played.shard
    assert 0 < live.since_snapshot < 900
    played.drop_memory(from_anchor=True)
    assert len(played.shard.ids) == len(live.ids) > 300
    assert played.shard.since_snapshot == live.since_snapshot


def test_a_snapshot_that_a_crash_cut_off_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 150)
    monkeypatch.setattr(tally_module, "_SEGMENT_IDS", 2)
    monkeypatch.setattr(tally_module, "_PIECE_IDS", 10)
    for played in one_by_one(70):
        if played.shard.walk is not None and len(played.shard.ids) == 52:
            played.drop_memory()
    assert sum(each.begins for each in played.changelog) == 2
    assert sum(each.completes for each in played.changelog) == 1
    played.drop_memory(from_anchor=True)
    assert len(played.shard.ids) == 70


def test_snapshots_also_come_when_only_copies_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 1_000)
    played, found = play([used("1")] * 20, limited(), [1] * 19)
    assert found.statuses == ["accepted", *["duplicate"] * 19]
    assert sum(each.completes for each in played.changelog) == 4


def test_a_pack_cut_by_definitions_that_were_never_announced_stops_the_shard() -> None:
    (pack,) = intake(limited()).step(arriving([used("1")]))
    with pytest.raises(Stop, match="never announced"):
        counting(Restore().shard()).step({0: [(0, frame_of(pack))]})


def test_a_frame_that_does_not_belong_in_the_log_stops_the_shard() -> None:
    with pytest.raises(Stop, match="TOTALS"):
        counting(Restore().shard()).step({0: [(0, frame_of(Outgoing("", seal(Kind.TOTALS, {}))))]})
