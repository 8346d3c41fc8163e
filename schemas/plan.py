"""A plan: how much of each meter a customer may use, and when to say so."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
)

from schemas.meter import Slug
from schemas.quantity import Quantity, nanos, parse, plain

_PERCENT = re.compile(r"^(\d{1,6}(?:\.\d{1,6})?)\s*%$")


def _threshold(raw: object) -> str:
    """The threshold as it is written everywhere: `80%`, or a plain decimal in the meter's unit."""
    if isinstance(raw, float):
        raw = repr(raw)
    if isinstance(raw, str) and (percent := _PERCENT.match(raw.strip())):
        return f"{plain(nanos(Decimal(percent[1])))}%"
    if isinstance(raw, bool) or not isinstance(raw, str | int | Decimal):
        raise ValueError("a threshold is a percentage such as '80%' or a quantity")
    try:
        quantity = parse(raw)
    except ValueError:
        raise ValueError(f"{raw!r} is neither a percentage such as '80%' nor a quantity") from None
    return plain(nanos(quantity))


_WRITTEN_SCHEMA = {
    "type": "string",
    "pattern": r"^(\d{1,6}(\.\d{1,6})? ?%|-?\d{1,38}(\.\d{1,9})?)$",
    "examples": ["80%", "120000"],
}

Threshold = Annotated[
    str,
    BeforeValidator(_threshold),
    WithJsonSchema(_WRITTEN_SCHEMA, mode="serialization"),
    WithJsonSchema({"anyOf": [_WRITTEN_SCHEMA, {"type": "number"}]}, mode="validation"),
]


class Limit(BaseModel):
    """What a plan allows of one meter in one period, over all groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meter: Slug
    limit: Quantity = Field(ge=0)
    thresholds: tuple[Threshold, ...] = Field(
        (), description="In percent of the limit, or in the meter's unit."
    )

    @field_validator("thresholds")
    @classmethod
    def _each_threshold_once(cls, thresholds: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
        if len(set(thresholds)) < len(thresholds):
            raise ValueError("a limit names each threshold once")
        return thresholds

    def threshold_nanos(self, threshold: Threshold) -> int:
        """The least usage, in nanos, that has reached `threshold`."""
        if not threshold.endswith("%"):
            return nanos(Decimal(threshold))
        # percent is exact in nanos; the quotient is rounded up, so nothing fires before its time.
        return -(-nanos(self.limit) * nanos(Decimal(threshold[:-1])) // (100 * 10**9))


class Plan(BaseModel):
    """A named set of limits, at most one a meter."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "slug": "free",
                    "limits": [
                        {"meter": "tokens", "limit": 100000, "thresholds": ["80%", "100%", 120000]}
                    ],
                }
            ]
        },
    )

    slug: Slug
    limits: tuple[Limit, ...] = ()

    @field_validator("limits")
    @classmethod
    def _one_limit_a_meter(cls, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        meters = [limit.meter for limit in limits]
        if len(set(meters)) < len(meters):
            raise ValueError("a plan has at most one limit a meter")
        return limits

    def limit_of(self, meter: str) -> Limit | None:
        """The limit on `meter`, if the plan has one."""
        return next((limit for limit in self.limits if limit.meter == meter), None)
