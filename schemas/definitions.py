"""The definitions: every meter, plan and customer, as one versioned document (`meterline.yaml`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from schemas.customer import Customer
from schemas.meter import Meter, Slug
from schemas.plan import Plan


class Definitions(BaseModel):
    """What is counted, limited and billed, and for whom."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ignored_types=(cached_property,),
        json_schema_extra={
            "examples": [
                {
                    "meters": [
                        {
                            "slug": "tokens",
                            "event_type": "llm.request",
                            "aggregation": "sum",
                            "value": "$.tokens",
                            "group_by": {"model": "$.model"},
                        }
                    ],
                    "plans": [
                        {
                            "slug": "free",
                            "limits": [
                                {
                                    "meter": "tokens",
                                    "limit": 100000,
                                    "thresholds": ["50%", "80%", "100%", 120000],
                                }
                            ],
                        }
                    ],
                    "customers": [
                        {"id": "cus_1", "plan": "free", "stripe_customer_id": "cus_stripe_1"}
                    ],
                    "default_plan": "free",
                }
            ]
        },
    )

    meters: tuple[Meter, ...] = ()
    plans: tuple[Plan, ...] = ()
    customers: tuple[Customer, ...] = ()
    default_plan: Slug | None = None

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        faults = [
            *_repeated("meter", (meter.slug for meter in self.meters)),
            *_repeated("plan", (plan.slug for plan in self.plans)),
            *_repeated("customer", (customer.id for customer in self.customers)),
        ]
        meters = {meter.slug for meter in self.meters}
        plans = {plan.slug for plan in self.plans}
        faults += [
            f"plan {plan.slug} limits the unknown meter {limit.meter}"
            for plan in self.plans
            for limit in plan.limits
            if limit.meter not in meters
        ]
        faults += [
            f"customer {customer.id} has the unknown plan {customer.plan}"
            for customer in self.customers
            if customer.plan is not None and customer.plan not in plans
        ]
        if self.default_plan is not None and self.default_plan not in plans:
            faults.append(f"the default plan {self.default_plan} is unknown")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @cached_property
    def version(self) -> str:
        """A name for exactly this content: 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @cached_property
    def meters_by_slug(self) -> dict[str, Meter]:
        """Every meter by its slug."""
        return {meter.slug: meter for meter in self.meters}

    @cached_property
    def customers_by_id(self) -> dict[str, Customer]:
        """Every listed customer by its id."""
        return {customer.id: customer for customer in self.customers}

    @cached_property
    def plans_by_slug(self) -> dict[str, Plan]:
        """Every plan by its slug."""
        return {plan.slug: plan for plan in self.plans}

    def knows(self, customer: str) -> bool:
        """Whether usage of `customer` counts, or is parked as unknown."""
        return self.default_plan is not None or customer in self.customers_by_id

    def plan_of(self, customer: str) -> Plan | None:
        """The plan of a customer, the default plan for one that is not listed or has none."""
        listed = self.customers_by_id.get(customer)
        slug = listed.plan if listed and listed.plan else self.default_plan
        return self.plans_by_slug[slug] if slug is not None else None


def _repeated(what: str, names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    repeated = []
    for name in names:
        if name in seen:
            repeated.append(f"{what} {name} is defined twice")
        seen.add(name)
    return repeated
