"""Deltas are sorted by what became of them, and what Stripe must have follows from that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bill import identifier
from pipeline.reconcile_bill import Bills, Fault, Lane, Settled, milliseconds
from pipeline.reconcile_chain import bounds, is_right
from pipeline.reconcile_totals import Key, Selection
from schemas.billing import Delivery, Delta
from schemas.quantity import NANOS

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
LATER_MS = milliseconds(DECEMBER)
Outcome = Literal["delivered", "refused", "held"]


def delta(
    sequence: int,
    value: str = "1",
    meter: str = "tokens",
    event_name: str = "llm",
    start: datetime = NOVEMBER,
    end: datetime = DECEMBER,
    customer: str = "cus",
) -> Delta:
    return Delta(
        identifier=identifier(meter, customer, milliseconds(start), sequence),
        customer=customer,
        stripe_customer_id="cus_stripe",
        meter=meter,
        event_name=event_name,
        period_start=start,
        period_end=end,
        sequence=sequence,
        value=value,
        timestamp=0,
    )


def delivery(of: Delta, outcome: Outcome = "delivered", day: int = 2) -> Delivery:
    fields = of.model_dump() | {"outcome": outcome, "at": datetime(2026, 11, day, tzinfo=UTC)}
    return Delivery.model_validate({name: fields[name] for name in fields.keys() & _FIELDS})


_FIELDS = Delivery.model_fields.keys()
KEY = Key("cus", "tokens", milliseconds(NOVEMBER))
LANE = Lane(KEY, "cus_stripe", "llm")


def settled(bills: Bills) -> Settled:
    return bills.lanes()[LANE]


def test_each_delta_counts_where_its_delivery_says() -> None:
    bills = Bills(Selection())
    outcomes: list[Outcome] = ["delivered", "held", "refused"]
    for number, outcome in enumerate(outcomes):
        bills.take_delivery(delivery(delta(number, str(10**number)), outcome))
    for number in range(4):
        bills.take_delta(0, number, delta(number, str(10**number)))
    assert bills.settle({0: 3}, LATER_MS) == []
    found = settled(bills)
    assert found.delivered.units == NANOS
    assert found.held.units == 10 * NANOS
    assert found.refused.units == 100 * NANOS
    assert found.unsent.units == 1000 * NANOS
    assert found.frozen.units == 1111 * NANOS
    assert bounds(found)[:2] == (NANOS, 1011 * NANOS), "held and unsent may be there, refused not"


def test_what_is_confirmed_without_a_delivery_is_a_fault_until_it_comes() -> None:
    bills = Bills(Selection())
    bills.take_delta(0, 0, delta(0))
    assert bills.settle({0: 0}, LATER_MS) == []
    assert bills.settle({0: 1}, LATER_MS) == [Fault(delta(0).identifier, KEY, NANOS, 0)]
    bills.take_delivery(delivery(delta(0)))
    assert bills.settle({0: 1}, LATER_MS) == []
    assert settled(bills).delivered.units == NANOS


@pytest.mark.parametrize("outcome", ["delivered", "held", "refused"])
def test_a_delivery_of_another_value_is_a_fault_in_every_look(outcome: Outcome) -> None:
    bills = Bills(Selection())
    bills.take_delivery(delivery(delta(0, "2"), outcome))
    bills.take_delta(0, 0, delta(0, "1"))
    for _ in range(3):
        assert [fault[2:] for fault in bills.settle({0: 1}, LATER_MS)] == [(NANOS, 2 * NANOS)]
    assert settled(bills).frozen.units == NANOS


def test_a_delivery_of_another_value_that_is_replaced_in_time_is_no_fault() -> None:
    bills = Bills(Selection())
    bills.take_delta(0, 0, delta(0, "1"))
    bills.take_delivery(delivery(delta(0, "2")))
    assert len(bills.settle({0: 0}, LATER_MS)) == 1
    bills.take_delivery(delivery(delta(0, "1")))
    assert bills.settle({0: 1}, LATER_MS) == []


def test_what_was_never_frozen_is_a_fault_and_a_repeated_delivery_is_none() -> None:
    bills = Bills(Selection())
    bills.take_delivery(delivery(delta(0)))
    bills.take_delta(0, 0, delta(0))
    assert bills.settle({0: 1}, LATER_MS) == []
    bills.take_delivery(delivery(delta(0)))
    assert bills.settle({0: 1}, LATER_MS) == [], "the same again, after it was settled"
    bills.take_delivery(delivery(delta(7)))
    assert bills.settle({0: 1}, LATER_MS) == [Fault(delta(7).identifier, KEY, 0, NANOS)]
    assert settled(bills).delivered.deltas == 1


def test_a_delta_frozen_twice_is_frozen_twice() -> None:
    bills = Bills(Selection())
    for offset in range(2):
        bills.take_delta(0, offset, delta(0))
    assert bills.frozen_by_key() == {KEY: 2 * NANOS}


def test_what_was_delivered_a_moment_ago_may_be_in_the_sum_or_not() -> None:
    bills = Bills(Selection())
    bills.take_delivery(delivery(delta(0), day=2))
    bills.take_delta(0, 0, delta(0))
    bills.settle({0: 1}, milliseconds(datetime(2026, 11, 2, tzinfo=UTC)))
    assert settled(bills).all_delivered == NANOS
    assert bounds(settled(bills))[:2] == (0, NANOS)
    bills.settle({0: 1}, LATER_MS)
    assert bounds(settled(bills))[:2] == (NANOS, NANOS)


def test_what_was_refused_is_right_when_none_or_all_of_it_was_sent_by_hand() -> None:
    bills = Bills(Selection())
    outcomes: list[Outcome] = ["delivered", "refused", "refused"]
    for number, outcome in enumerate(outcomes):
        bills.take_delivery(delivery(delta(number, str(10**number)), outcome))
        bills.take_delta(0, number, delta(number, str(10**number)))
    bills.settle({0: 3}, LATER_MS)
    ((_, together),) = bills.windows().values()
    right = [units for units in range(200) if is_right(units * NANOS, together)]
    assert right == [1, 111]


def test_totals_that_were_refused_are_sent_by_hand_one_after_the_other() -> None:
    bills = Bills(Selection())
    deltas = [delta(0, "1"), delta(1, "10"), delta(2, "20"), delta(0, "-5", meter="other")]
    outcomes: list[Outcome] = ["delivered", "refused", "refused", "refused"]
    for number, (each, outcome) in enumerate(zip(deltas, outcomes, strict=True)):
        bills.take_delivery(delivery(each, outcome))
        bills.take_delta(0, number, each)
    bills.settle({0: 4}, LATER_MS)
    ((_, together),) = bills.windows().values()
    right = [units for units in range(-100, 100) if is_right(units * NANOS, together)]
    assert right == [-4, 1, 26, 31], "never a part of one total"


@pytest.mark.parametrize(("totals", "right"), [(10, [0, 3, 6]), (11, [0, 1, 2, 3, 4, 5, 6])])
def test_of_many_refused_totals_any_part_may_have_been_sent_by_hand(
    totals: int, right: list[int]
) -> None:
    bills = Bills(Selection())
    deltas = [delta(0, "3" if number < 2 else "0", meter=f"m{number}") for number in range(totals)]
    for number, each in enumerate(deltas):
        bills.take_delivery(delivery(each, "refused"))
        bills.take_delta(0, number, each)
    bills.settle({0: totals}, LATER_MS)
    ((_, together),) = bills.windows().values()
    assert [units for units in range(-9, 9) if is_right(units * NANOS, together)] == right


def test_what_was_refused_of_a_wrong_stripe_customer_may_be_sent_by_hand_to_the_right_one() -> None:
    bills = Bills(Selection())
    wrong = delta(0, "5").model_copy(update={"stripe_customer_id": "cus_wrong"})
    bills.take_delivery(delivery(wrong, "refused"))
    bills.take_delivery(delivery(delta(1, "2")))
    bills.take_delta(0, 0, wrong)
    bills.take_delta(0, 1, delta(1, "2"))
    bills.settle({0: 2}, LATER_MS)
    together = {window.stripe_customer_id: each for window, (_, each) in bills.windows().items()}
    assert is_right(2 * NANOS, together["cus_stripe"])
    assert is_right(7 * NANOS, together["cus_stripe"])
    assert not is_right(5 * NANOS, together["cus_stripe"])
    assert is_right(0, together["cus_wrong"])
    assert not is_right(2 * NANOS, together["cus_wrong"])


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), max_size=12), st.data())
def test_whatever_stripe_has_of_the_unsent_lies_within_the_bounds(
    values: list[int], data: st.DataObject
) -> None:
    bills = Bills(Selection())
    bills.take_delta(0, 0, delta(0, "100"))
    bills.take_delivery(delivery(delta(0, "100")))
    for number, value in enumerate(values, start=1):
        bills.take_delta(0, number, delta(number, str(value)))
    bills.settle({0: 1}, LATER_MS)
    arrived = sum(value for value in values if data.draw(st.booleans()))
    low, high, tolerance = bounds(settled(bills))
    assert low <= (100 + arrived) * NANOS <= high
    assert tolerance < NANOS


def test_meters_that_share_a_stripe_meter_share_a_sum() -> None:
    bills = Bills(Selection())
    day = datetime(2026, 11, 5, tzinfo=UTC)
    bills.take_delta(0, 0, delta(0, "1"))
    bills.take_delta(0, 1, delta(0, "2", meter="other"))
    bills.take_delta(
        0, 2, delta(0, "4", meter="daily", start=day, end=datetime(2026, 11, 6, tzinfo=UTC))
    )
    bills.settle({0: 0}, LATER_MS)
    ((window, (lanes, together)),) = bills.windows().items()
    assert (window.start_ms, window.end_ms) == (milliseconds(NOVEMBER), milliseconds(DECEMBER))
    assert len(lanes) == 3
    assert together.unsent.units == 7 * NANOS


def test_customers_who_are_one_to_stripe_share_a_sum_though_one_of_them_is_looked_at() -> None:
    bills = Bills(Selection(customer="cus"))
    for number, customer in enumerate(("other", "cus", "third")):
        bills.take_delivery(delivery(delta(0, str(10**number), customer=customer)))
    for number, customer in enumerate(("other", "cus", "third")):
        bills.take_delta(0, number, delta(0, str(10**number), customer=customer))
    assert bills.settle({0: 3}, LATER_MS) == []
    ((lanes, together),) = bills.windows().values()
    assert lanes == [LANE] == list(bills.lanes())
    assert together.delivered.units == 111 * NANOS
    assert settled(bills).delivered.units == 10 * NANOS
    assert bills.frozen_by_key() == {KEY: 10 * NANOS}


def test_a_day_shares_its_sum_with_the_month_around_it_though_the_day_is_looked_at() -> None:
    days = [datetime(2026, 11, day, tzinfo=UTC) for day in (29, 30)]
    bills = Bills(Selection(milliseconds(days[1]), milliseconds(DECEMBER)))
    bills.take_delta(0, 0, delta(0, "1"))
    for number, (start, end) in enumerate(zip(days, [days[1], DECEMBER], strict=True), start=1):
        bills.take_delta(0, number, delta(0, str(2**number), meter="daily", start=start, end=end))
    bills.settle({0: 0}, LATER_MS)
    ((window, (lanes, together)),) = bills.windows().items()
    assert (window.start_ms, window.end_ms) == (milliseconds(NOVEMBER), milliseconds(DECEMBER))
    assert [lane.key for lane in lanes] == [Key("cus", "daily", milliseconds(days[1]))]
    assert together.unsent.units == 7 * NANOS


def many_bills() -> tuple[list[Delivery], list[Delta]]:
    """Months, and days in them: delivered, held, refused, changed, not delivered, never frozen."""
    deliveries, deltas = [], []
    for month in range(1, 12):
        start, end = (datetime(2026, each, 1, tzinfo=UTC) for each in (month, month + 1))
        day, following = (datetime(2026, month, each, tzinfo=UTC) for each in (20, 21))
        for sequence in range(5):
            of_month = delta(sequence, start=start, end=end)
            of_day = delta(sequence, meter="daily", start=day, end=following, customer="other")
            deltas += [of_month, of_day]
            deliveries += [delivery(of_month, ("delivered", "held", "refused")[sequence % 3])]
        deliveries += [delivery(delta(0, "2", "daily", start=day, end=following, customer="other"))]
        deliveries += [delivery(delta(9, start=start, end=end))]
    return deliveries, deltas


def test_bills_that_move_on_with_time_become_what_new_ones_would_be() -> None:
    deliveries, deltas = many_bills()

    def taken(selection: Selection) -> Bills:
        bills = Bills(selection)
        for each in deliveries:
            bills.take_delivery(each)
        for offset, of in enumerate(deltas):
            bills.take_delta(0, offset, of)
        return bills

    moving = taken(Selection())
    for start in sorted({of.period_start for of in deltas}):
        selection = Selection(milliseconds(start) + 1)
        moving.select(selection)
        anew = taken(selection)
        assert moving.settle({0: 100}, LATER_MS) == anew.settle({0: 100}, LATER_MS)
        assert vars(moving) == vars(anew)


def test_only_what_is_selected_is_told() -> None:
    bills = Bills(Selection(customer="other"))
    bills.take_delta(0, 0, delta(0))
    bills.take_delta(0, 1, delta(1))
    bills.take_delivery(delivery(delta(0)))
    bills.take_delivery(delivery(delta(7)))
    assert bills.settle({0: 2}, LATER_MS) == []
    assert not bills.lanes()
    assert not bills.windows()
    assert not bills.frozen_by_key()
