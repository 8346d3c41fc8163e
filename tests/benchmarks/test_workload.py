"""The events that every benchmark counts are seeded, of the stated shape, and have known totals."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from benchmarks.workload import (
    BEGIN_MS,
    DUPLICATE_DISTANCE_MAX,
    EVENT_TYPES,
    EVENTS_MAX,
    PERIOD_END_MS,
    PERIOD_START_MS,
    Sum,
    Workload,
)
from pipeline.instant import parse_instant


def rows(workload: Workload) -> list[tuple[bytes, bytes, int]]:
    return [row for batch in workload.batches() for row in batch]


def test_the_same_seed_makes_the_same_events_in_batches_of_any_size() -> None:
    workload = Workload(2_500)
    assert rows(workload) == rows(Workload(2_500))
    assert rows(workload) == [row for batch in workload.batches(999) for row in batch]
    assert rows(workload) != rows(Workload(2_500, seed=1))


def test_a_longer_workload_begins_with_the_shorter_one() -> None:
    assert rows(Workload(5_000))[:2_000] == rows(Workload(2_000))


def test_any_stretch_can_be_made_by_itself() -> None:
    assert Workload(4_000).rows(1_500, 1_600) == rows(Workload(4_000))[1_500:1_600]


def test_its_totals_are_those_of_its_events_counted_once() -> None:
    workload = Workload(30_000, customers=100)
    sums: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for event in {event for _, event, _ in rows(workload)}:
        decoded = json.loads(event)
        key = decoded["subject"], decoded["type"]
        sums[key] += decoded["data"]["value"]
        counts[key] += 1
    assert workload.expected() == {key: Sum(sums[key], counts[key]) for key in counts}


def test_events_are_of_the_stated_shape() -> None:
    sent = rows(Workload(20_000))
    assert 190 <= sum(len(event) for _, event, _ in sent) / len(sent) <= 210
    assert [arrival for _, _, arrival in sent] == list(range(BEGIN_MS, BEGIN_MS + 20_000))
    kinds = Counter(json.loads(event)["type"] for _, event, _ in sent)
    assert set(kinds) == set(EVENT_TYPES)
    assert min(kinds.values()) > 0.3 * len(sent)
    for customer, event, arrival in sent[:200]:
        decoded = json.loads(event)
        assert decoded["subject"].encode() == customer
        happened = (parse_instant(decoded["time"]) or 0) // 10**6
        assert PERIOD_START_MS <= happened <= arrival < PERIOD_END_MS


def test_one_in_a_hundred_is_an_earlier_event_byte_for_byte_and_not_too_far_away() -> None:
    workload = Workload(700_000)
    first: dict[bytes, int] = {}
    distances = []
    for position, (_, event, _) in enumerate(rows(workload)):
        if event in first:
            distances.append(position - first[event])
        else:
            first[event] = position
    assert 0.009 < len(distances) / workload.events < 0.011
    assert 0.9 * DUPLICATE_DISTANCE_MAX < max(distances) <= DUPLICATE_DISTANCE_MAX
    assert len({json.loads(event)["id"] for event in first}) == len(first)


def test_customers_are_mildly_skewed() -> None:
    counts = Counter(customer for customer, _, _ in rows(Workload(200_000, customers=1_000)))
    ranked = [counts[b"cus_%05d" % rank] for rank in (0, 10, 100, 999)]
    assert all(more > fewer for more, fewer in pairwise(ranked))
    assert ranked[0] < 0.03 * 200_000
    assert len(counts) == 1_000


def test_one_customer_may_have_nearly_all_events() -> None:
    workload = Workload(50_000, customers=100, heaviest_share=0.9)
    counts = Counter(customer for customer, _, _ in rows(workload))
    assert 0.88 < counts[b"cus_00000"] / 50_000 < 0.92
    assert len(counts) == 100


@pytest.mark.parametrize(("events", "customers"), [(EVENTS_MAX + 1, 10), (-1, 10), (10, 0)])
def test_it_refuses_what_its_month_or_its_customers_cannot_hold(
    events: int, customers: int
) -> None:
    with pytest.raises(ValueError, match="possible"):
        Workload(events, customers)


def test_the_last_events_of_a_full_month_are_still_of_that_month() -> None:
    workload = Workload(EVENTS_MAX)
    (_, event, arrival), *_ = workload.rows(EVENTS_MAX - 1, EVENTS_MAX)
    assert arrival == PERIOD_END_MS - 1
    assert json.loads(event)["time"].startswith("2026-11-30T23:59:5")
