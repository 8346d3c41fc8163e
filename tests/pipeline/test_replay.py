"""A replay finds live results the same, however they came about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline import tally as tally_module
from pipeline.periods import DISORDER_DAYS
from pipeline.replay import restore_after
from pipeline.shard import Shard
from tests.pipeline.brute_force import Usage
from tests.pipeline.replayed import Seen, count, draw_steps, example, filled, verify
from tests.pipeline.shard_log import DAY_MS, DECEMBER_MS, Play, arriving, intake, limited, used
from tests.pipeline.test_shard import remembered
from tests.pipeline.test_tally_any_log import streams
from tests.pipeline.usage_log import core, frame_of


@core(80)
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


@core(80)
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


@core(80)
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


def month_by_month() -> Iterator[Play]:
    """A play, again and again: each time ten more events have been counted, of the next month."""
    played = Play()
    cutter = intake(limited("50%"))
    played.append(cutter.announce())
    for month in range(36):
        at_ms = DECEMBER_MS + 30 * DAY_MS * month
        events = [used(f"{month}-{n}", received_ms=at_ms, time_ms=at_ms) for n in range(10)]
        played.append(cutter.step(arriving(events)))
        played.step(len(played.log) - played.counted)
        yield played


def that_decides(shard: Shard) -> tuple[object, ...]:
    """Everything that decides what comes next, without the identities that have expired."""
    shard.ids.forget_before(shard.watermark_ms // DAY_MS - DISORDER_DAYS)
    shard.ids.sweep(2**62)
    return remembered(shard)


def test_a_replay_begins_with_what_tally_would_restore_and_decides_as_if_it_knew_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally_module, "_SNAPSHOT_IDS", 50)
    monkeypatch.setattr(tally_module, "_SEGMENT_IDS", 20)
    monkeypatch.setattr(tally_module, "_PIECE_IDS", 40)
    restored: dict[int, tuple[Shard, Shard]] = {}
    for played in month_by_month():
        if played.shard.walk and sum(each.begins for each in played.changelog) == 3:
            # The third snapshot is never completed: tally begins anew.
            played.drop_memory()
        again = replace(played)
        again.drop_memory(from_anchor=True)
        anchored = again.shard
        again.drop_memory(from_anchor=False)
        restored[played.counted] = anchored, again.shard
    changelog = [frame_of(each) for each in played.changelog]
    # The third and the fifth have no end.
    assert sum(frame.header["begins"] for frame in changelog) == 5
    assert sum(frame.header["completes"] for frame in changelog) == 3
    for first, (anchored, whole) in restored.items():
        begin = restore_after(changelog, first, is_whole=True)
        assert begin is not None
        assert remembered(begin) == remembered(anchored)
        assert that_decides(begin) == that_decides(whole)


def test_totals_and_decisions_that_retention_deleted_are_not_compared_and_are_counted() -> None:
    played = example()
    seen = Seen.of(played)
    del seen.totals[:2], seen.decisions[:2]
    found, compared = verify(played, seen, are_whole=False)
    assert found == []
    assert compared.uncompared_packs == 2
    assert compared.uncompared_totals > 0
    assert verify(played, seen)[0] != []
