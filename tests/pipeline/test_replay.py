"""A replay finds live results the same, however they came about."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.replay import restore_after
from tests.pipeline.brute_force import Usage
from tests.pipeline.replayed import Seen, count, draw_steps, example, filled, verify
from tests.pipeline.test_tally_any_log import streams
from tests.pipeline.usage_log import core, frame_of


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
