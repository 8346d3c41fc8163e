"""A meter is refused unless it says unambiguously what it counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.meter import Meter, path_steps

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)
quoted = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="'\""), min_size=1)


def meter(**changes: Any) -> Meter:
    typed = {"slug": "tokens", "event_type": "llm", "aggregation": "sum", "value": "$.tokens"}
    return Meter.model_validate({**typed, **changes})


@given(st.lists(names | st.integers(0, 10**6) | quoted))
def test_a_path_names_the_steps_it_was_made_of(steps: list[str | int]) -> None:
    path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f"['{step}']" for step in steps)
    assert meter(value=path).value == path
    assert path_steps(path) == tuple(steps)


@given(st.lists(names))
def test_dots_and_brackets_name_the_same_place(steps: list[str]) -> None:
    dotted = "$" + "".join(f".{step}" for step in steps)
    bracketed = "$" + "".join(f'["{step}"]' for step in steps)
    assert path_steps(dotted) == path_steps(bracketed)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tokens",
        "$tokens",
        "$.",
        "$..a",
        "$.a.",
        "$[a]",
        "$[-1]",
        "$.*",
        "$['a",
        "$.a b",
        "$.a\n",
    ],
)
def test_what_is_no_path_is_refused_with_an_example(path: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a path such as \$\.tokens"):
        meter(value=path)
    with pytest.raises(ValidationError, match=r"is not a path such as \$\.tokens"):
        meter(group_by={"model": path})


def test_count_takes_no_value_and_the_others_need_one() -> None:
    assert meter(aggregation="count", value=None).value is None
    with pytest.raises(ValidationError, match="count counts events and takes no value"):
        meter(aggregation="count")
    for aggregation in ("sum", "max", "min", "latest"):
        with pytest.raises(ValidationError, match=f"{aggregation} needs a value"):
            meter(aggregation=aggregation, value=None)


def test_dimensions_have_one_order_however_they_are_typed() -> None:
    one = meter(group_by={"model": "$.model", "area": "$.area"})
    other = meter(group_by={"area": "$.area", "model": "$.model"})
    assert list(one.group_by) == ["area", "model"]
    assert one.model_dump_json() == other.model_dump_json()


@pytest.mark.parametrize("slug", ["", " a", "a b", "a\n", "-a", "é", "a" * 101])
def test_a_slug_is_safe_in_every_name_made_of_it(slug: str) -> None:
    with pytest.raises(ValidationError, match="slug"):
        meter(slug=slug)


@pytest.mark.parametrize("hours", [-1, float("nan"), float("inf"), "soon"])
def test_a_grace_time_that_is_none_is_refused(hours: object) -> None:
    with pytest.raises(ValidationError, match="grace_hours"):
        meter(grace_hours=hours)


def test_a_grace_time_is_exact_to_the_millisecond() -> None:
    assert meter(grace_hours=0.0000005).grace_ms == 2
    assert meter(grace_hours=72).grace_ms == 259_200_000


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="eventType"):
        meter(eventType="llm")
