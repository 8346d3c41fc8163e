"""Meters and their event summaries, as the stand-in gives them: usage added up over UTC windows.

https://docs.stripe.com/api/billing/meter/list
https://docs.stripe.com/api/billing/meter-event-summary/list
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from sinks.stripe.account import Answer, MeterEvent, refusal

_WINDOW_SECONDS = {"": 60, "hour": 3_600, "day": 86_400}


def meters(event_names: Iterable[str]) -> Answer:
    """The page of all meters, active and with the formula sum; an id is `mtr_` and the name."""
    data = [
        {
            "object": "billing.meter",
            "id": f"mtr_{name}",
            "event_name": name,
            "display_name": name,
            "status": "active",
            "default_aggregation": {"formula": "sum"},
            "livemode": False,
        }
        for name in sorted(event_names)
    ]
    return Answer(
        200, {"object": "list", "url": "/v1/billing/meters", "data": data, "has_more": False}
    )


def summaries(journal: Iterable[MeterEvent], meter_id: str, query: Mapping[str, str]) -> Answer:
    """One page of summaries of one meter, whose id is `mtr_` and its event name.

    `query` has `customer`, `start_time` and `end_time` in Unix seconds and perhaps
    `value_grouping_window`, `limit` and `starting_after`. Windows without usage are left out.
    """
    try:
        window = _WINDOW_SECONDS[query.get("value_grouping_window", "")]
        customer, start, end = query["customer"], int(query["start_time"]), int(query["end_time"])
        limit = int(query.get("limit", "10"))
    except (KeyError, ValueError) as error:
        return refusal(400, f"Missing or invalid param: {error}")
    if start % window or end % window or not 1 <= limit <= 100:
        return refusal(400, f"Times must be multiples of {window} s, and limit from 1 to 100.")
    span = window if "value_grouping_window" in query else end - start
    totals: dict[int, Decimal] = {}
    for event in journal:
        of_this = (event.event_name, event.stripe_customer_id) == (meter_id[4:], customer)
        if of_this and start <= event.timestamp < end:
            begin = start + (event.timestamp - start) // span * span
            totals[begin] = totals.get(begin, Decimal(0)) + event.value
    every = [
        {
            "object": "billing.meter_event_summary",
            "id": f"mtrusg_{begin}",
            "meter": meter_id,
            # A binary float, as Stripe gives it: good for a check within a tolerance only.
            "aggregated_value": float(total),
            "start_time": begin,
            "end_time": begin + span,
            "livemode": False,
        }
        for begin, total in sorted(totals.items())
    ]
    last = query.get("starting_after", "")
    begins = [summary["id"] for summary in every]
    after = begins.index(last) + 1 if last in begins else 0
    return Answer(
        200,
        {
            "object": "list",
            "url": f"/v1/billing/meters/{meter_id}/event_summaries",
            "data": every[after : after + limit],
            "has_more": after + limit < len(every),
        },
    )
