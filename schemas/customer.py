"""A customer: who uses, on which plan, and under which name Stripe knows it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.meter import Slug


class Customer(BaseModel):
    """One customer. Its id is the `subject` of its usage events."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"id": "cus_1", "plan": "free", "stripe_customer_id": "cus_stripe_1"}]
        },
    )

    id: Annotated[str, Field(min_length=1)]
    plan: Slug | None = Field(None, description="Without one, the default plan holds.")
    stripe_customer_id: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Without one, nothing is billed."
    )
