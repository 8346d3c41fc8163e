"""A usage event says what it was given, or nothing at all."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from schemas.usage_event import UsageEvent

NONE_OF_JSON = [float("nan"), float("inf"), -float("inf"), Decimal("NaN"), Decimal("-Infinity")]


class Usage(BaseModel):
    tokens: float


@dataclass
class Metered:
    tokens: float


def event(data: Any) -> UsageEvent:
    time = datetime(2026, 11, 20, tzinfo=UTC)
    return UsageEvent(id="1", source="/s", type="call", subject="cus_1", time=time, data=data)


@pytest.mark.parametrize("number", NONE_OF_JSON)
@pytest.mark.parametrize("deep", [False, True])
def test_a_number_that_json_cannot_say_is_refused_where_it_is_given(
    number: float | Decimal, deep: bool
) -> None:
    with pytest.raises(ValidationError, match="is no quantity"):
        event({"usage": [1, {"tokens": number}]} if deep else {"tokens": number})


@pytest.mark.parametrize(
    "holder",
    [
        lambda number: Usage(tokens=number),
        lambda number: {"usage": [Usage(tokens=number)]},
        lambda number: Metered(number),
        lambda number: deque([number]),
        lambda number: Enum("Price", {"LOW": number}).LOW,  # type: ignore[attr-defined]
    ],
)
def test_whatever_holds_the_number_it_is_refused(holder: Callable[[float], Any]) -> None:
    with pytest.raises(ValidationError, match="is no quantity"):
        event(holder(float("nan")))
    event(holder(0.5)).to_json()


def test_what_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(ValidationError, match="an iterator cannot be sent again"):
        event({"tokens": iter([1, 2])})


@pytest.mark.parametrize(
    ("given", "sent"), [(0.5, 0.5), (10**30, 10**30), (Decimal("1e400"), "1E+400"), (None, None)]
)
def test_other_numbers_travel_as_they_are(given: Any, sent: Any) -> None:
    data = {"usage": [{"tokens": given}], "model": "m"}
    assert json.loads(event(data).to_json())["data"]["usage"] == [{"tokens": sent}]
