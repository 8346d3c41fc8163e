"""A correction: a signed, audited change that names what it corrects.

Published as JSON on the same way as events; it never edits an event, it adds to the record.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.quantity import Quantity


class Correction(BaseModel):
    """Voids or amends one event, or adjusts one total."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "id": "cor-17",
                    "action": "void",
                    "customer": "cus_1",
                    "corrects_source": "/gateway/eu-1",
                    "corrects_id": "req-8f2c",
                    "reason": "Counted a request that failed.",
                    "author": "ada@example.com",
                    "at": "2026-11-21T08:00:00Z",
                }
            ]
        },
    )

    id: Annotated[str, Field(min_length=1)]
    action: Literal["void", "amend", "adjust"]
    customer: Annotated[str, Field(min_length=1)]
    corrects_source: str | None = Field(None, description="Source of the event that is corrected.")
    corrects_id: str | None = Field(None, description="Id of the event that is corrected.")
    meter: str | None = Field(None, description="Of the total that is adjusted.")
    period_start: AwareDatetime | None = Field(None, description="Of the total that is adjusted.")
    change: Quantity | None = Field(None, description="Signed; what is added to the total.")
    reason: Annotated[str, Field(min_length=1)]
    author: Annotated[str, Field(min_length=1)]
    at: AwareDatetime
