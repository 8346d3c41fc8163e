"""What is remembered, and for how long, follows from when events arrived."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.expire import DEDUPE_DAYS
from tests.pipeline.brute_force import Document
from tests.pipeline.shard_log import (
    DAY_MS,
    DECEMBER_MS,
    Play,
    arriving,
    intake,
    limited,
    play,
    used,
)


def decided(arrival_days: Sequence[int], document: Document, steps: Sequence[int]) -> list[str]:
    """What becomes of copies of one event of no meter that arrive on these days."""
    day = DECEMBER_MS // DAY_MS
    events = [
        used("1", event_type="unmetered", received_ms=(day + offset) * DAY_MS)
        for offset in arrival_days
    ]
    return play(events, document, steps)[1].statuses


@pytest.mark.parametrize("steps", [(), (1,), (1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("arrival_days", "expected"),
    [
        ([0, DEDUPE_DAYS, 1], "accepted duplicate duplicate"),
        ([0, DEDUPE_DAYS + 1, 36], "accepted accepted duplicate"),
        # Arrivals that run far behind, or jump far ahead and come back.
        ([0, -200, -200], "accepted duplicate duplicate"),
        ([-200, -200, -200], "accepted duplicate duplicate"),
        ([0, -200, 30], "accepted duplicate duplicate"),
    ],
)
def test_a_copy_is_recognised_for_35_days_of_the_log(
    arrival_days: list[int], expected: str, steps: tuple[int, ...]
) -> None:
    assert decided(arrival_days, limited(), steps) == expected.split()


@pytest.mark.parametrize("steps", [(), (1,), (1, 1), (2,), (3, 1)])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_copy_is_recognised_however_far_ahead_what_comes_after_it_arrives(
    steps: tuple[int, ...], cut: int
) -> None:
    far = 2 * DEDUPE_DAYS + 5
    day = DECEMBER_MS // DAY_MS
    events = [
        used(event_id, event_type="unmetered", received_ms=(day + offset) * DAY_MS)
        for event_id, offset in (("1", 0), ("1", 2), ("2", far), ("2", far + 1))
    ]
    played = Play()
    cutter = intake(limited())
    played.append(cutter.announce())
    records = arriving(events)
    for pack in filter(None, (records[:cut], records[cut:])):
        played.append(cutter.step(pack))
    for count in (*steps, len(events)):
        if left := min(count, len(played.log) - played.counted):
            played.step(left)
    assert played.outcome().statuses == ["accepted", "duplicate"] * 2


def test_events_that_arrive_far_behind_the_newest_one_are_still_recognised() -> None:
    day = DECEMBER_MS // DAY_MS
    old = (day - 100) * DAY_MS
    events = [
        used("new", event_type="unmetered", received_ms=day * DAY_MS),
        *[used("old", event_type="unmetered", received_ms=old) for _ in range(3)],
    ]
    assert play(events, limited(), (1, 1, 1))[1].statuses == [
        "accepted",
        "accepted",
        *["duplicate"] * 2,
    ]


def test_a_copy_is_recognised_as_long_as_it_could_still_count() -> None:
    far = 120 * DAY_MS
    document = limited(grace_hours=24 * 120)
    events = [used("1"), used("1", received_ms=DECEMBER_MS + far), used("2")]
    assert play(events, document)[1].statuses == ["accepted", "duplicate", "accepted"]
    later = [used("1"), used("1", received_ms=DECEMBER_MS + far + 2 * DAY_MS)]
    assert play(later, document)[1].statuses == ["accepted", "late"]


@pytest.mark.parametrize("steps", [(), (1, 1), (2, 1)])
def test_what_is_forgotten_on_a_new_day_is_what_no_straggler_could_find(
    steps: tuple[int, ...],
) -> None:
    first_day = DECEMBER_MS // DAY_MS
    events = [
        used(event_id, event_type="unmetered", received_ms=(first_day + day) * DAY_MS)
        for event_id, day in (("a", 0), ("b", DEDUPE_DAYS + 1), ("a", DEDUPE_DAYS))
    ]
    assert play(events, limited(), steps)[1].statuses == ["accepted", "accepted", "duplicate"]


def test_ids_that_have_expired_give_their_memory_back() -> None:
    played = Play()
    cutter = intake(limited())
    played.append(cutter.announce())
    for day in range(120):
        events = [
            used(f"{day}-{n}", received_ms=DECEMBER_MS + day * DAY_MS, event_type="unmetered")
            for n in range(20)
        ]
        played.append(cutter.step(arriving(events)))
        played.step(len(played.log) - played.counted)
        # 35 days of identities, 35 days of disorder, and the day on which they are dropped.
        assert len(played.shard.ids) <= 20 * (DEDUPE_DAYS + 35 + 3)
    assert len(played.shard.ids) >= 20 * DEDUPE_DAYS
