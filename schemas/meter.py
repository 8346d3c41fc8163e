"""A meter: which events count, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=100)]
Aggregation = Literal["count", "sum", "max", "min", "latest"]
Period = Literal["month", "day"]

#: The subset of JSONPath that names one place: `$.a.b`, `$['a b']`, `$.list[0]`.
PATH = re.compile(r"""\$(\.[A-Za-z_][\w-]*|\['[^']+'\]|\["[^"]+"\]|\[\d+\])*""")
_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\['([^']+)'\]|\["([^"]+)"\]|\[(\d+)\]""")


def path_steps(path: str) -> tuple[str | int, ...]:
    """The member names and indices that `path` walks through, in order."""
    return tuple(
        int(index) if index else name or single or double
        for name, single, double, index in _STEP.findall(path)
    )


def _checked_path(path: str) -> str:
    if not PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not a path such as $.tokens, $['a b'] or $.items[0]")
    return path


class StripeMeter(BaseModel):
    """How a meter is billed: the event name of the Stripe meter that it feeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_name: Annotated[str, Field(min_length=1, max_length=100)]


class Meter(BaseModel):
    """Counts events of one type, per customer, period and group."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "slug": "tokens",
                    "event_type": "llm.request",
                    "aggregation": "sum",
                    "value": "$.tokens",
                    "group_by": {"model": "$.model"},
                    "period": "month",
                    "stripe": {"event_name": "llm_tokens"},
                }
            ]
        },
    )

    slug: Slug
    description: str = ""
    event_type: Annotated[str, Field(min_length=1)]
    aggregation: Aggregation
    value: str | None = Field(
        None,
        validate_default=True,
        description="Where the quantity stands in data; not for count.",
    )
    group_by: dict[str, str] = Field(
        default_factory=dict, description="Dimension to path; a missing field is the empty string."
    )
    period: Period = "month"
    grace_hours: Annotated[float, Field(ge=0, le=1_000_000_000)] = Field(
        72, description="An event received later than this after its period's end is late."
    )
    stripe: StripeMeter | None = None

    @field_validator("value")
    @classmethod
    def _value_fits_the_aggregation(cls, path: str | None, info: ValidationInfo) -> str | None:
        # Missing where it is faulty itself.
        aggregation = info.data.get("aggregation")
        if aggregation == "count" and path is not None:
            raise ValueError("count counts events and takes no value")
        if aggregation not in ("count", None) and path is None:
            raise ValueError(f"{aggregation} needs a value, such as $.tokens")
        return path if path is None else _checked_path(path)

    @field_validator("group_by")
    @classmethod
    def _dimensions_are_paths(cls, dimensions: dict[str, str]) -> dict[str, str]:
        return {name: _checked_path(path) for name, path in sorted(dimensions.items())}

    @property
    def grace_ms(self) -> int:
        """The grace time in milliseconds."""
        return round(self.grace_hours * 3_600_000)
