"""A discrepancy: two links of the chain from input to invoice that should agree and do not."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

#: The links in the order of an event's path; each names what is compared with what.
Link = Literal["input", "stored", "recomputed", "totals", "frozen", "sent", "stripe"]

LINKS: dict[Link, str] = {
    "input": "positions of usage.events = outcomes in Kafka",
    "stored": "outcomes in Kafka = rows in ClickHouse",
    "recomputed": "totals recomputed from ClickHouse's events = ClickHouse's totals",
    "totals": "ClickHouse's totals = totals in Kafka",
    "frozen": "totals in Kafka = deltas frozen in the outbox",
    "sent": "deltas frozen = deliveries",
    "stripe": "delivered = Stripe's meter event summaries",
}


class Difference(BaseModel):
    """One place where two links do not agree."""

    model_config = ConfigDict(frozen=True)

    key: Annotated[str, Field(min_length=1)] = Field(
        description="Names what differs; the same as long as it is the same difference."
    )
    link: Link = Field(
        description="Which link of the chain is broken: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in LINKS.items())
        + "."
    )
    sentence: str = Field(description="What differs, for a person.")
    expected: str = Field(description="What the earlier link says, as a plain decimal string.")
    found: str = Field(description="What the later link says, as a plain decimal string.")
    customer: str | None = None
    meter: str | None = None
    period_start: AwareDatetime | None = None


class Discrepancy(Difference):
    """Published on `usage.discrepancies` as JSON: once when found, once when it is gone."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "key": "stripe/cus_stripe_1/llm_tokens/2026-11-01T00:00:00Z",
                    "link": "stripe",
                    "sentence": "cus_stripe_1, llm_tokens from 2026-11-01: 80010 delivered, "
                    "Stripe's summary has 79198 (812 too little).",
                    "expected": "80010",
                    "found": "79198",
                    "customer": "cus_1",
                    "meter": "tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "state": "open",
                    "at": "2026-11-20T09:35:00Z",
                }
            ]
        },
    )

    state: Literal["open", "resolved"] = Field(
        description="open: seen in two checks in a row. resolved: no longer there, or no longer "
        "looked at, as its sentence says then."
    )
    at: AwareDatetime = Field(description="When it was confirmed, or found gone.")
