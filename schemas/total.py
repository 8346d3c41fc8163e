"""A total: one meter's value for one customer, period and group. Absolute, never a delta."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.frame import Frame
from schemas.quantity import TotalQuantity


class Total(BaseModel):
    """One total as readers see it."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "customer": "cus_1",
                    "meter": "tokens",
                    "period_start": "2026-11-01T00:00:00Z",
                    "period_end": "2026-12-01T00:00:00Z",
                    "group": {"model": "m"},
                    "value": "812",
                    "usage": "80010",
                    "events": 3,
                    "as_of": "2026-11-20T09:30:00.125000Z",
                    "version": 4711,
                }
            ]
        },
    )

    customer: str
    meter: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    group: dict[str, str] = Field(description="Dimension to value; empty without group_by.")
    value: TotalQuantity
    usage: TotalQuantity = Field(
        description="The meter's value over all groups: what limits and bills compare."
    )
    events: int = Field(ge=1, description="How many events the total counts.")
    as_of: AwareDatetime = Field(description="Arrival of the last event in it.")
    version: int = Field(ge=0, description="Grows with every change; a shard offset.")


#: The columns of a `totals` frame. Its header has `version`, the shard offset of the last pack
#: counted; a customer's totals always come from the same shard, so it grows per total.
TOTAL_COLUMNS = pa.schema(
    [
        pa.field("customer", pa.string(), nullable=False),
        pa.field("meter", pa.string(), nullable=False),
        pa.field("period_start", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("period_end", pa.timestamp("ms", "UTC"), nullable=False),
        # JSON object with sorted names, so that equal groups are equal texts.
        pa.field("group", pa.string(), nullable=False),
        # Plain decimal strings: a sum may outgrow every fixed width.
        pa.field("value", pa.string(), nullable=False),
        pa.field("usage", pa.string(), nullable=False),
        pa.field("events", pa.int64(), nullable=False),
        pa.field("as_of", pa.timestamp("ms", "UTC"), nullable=False),
    ]
)


def read_totals(frame: Frame) -> Iterator[Total]:
    """The totals in a `totals` frame."""
    for row in frame.parts[0].to_pylist():
        group = msgspec.json.decode(row.pop("group"))
        yield Total(**row, group=group, version=frame.header["version"])
