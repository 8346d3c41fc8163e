"""A customer's shard never changes and never depends on anything but its name."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.route import Router
from tests.pipeline.usage_log import core


@core(200)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_every_router_sends_a_customer_to_the_same_shard(customers: list[str]) -> None:
    one, two = Router(16), Router(16)
    backwards = {customer: two[customer] for customer in reversed(customers)}
    assert {customer: one[customer] for customer in customers} == backwards
    assert all(0 <= shard < 16 for shard in backwards.values())


def test_shards_are_the_same_for_ever() -> None:
    # Changing this would split the totals of every customer.
    assert [Router(16)[f"cus_{number}"] for number in range(8)] == [1, 3, 2, 15, 9, 14, 13, 11]


@core(200)
@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20)))
def test_many_at_once_go_where_each_goes_alone(batches: list[list[str]]) -> None:
    """Also after it forgot all that it knew."""
    router, alone = Router(16), Router(16)
    router.CUSTOMERS_MAX = 10
    for customers in batches:
        found = router.of_each(pa.array(customers, pa.string())).tolist()
        assert found == [alone[customer] for customer in customers]
        assert len(router._numbering) <= 10 + len(customers)


def test_customers_spread_over_all_shards() -> None:
    router = Router(16)
    load = Counter(router[f"cus_{number}"] for number in range(16_000))
    assert len(load) == 16
    assert max(load.values()) < 1_200


def test_memory_is_bounded_and_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [Router(16)[f"cus_{number}"] for number in range(100)]
    monkeypatch.setattr(Router, "CUSTOMERS_MAX", 10)
    router = Router(16)
    assert [router[f"cus_{number}"] for number in range(100)] == expected
    assert len(router) <= 10
