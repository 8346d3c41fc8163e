"""Thresholds are exact: none fires before its time, and each is named once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.plan import Limit, Plan
from schemas.quantity import NANOS

limits = st.decimals(0, 10**12, places=9)
percents = st.decimals("0.000001", 999999, places=6)


def limit(limit: Any = "100000", *thresholds: Any) -> Limit:
    return Limit.model_validate({"meter": "tokens", "limit": limit, "thresholds": thresholds})


@given(limits, percents)
def test_a_percentage_is_reached_at_the_first_nano_that_reaches_it(
    quantity: Decimal, percent: Decimal
) -> None:
    of_plan = limit(f"{quantity:f}", f"{percent:f}%")
    reached = of_plan.threshold_nanos(of_plan.thresholds[0])
    exact = Fraction(quantity) * Fraction(percent) / 100 * NANOS
    assert reached >= exact
    assert reached - 1 < exact


@given(limits)
def test_a_quantity_is_its_own_threshold(quantity: Decimal) -> None:
    of_plan = limit("1", quantity)
    assert of_plan.threshold_nanos(of_plan.thresholds[0]) == quantity * NANOS


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("80%", "80%"),
        (" 80.50 % ", "80.5%"),
        ("0.000001%", "0.000001%"),
        (120000, "120000"),
        ("1e3", "1000"),
        (0.1, "0.1"),
    ],
)
def test_a_threshold_is_written_in_one_way(typed: object, written: str) -> None:
    assert limit(1, typed).thresholds == (written,)


@pytest.mark.parametrize("typed", ["", "%", "80%%", "-80%", "80percent", True, None, "1e-10", []])
def test_what_is_no_threshold_is_refused(typed: object) -> None:
    with pytest.raises(ValidationError, match="a percentage such as"):
        limit(1, typed)


@pytest.mark.parametrize("twice", [("80%", "80.0%"), (5, "5"), ("5", 5.0)])
def test_a_threshold_named_twice_would_alert_twice_and_is_refused(
    twice: tuple[object, object],
) -> None:
    with pytest.raises(ValidationError, match="a limit names each threshold once"):
        limit(1, *twice)


def test_a_percentage_and_the_quantity_it_stands_for_are_two_thresholds() -> None:
    assert limit(100, "50%", 50).thresholds == ("50%", "50")


@pytest.mark.parametrize("typed", [-1, "-0.000000001", "many", None])
def test_what_is_no_limit_is_refused(typed: object) -> None:
    with pytest.raises(ValidationError, match="limit"):
        limit(typed)


def test_a_plan_has_one_limit_a_meter() -> None:
    with pytest.raises(ValidationError, match="at most one limit a meter"):
        Plan(slug="free", limits=(limit(1), limit(2)))


def test_a_plan_knows_its_limits_by_meter() -> None:
    plan = Plan(slug="free", limits=(limit(1),))
    assert plan.limit_of("tokens") == limit(1)
    assert plan.limit_of("seconds") is None
