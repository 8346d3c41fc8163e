"""An alert: usage reached a threshold. Each (customer, meter, period, threshold) once."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.plan import Threshold
from schemas.quantity import TotalQuantity


class Alert(BaseModel):
    """One crossing, published on `usage.alerts` as JSON, keyed by customer."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "customer": "cus_1",
                    "meter": "tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "period_end": "2026-12-01T00:00:00Z",
                    "plan": "free",
                    "limit": "100000",
                    "threshold": "80%",
                    "value": "80010",
                    "crossed_at": "2026-11-20T09:30:00.125000Z",
                    "event_source": "/gateway/eu-1",
                    "event_id": "req-8f2c",
                }
            ]
        },
    )

    customer: str
    meter: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    plan: str
    limit: TotalQuantity
    threshold: Threshold = Field(description="As in the plan: a percentage or a quantity.")
    value: TotalQuantity = Field(description="Usage right after the event that crossed.")
    crossed_at: AwareDatetime = Field(description="Arrival of the event that crossed.")
    event_source: str
    event_id: str
