"""A reconciliation: the whole chain from input positions to Stripe, as `--json` writes it.

Quantities are plain decimal strings and sums over customers. A link that was not checked is null,
never zero, and `not_checked` says why.
"""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.discrepancy import Difference, Link
from schemas.quantity import TotalQuantity


class Outcome(BaseModel):
    """How many positions of usage.events ended in one way."""

    model_config = ConfigDict(frozen=True)

    outcome: str = Field(description="accepted, duplicate, conflict, rejected, late or unknown.")
    kafka: int = Field(description="By the decisions and rejections in Kafka.")
    clickhouse: int = Field(description="By ClickHouse's rows of the same positions.")


class Ledger(BaseModel):
    """Every position of usage.events between two cuts, and how each one ended."""

    model_config = ConfigDict(frozen=True)

    first: dict[int, int] = Field(
        description="Per partition the first position counted: what came before, Kafka has deleted."
    )
    cut: dict[int, int] = Field(
        description="Per partition the first position not counted: it has not come through yet."
    )
    input: int = Field(description="Records of usage.events between the two.")
    outcomes: tuple[Outcome, ...]
    not_taken_in: int = Field(description="In flight: not yet read by intake.")
    not_decided: int = Field(description="In flight: not yet decided by tally.")
    not_stored: int = Field(description="In flight: not yet confirmed by the ClickHouse sink.")


class PeriodRow(BaseModel):
    """One meter and period through all links, summed over customers."""

    model_config = ConfigDict(frozen=True)

    meter: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    customers: int
    recomputed: TotalQuantity | None = Field(description="From ClickHouse's accepted events.")
    clickhouse: TotalQuantity = Field(description="ClickHouse's totals.")
    kafka: TotalQuantity | None = Field(description="Totals in Kafka; null where not kept.")
    billable: TotalQuantity | None = Field(
        description="The part of customers who are billed; null for a meter that is not."
    )
    frozen: TotalQuantity | None = Field(description="Deltas in the outbox.")
    delivered: TotalQuantity | None = Field(description="What Stripe took.")
    set_aside: TotalQuantity | None = Field(
        description="Held and refused deltas: the bill is short by them until a person settles it."
    )
    stripe: TotalQuantity | None = Field(description="Stripe's summaries, which are binary floats.")
    moving: int = Field(
        description="Customers whose totals were on their way between two links, so that the sums "
        "of this row may differ without a difference."
    )
    differences: int = Field(description="Customers with a difference, over all links.")


class OpenItem(BaseModel):
    """Deltas that Stripe does not count, or may not count: named, so no silent difference."""

    model_config = ConfigDict(frozen=True)

    customer: str
    meter: str
    period_start: AwareDatetime
    outcome: str = Field(description="held or refused.")
    deltas: int
    value: TotalQuantity
    reason: str
    remedy: str


class NotChecked(BaseModel):
    """A link, or a part of it, that could not be compared, and why."""

    model_config = ConfigDict(frozen=True)

    link: Link
    reason: str


class Reconciliation(BaseModel):
    """What `meterline reconcile --json` writes: one object a check."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "at": "2026-11-20T09:35:00Z",
                    "reconciled": True,
                    "ledger": {
                        "first": {"0": 0},
                        "cut": {"0": 812},
                        "input": 812,
                        "outcomes": [{"outcome": "accepted", "kafka": 812, "clickhouse": 812}],
                        "not_taken_in": 3,
                        "not_decided": 0,
                        "not_stored": 9,
                    },
                    "periods": [
                        {
                            "meter": "tokens",
                            "period_start": "2026-11-01T00:00:00Z",
                            "period_end": "2026-12-01T00:00:00Z",
                            "customers": 2,
                            "recomputed": "90",
                            "clickhouse": "90",
                            "kafka": "90",
                            "billable": "60",
                            "frozen": "60",
                            "delivered": "50",
                            "set_aside": "10",
                            "stripe": "50",
                            "moving": 0,
                            "differences": 0,
                        }
                    ],
                    "open_items": [
                        {
                            "customer": "cus_1",
                            "meter": "tokens",
                            "period_start": "2026-11-01T00:00:00Z",
                            "outcome": "refused",
                            "deltas": 1,
                            "value": "10",
                            "reason": "no_meter: No active meter found for llm_tokens.",
                            "remedy": "Create a Stripe meter with this event name.",
                        }
                    ],
                    "not_checked": [],
                    "unsent": 0,
                    "older_periods": 0,
                    "difference_count": 0,
                    "differences": [],
                }
            ]
        },
    )

    at: AwareDatetime
    reconciled: bool = Field(description="Whether no difference was found.")
    ledger: Ledger | None = Field(description="Null with --customer: a rejection names none.")
    periods: tuple[PeriodRow, ...]
    open_items: tuple[OpenItem, ...]
    not_checked: tuple[NotChecked, ...]
    unsent: int = Field(description="In flight: frozen deltas that are not confirmed yet.")
    older_periods: int = Field(description="Totals of older periods, which were not looked at.")
    difference_count: int
    differences: tuple[Difference, ...] = Field(description="The first ones; see --limit.")
