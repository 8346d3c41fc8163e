"""A forecast: when a customer is projected to reach its next threshold. Advisory."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.plan import Threshold
from schemas.quantity import TotalQuantity


class Forecast(BaseModel):
    """Published on `usage.forecasts` as JSON, keyed by customer; once per threshold and period."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "customer": "cus_1",
                    "meter": "tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "period_end": "2026-12-01T00:00:00Z",
                    "threshold": "80%",
                    "usage": "40000",
                    "projected": "120000",
                    "crosses_at": "2026-11-21T00:00:00Z",
                    "as_of": "2026-11-11T00:00:00Z",
                }
            ]
        },
    )

    customer: str
    meter: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    threshold: Threshold
    usage: TotalQuantity = Field(description="Usage at `as_of`.")
    projected: TotalQuantity = Field(description="Usage projected to the end of the period.")
    crosses_at: AwareDatetime = Field(description="When the threshold is projected to be reached.")
    as_of: AwareDatetime
