"""How Meterline counts and limits the events of `benchmarks.workload`."""

from __future__ import annotations

from benchmarks.totals import Key
from benchmarks.workload import EVENT_TYPES, Workload
from schemas.definitions import Definitions


def slug(event_type: str) -> str:
    """The meter of an event type."""
    return event_type.replace(".", "_")


#: For each event type the sum of its values, and on the first one a limit of 100,000.
DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {"slug": slug(kind), "event_type": kind, "aggregation": "sum", "value": "$.value"}
            for kind in EVENT_TYPES
        ],
        "plans": [
            {
                "slug": "free",
                "limits": [
                    {
                        "meter": slug(EVENT_TYPES[0]),
                        "limit": 100_000,
                        "thresholds": ["80%", "100%"],
                    }
                ],
            }
        ],
        "default_plan": "free",
    }
)


def expected(workload: Workload) -> dict[Key, int]:
    """The right totals."""
    return {
        (customer, slug(kind), "{}"): total.value
        for (customer, kind), total in workload.expected().items()
    }
