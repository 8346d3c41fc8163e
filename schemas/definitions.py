"""The definitions: every meter, plan and customer, as one versioned document (`meterline.yaml`)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.customer import Customer
from schemas.meter import Meter, Slug
from schemas.plan import Plan

#: Where something stands in a document: names of members and positions in lists.
Location: TypeAlias = tuple[str | int, ...]


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
            InitErrorDetails(
                type=PydanticCustomError("misfit", "{fault}", {"fault": fault}), loc=at, input=None
            )
            for at, fault in misfits(self.model_dump())
        ]
        if faults:
            raise ValidationError.from_exception_data("Definitions", faults)
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

    def plan_of(self, customer: str) -> Plan | None:
        """The plan of a customer, the default plan for one that is not listed or has none."""
        listed = self.customers_by_id.get(customer)
        slug = listed.plan if listed and listed.plan else self.default_plan
        return self.plans_by_slug[slug] if slug is not None else None


def misfits(document: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Names in a document that do not fit together: where, and what is wrong.

    `document` has the shape of `Definitions`, but anything may stand in it; what has no name is
    passed over, so this also looks through documents with other faults.
    """
    names: dict[str, Collection[str]] = {}
    for section, what, key in (
        ("meters", "meter", "slug"),
        ("plans", "plan", "slug"),
        ("customers", "customer", "id"),
    ):
        seen: dict[str, None] = {}
        for at, entry in _entries(document, section):
            name = entry.get(key)
            if isinstance(name, str):
                if name in seen:
                    yield (*at, key), f"{what} {name} is defined twice"
                seen[name] = None
        names[section] = seen
    for at, plan in _entries(document, "plans"):
        for limit_at, limit in _entries(plan, "limits"):
            if _is_unknown(limit.get("meter"), names["meters"]):
                fault = f"plan {plan.get('slug')} limits the unknown meter {limit['meter']}"
                yield (*at, *limit_at, "meter"), fault + _meant(limit["meter"], names["meters"])
    for at, customer in _entries(document, "customers"):
        if _is_unknown(customer.get("plan"), names["plans"]):
            fault = f"customer {customer.get('id')} has the unknown plan {customer['plan']}"
            yield (*at, "plan"), fault + _meant(customer["plan"], names["plans"])
    default = document.get("default_plan")
    if _is_unknown(default, names["plans"]):
        fault = f"the default plan {default} is unknown"
        yield ("default_plan",), fault + _meant(str(default), names["plans"])


def _entries(node: Mapping[str, Any], name: str) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """The mappings in the list that a node has under a name, and where they stand."""
    entries = node.get(name)
    if isinstance(entries, list | tuple):
        for index, entry in enumerate(entries):
            if isinstance(entry, Mapping):
                yield (name, index), entry


def _is_unknown(name: object, known: Collection[str]) -> bool:
    return isinstance(name, str) and name not in known


def _meant(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""
