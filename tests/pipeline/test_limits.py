"""A threshold is crossed at the first event after which usage has reached it, and only once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.aggregate import Tally, running
from pipeline.limits import Limits, Watched, crossings
from schemas.definitions import Definitions
from schemas.meter import Aggregation
from schemas.quantity import NANOS
from tests.pipeline.usage_log import core, pieces

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PLANS = st.sampled_from(["pro", "open", None])


def definitions(thresholds: list[Any], limit: Any = 100, **more: Any) -> Definitions:
    return Definitions.model_validate(
        {
            "meters": [
                {"slug": "n", "event_type": "a", "aggregation": "sum", "value": "$.n"},
                {"slug": "free", "event_type": "a", "aggregation": "count"},
            ],
            "plans": [
                {
                    "slug": "pro",
                    "limits": [{"meter": "n", "limit": limit, "thresholds": thresholds}],
                },
                {"slug": "open"},
            ],
            "customers": [{"id": "listed", "plan": "pro"}, {"id": "other"}],
        }
        | more
    )


def watched(thresholds: list[Any], limit: Any = 100) -> Watched:
    found = watch(Limits(definitions(thresholds, limit)), "listed", "n")
    assert found is not None
    return found


def watch(limits: Limits, customer: str, meter: str) -> Watched | None:
    (plan,) = limits.plans(pa.array([customer])).tolist()
    return limits.of(plan, meter)


def walk(
    limit: Watched,
    values: list[int],
    before: int | None = None,
    fired: frozenset[str] = frozenset(),
    aggregation: Aggregation = "sum",
) -> list[tuple[int, str, int]]:
    """(position, threshold, usage) of each crossing; values in whole units, all at one time."""
    start = None if before is None else Tally(before * NANOS, 1, 0, 0)
    nanos = [value * NANOS for value in values]
    found = list(crossings(limit, fired, running(aggregation, start, nanos, [0] * len(nanos))))
    assert all((each.least, each.threshold) in limit.thresholds for each in found)
    return [(each.position, each.threshold, each.usage // NANOS) for each in found]


def test_thresholds_stand_in_order_of_what_they_ask_for() -> None:
    names = [name for _, name in watched(["100%", 120, "50%", "80%", "0.5"]).thresholds]
    assert names == ["0.5", "50%", "80%", "100%", "120"]


def test_one_event_that_crosses_several_thresholds_crosses_each_lowest_first() -> None:
    limit = watched(["100%", 120, "50%", "80%", 100])
    assert walk(limit, [49, 71]) == [
        (1, "50%", 120),
        (1, "80%", 120),
        (1, "100", 120),
        (1, "100%", 120),
        (1, "120", 120),
    ]


def test_a_threshold_is_reached_not_passed() -> None:
    assert walk(watched(["50%"]), [49, 1]) == [(1, "50%", 50)]
    assert walk(watched(["50%"]), [49]) == []


@pytest.mark.parametrize(
    ("limit", "percent", "least_nanos"),
    [("0.000000001", "50%", 1), (3, "33.3%", 999_000_000), ("0.000000003", "33.4%", 2)],
)
def test_a_percentage_is_rounded_up_so_that_nothing_fires_before_its_time(
    limit: Any, percent: str, least_nanos: int
) -> None:
    assert watched([percent], limit).thresholds == ((least_nanos, percent),)


def test_what_has_fired_does_not_fire_again() -> None:
    limit = watched(["50%", "80%"])
    assert walk(limit, [60, -60, 60, 30, -90, 90]) == [(0, "50%", 60), (3, "80%", 90)]
    assert walk(limit, [60, 30], fired=frozenset({"50%"})) == [(1, "80%", 90)]
    assert walk(limit, [90], fired=frozenset({"50%", "80%"})) == []


def test_a_threshold_that_was_added_below_usage_fires_at_the_next_event_that_stays_above() -> None:
    assert walk(watched(["50%"]), [1, 1], before=70) == [(0, "50%", 71)]
    assert walk(watched(["50%"]), [-30, 20], before=70) == [(1, "50%", 60)]


@pytest.mark.parametrize(
    ("aggregation", "values", "expected"),
    [
        ("max", [60, 90, 10], [(0, "50%", 60), (1, "80%", 90)]),
        ("min", [90, 60], [(0, "50%", 90), (0, "80%", 90)]),
        ("min", [10, 90], []),
        ("latest", [10, 90, 10], [(1, "50%", 90), (1, "80%", 90)]),
    ],
)
def test_usage_is_what_the_meter_makes_of_it(
    aggregation: Aggregation, values: list[int], expected: list[tuple[int, str, int]]
) -> None:
    assert walk(watched(["50%", "80%"]), values, aggregation=aggregation) == expected


@core(100)
@given(
    st.lists(st.integers(-60, 60), max_size=20),
    st.lists(st.integers(0, 20), max_size=3),
    st.lists(st.sampled_from(["0%", "10%", "50%", "100%", "50", "75"]), unique=True),
)
def test_crossings_are_the_same_however_the_events_are_cut(
    values: list[int], cuts: list[int], thresholds: list[str]
) -> None:
    limit = watched(thresholds)
    running = [sum(values[: position + 1]) for position in range(len(values))]
    expected = sorted(
        (position, nanos, name, running[position])
        for nanos, name in limit.thresholds
        for position in [next((p for p, v in enumerate(running) if v * NANOS >= nanos), -1)]
        if position >= 0
    )
    fired: set[str] = set()
    found = []
    for piece in pieces(len(values), cuts):
        before = running[piece.start - 1] if piece.start else None
        for position, name, usage in walk(limit, values[piece], before, frozenset(fired)):
            fired.add(name)
            found.append((piece.start + position, name, usage))
    assert found == [(position, name, usage) for position, _, name, usage in expected]


def test_a_limit_is_that_of_the_customers_plan_or_of_the_default_plan() -> None:
    limits = Limits(definitions(["50%"]))
    assert watch(limits, "listed", "n") is not None
    assert watch(limits, "listed", "free") is None
    assert watch(limits, "other", "n") is None
    assert watch(limits, "stranger", "n") is None
    by_default = Limits(definitions(["50%"], default_plan="pro"))
    assert watch(by_default, "stranger", "n") == watched(["50%"])
    assert watch(by_default, "other", "n") == watched(["50%"])
    assert watched(["50%"], "100.50").limit_text == "100.5"


@core(100)
@given(
    st.dictionaries(NAMES, PLANS),
    PLANS,
    st.lists(NAMES),
)
def test_many_customers_have_the_plans_that_each_has_alone(
    listed: dict[str, str | None], default: str | None, strangers: list[str]
) -> None:
    customers = [{"id": name, "plan": plan} for name, plan in listed.items()]
    known = definitions(["50%"], customers=customers, default_plan=default)
    limits = Limits(known)
    names = [*listed, *strangers]
    column = pa.array(names, pa.string())
    for name, plan, is_known in zip(
        names, limits.plans(column).tolist(), limits.knows(column).tolist(), strict=True
    ):
        alone = known.plan_of(name)
        assert (limits.of(plan, "n") is not None) == (alone is not None and alone.slug == "pro")
        assert is_known == (default is not None or name in listed)


def test_the_lowest_open_threshold_is_the_next_one_to_fire() -> None:
    limit = watched(["50%", "80%"])
    assert limit.lowest_open(set()) == 50 * NANOS
    assert limit.lowest_open({"50%"}) == 80 * NANOS
    assert limit.lowest_open({"50%", "80%"}) is None
