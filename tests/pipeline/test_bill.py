"""Billing freezes exactly what totals grew by, whatever the batches and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bill import Bill, split
from pipeline.errors import Stop
from pipeline.record import Outgoing
from schemas.billing import Delta, Frozen
from schemas.definitions import Definitions
from schemas.frame import Frame, Kind
from schemas.quantity import plain
from schemas.topics import BILL_STATE, OUTBOX
from schemas.total import TOTAL_COLUMNS

EXACT = Context(prec=400)
SHARD = 3
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)

#: Later than all that is said to have happened.
WRITTEN_MS = 2**53

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "stripe": {"event_name": "llm_tokens"},
            },
            {
                "slug": "calls",
                "event_type": "llm",
                "aggregation": "count",
                "period": "day",
                "stripe": {"event_name": "llm_calls"},
            },
            {"slug": "unbilled", "event_type": "llm", "aggregation": "count"},
        ],
        "customers": [
            {"id": "cus_1", "stripe_customer_id": "cus_stripe_1"},
            {"id": "cus_2", "stripe_customer_id": "cus_stripe_2"},
            {"id": "cus_free"},
        ],
    }
)


class Row(NamedTuple):
    """One row of a totals frame."""

    customer: str = "cus_1"
    meter: str = "tokens"
    usage: str = "1"
    as_of: datetime = datetime(2026, 11, 20, tzinfo=UTC)
    period_start: datetime = NOVEMBER
    period_end: datetime = DECEMBER
    group: str = "{}"


def totals(*rows: Row) -> Frame:
    """A frame as tally writes it."""
    columns = [row._asdict() | {"value": row.usage, "events": 1} for row in rows]
    return Frame(Kind.TOTALS, {}, (pa.RecordBatch.from_pylist(columns, TOTAL_COLUMNS),))


def deltas(outgoing: Sequence[Outgoing]) -> list[Delta]:
    """What goes to the outbox."""
    values = [out.value for out in outgoing if out.topic == OUTBOX.name]
    return [Delta.model_validate_json(value or b"") for value in values]


def frozen(outgoing: Sequence[Outgoing]) -> list[Frozen]:
    """What a restore reads back: the last state of each key."""
    states = {out.key: out.value for out in outgoing if out.topic == BILL_STATE.name}
    return [Frozen.model_validate_json(value or b"") for value in states.values()]


def billed(outgoing: Sequence[Outgoing]) -> dict[tuple[str, str, datetime], Decimal]:
    """The exact sum of deltas by customer, meter and period."""
    sums: dict[tuple[str, str, datetime], Decimal] = {}
    for delta in deltas(outgoing):
        key = (delta.customer, delta.meter, delta.period_start)
        sums[key] = EXACT.add(sums.get(key, Decimal(0)), Decimal(delta.value))
    return sums


def test_a_total_that_grew_becomes_one_delta_and_the_state_behind_it() -> None:
    bill = Bill(SHARD)
    first = bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="12.5"))])
    second = bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="20"))])
    assert [delta.value for delta in deltas(first + second)] == ["12.5", "7.5"]
    assert [delta.sequence for delta in deltas(first + second)] == [0, 1]
    (state,) = frozen(first + second)
    assert (state.value, state.sequence, state.period_start) == ("20", 2, NOVEMBER)
    assert {out.partition for out in first} == {SHARD}
    assert first[-1].key == b'["cus_1", "tokens", "2026-11-01T00:00:00Z"]'
    delta = deltas(first)[0]
    assert first[0].key == delta.identifier.encode()
    assert (delta.event_name, delta.stripe_customer_id) == ("llm_tokens", "cus_stripe_1")


def test_a_batch_freezes_a_key_once_at_its_last_row_over_all_its_frames_and_groups() -> None:
    frames = [
        totals(Row(usage="5", group='{"m":"a"}'), Row(usage="9", group='{"m":"b"}')),
        totals(Row(usage="11", group='{"m":"a"}')),
    ]
    assert [delta.value for delta in deltas(Bill(0).step(DEFINITIONS, WRITTEN_MS, frames))] == [
        "11"
    ]


def test_an_unchanged_total_writes_nothing() -> None:
    bill = Bill(0)
    bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="5"))])
    assert bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="5"))]) == []


def test_a_total_that_fell_gives_a_negative_delta() -> None:
    bill = Bill(0)
    bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="5"))])
    assert [
        d.value for d in deltas(bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="2"))]))
    ] == ["-3"]


@pytest.mark.parametrize(
    "row",
    [
        Row(meter="unbilled"),
        Row(customer="cus_free"),
        Row(customer="cus_unlisted"),
        Row(meter="removed"),
    ],
)
def test_nothing_is_billed_without_a_stripe_meter_and_a_stripe_customer(row: Row) -> None:
    assert Bill(0).step(DEFINITIONS, WRITTEN_MS, [totals(row)]) == []


def test_a_customer_who_gets_a_stripe_id_later_is_billed_in_full_at_the_next_total() -> None:
    bill = Bill(0)
    without = DEFINITIONS.model_copy(update={"customers": ()})
    without = Definitions.model_validate(without.model_dump())
    assert bill.step(without, WRITTEN_MS, [totals(Row(usage="5"))]) == []
    assert [
        d.value for d in deltas(bill.step(DEFINITIONS, WRITTEN_MS, [totals(Row(usage="6"))]))
    ] == ["6"]


def test_a_frame_of_another_kind_stops_billing() -> None:
    with pytest.raises(Stop, match=r"usage\.totals"):
        Bill(0).step(DEFINITIONS, WRITTEN_MS, [Frame(Kind.SEGMENT, {}, ())])


def test_two_periods_meters_and_customers_never_share_an_identifier() -> None:
    rows = [
        Row(customer, meter, period_start=start, period_end=start + timedelta(days=1))
        for customer in ("cus_1", "cus_2")
        for meter in ("tokens", "calls")
        for start in (NOVEMBER, NOVEMBER + timedelta(days=1))
    ]
    identifiers = {
        d.identifier for d in deltas(Bill(0).step(DEFINITIONS, WRITTEN_MS, [totals(*rows)]))
    }
    assert len(identifiers) == len(rows)


def test_no_delta_is_later_than_its_total_was_written_whatever_a_producers_clock_says() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    fast = totals(Row(as_of=noon + timedelta(minutes=10)))
    (delta,) = deltas(Bill(0).step(DEFINITIONS, int(noon.timestamp()) * 1_000, [fast]))
    assert delta.timestamp == noon.timestamp()
    early = totals(Row(as_of=noon - timedelta(days=30)))
    (delta,) = deltas(Bill(0).step(DEFINITIONS, int(noon.timestamp()) * 1_000, [early]))
    assert delta.timestamp == NOVEMBER.timestamp()


def test_an_identifier_never_changes_between_versions() -> None:
    """Stripe would count the same usage again under another identifier.

    The name is the SHA-256 of `["tokens", "cus_1", "2026-11-01T00:00:00Z", 0]`, by sha256sum.
    """
    (delta,) = deltas(Bill(0).step(DEFINITIONS, WRITTEN_MS, [totals(Row())]))
    assert delta.identifier == (
        "meterline-66e4b1cfd6510fc1b8f8190b164d47d00d229c498d33c37b3be4e2026664de59"
    )


nanos = st.one_of(
    st.integers(-(10**12), 10**12),
    st.integers(-(10**60), 10**60),
    st.integers(-(10**40), 10**40).map(lambda units: units * 10**9),
)


@given(nanos)
def test_addends_are_exact_few_and_of_at_most_15_digits(units: int) -> None:
    addends = split(units)
    assert sum(addends) == units
    assert len(addends) <= len(str(abs(units))) // 15 + 1
    for addend in addends:
        digits = Decimal(plain(addend)).normalize(EXACT).as_tuple().digits
        assert 1 <= len(digits) <= 15


rows = st.builds(
    Row,
    customer=st.sampled_from(["cus_1", "cus_2", "cus_free"]),
    meter=st.sampled_from(["tokens", "calls", "unbilled"]),
    usage=nanos.map(plain),
    as_of=st.datetimes(datetime(2026, 10, 1), datetime(2027, 1, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis takes bounds without a zone
    period_start=st.just(NOVEMBER),
    period_end=st.just(DECEMBER),
)
#: Batches of frames of rows, and after each batch whether the process dies and is restored.
histories = st.lists(
    st.tuples(
        st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=3), st.booleans()
    ),
    max_size=8,
)


@given(histories)
def test_deltas_add_up_to_the_last_usage_over_any_batches_and_restarts(
    history: list[tuple[list[list[Row]], bool]],
) -> None:
    bill, written = Bill(SHARD), list[Outgoing]()
    last: dict[tuple[str, str, datetime], Decimal] = {}
    for frames, dies in history:
        written += bill.step(DEFINITIONS, WRITTEN_MS, [totals(*frame) for frame in frames])
        if dies:
            bill = Bill(SHARD, frozen(written))
        for row in (row for frame in frames for row in frame):
            if row.meter != "unbilled" and row.customer != "cus_free":
                last[row.customer, row.meter, row.period_start] = Decimal(row.usage)
    sums = billed(written)
    assert {key: sums.get(key, Decimal(0)) for key in last} == last
    assert sums.keys() <= last.keys()
    identifiers = [delta.identifier for delta in deltas(written)]
    assert len(set(identifiers)) == len(identifiers)
    for delta in deltas(written):
        assert NOVEMBER.timestamp() <= delta.timestamp < DECEMBER.timestamp()
        assert delta.identifier.startswith("meterline-")


@given(histories)
def test_the_same_totals_freeze_the_same_deltas_again(
    history: list[tuple[list[list[Row]], bool]],
) -> None:
    def run(restarts: bool) -> list[Outgoing]:
        bill, written = Bill(SHARD), list[Outgoing]()
        for frames, _ in history:
            if restarts:
                bill = Bill(SHARD, frozen(written))
            written += bill.step(DEFINITIONS, WRITTEN_MS, [totals(*frame) for frame in frames])
        return written

    assert run(restarts=True) == run(restarts=False)
