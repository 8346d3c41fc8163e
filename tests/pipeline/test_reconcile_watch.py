"""A difference is told of once while it lasts, and once more when it is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reconcile_bill import Bills, milliseconds
from pipeline.reconcile_chain import Confirmed, Seen
from pipeline.reconcile_ledger import Positions
from pipeline.reconcile_totals import Selection, Totals
from pipeline.reconcile_watch import changes
from pipeline.route import Router
from schemas.definitions import Definitions
from schemas.discrepancy import Difference, Discrepancy, Link

AT = datetime(2026, 11, 20, tzinfo=UTC)
SEEN = Seen(
    definitions=Definitions(),
    router=Router(1),
    confirmed=Confirmed({}, {}, {}, {}),
    positions=Positions(),
    outcomes={},
    totals=Totals(Selection()),
    shortened=frozenset(),
    stored={},
    recomputed={},
    bills=Bills(Selection()),
    faults=(),
    frozen={},
    summaries={},
)


def difference(key: str, link: Link = "totals", customer: str | None = "cus") -> Difference:
    return Difference(
        key=key,
        link=link,
        sentence="It differs.",
        expected="1",
        found="2",
        customer=customer,
        meter=customer and "tokens",
        period_start=AT if customer else None,
    )


def told(looks: list[set[str]]) -> list[list[tuple[str, Literal["open", "resolved"]]]]:
    """What is published after each look."""
    open_: dict[str, Discrepancy] = {}
    before: set[str] | None = None
    published = []
    for look in looks:
        now = [difference(key) for key in sorted(look)]
        news = changes(open_, before, now, SEEN, Selection(), Selection(), AT)
        published.append([(each.key, each.state) for each in news])
        open_ |= {each.key: each for each in news}
        open_ = {key: each for key, each in open_.items() if each.state == "open"}
        before = look
    return published


def test_it_is_told_of_when_two_looks_in_a_row_have_it() -> None:
    assert told([{"a"}, set(), {"a"}]) == [[], [], []]
    assert told([{"a"}, {"a"}, {"a"}]) == [[], [("a", "open")], []]


def test_it_is_gone_when_two_looks_in_a_row_do_not_have_it() -> None:
    assert told([{"a"}, {"a"}, set(), {"a"}, set(), set(), set()])[2:] == [
        [], [], [], [("a", "resolved")], [],
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from("abc")), max_size=20))
def test_states_alternate_for_each_key(looks: list[set[str]]) -> None:
    for key in "abc":
        states = [state for news in told(looks) for name, state in news if name == key]
        assert states == ["open", "resolved"] * (len(states) // 2) + ["open"] * (len(states) % 2)


@pytest.mark.parametrize(
    ("link", "customer", "without", "selection"),
    [
        ("input", None, {"positions": None}, Selection()),
        ("stripe", "cus", {"summaries": None}, Selection()),
        ("recomputed", "cus", {}, Selection()),
        ("totals", "cus", {}, Selection(customer="other")),
        ("totals", "cus", {}, Selection(until_ms=5)),
    ],
)
def test_what_was_not_looked_at_is_not_resolved(
    link: Link, customer: str | None, without: Mapping[str, Any], selection: Selection
) -> None:
    fields = difference("a", link, customer).model_dump() | {"state": "open", "at": AT}
    open_ = {"a": Discrepancy.model_validate(fields)}
    seen = replace(SEEN, **without)
    assert changes(open_, set(), [], seen, selection, selection, AT) == []
    whole = replace(SEEN, recomputed={"tokens": {}})
    found = changes(open_, set(), [], whole, Selection(), Selection(), AT)
    assert [(each.state, each.sentence) for each in found] == [("resolved", "It differs.")]


def test_what_time_has_left_behind_is_resolved_and_is_not_said_to_be_mended() -> None:
    fields = {"state": "open", "at": AT}
    there = [difference("a"), difference("b", "input", None)]
    open_ = {each.key: Discrepancy.model_validate(each.model_dump() | fields) for each in there}
    first, later = (Selection(from_ms=milliseconds(AT) + late_ms) for late_ms in (0, 1))
    assert changes(open_, {"a", "b"}, [], SEEN, first, later, AT) == []
    found = changes(open_, set(), [], SEEN, first, later, AT)
    assert {each.key: (each.state, each.sentence) for each in found} == {
        "a": ("resolved", "It differs. Its period is not looked at any more."),
        "b": ("resolved", "It differs."),
    }


def test_a_period_that_was_never_looked_at_was_not_left_behind() -> None:
    fields = difference("a").model_dump() | {"state": "open", "at": AT}
    open_ = {"a": Discrepancy.model_validate(fields)}
    first, later = (Selection(from_ms=milliseconds(AT) + late_ms) for late_ms in (1, 2))
    assert changes(open_, set(), [], SEEN, first, later, AT) == []
