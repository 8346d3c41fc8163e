"""What is billed: frozen deltas on their way to Stripe, and what Stripe answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.quantity import TotalQuantity


class Delta(BaseModel):
    """A change of a billed total, frozen before its first send; on `usage.outbox`."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "identifier": "tokens-5d41402abc4b2a76-7",
                    "customer": "cus_1",
                    "stripe_customer_id": "cus_stripe_1",
                    "meter": "tokens",
                    "event_name": "llm_tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "period_end": "2026-12-01T00:00:00Z",
                    "sequence": 7,
                    "value": "812",
                    "timestamp": 1795253400,
                }
            ]
        },
    )

    identifier: Annotated[str, Field(max_length=100)] = Field(
        description="Of (meter, customer, period, sequence); Stripe counts an identifier once."
    )
    customer: str
    stripe_customer_id: str
    meter: str
    event_name: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    sequence: int = Field(ge=0)
    value: TotalQuantity = Field(description="At most 15 significant digits, Stripe's limit.")
    timestamp: int = Field(description="Unix seconds, always inside the period.")


class Frozen(BaseModel):
    """What has been frozen so far for one customer, meter and period; on `usage.bill.state`."""

    model_config = ConfigDict(frozen=True)

    customer: str
    meter: str
    period_start: AwareDatetime
    value: TotalQuantity
    sequence: int = Field(ge=0, description="Of the next delta.")


class Delivery(BaseModel):
    """What became of one delta; on `usage.deliveries`, keyed by identifier."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "identifier": "tokens-5d41402abc4b2a76-7",
                    "customer": "cus_1",
                    "stripe_customer_id": "cus_stripe_1",
                    "meter": "tokens",
                    "event_name": "llm_tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "value": "812",
                    "outcome": "delivered",
                    "at": "2026-11-20T09:31:00Z",
                }
            ]
        },
    )

    identifier: str
    customer: str
    stripe_customer_id: str
    meter: str
    event_name: str
    period_start: AwareDatetime
    value: TotalQuantity
    outcome: Literal["delivered", "refused", "held"] = Field(
        description="held: sent more than 23 h ago with an unknown end; needs reconciliation."
    )
    reason: str = ""
    remedy: str = ""
    at: AwareDatetime
