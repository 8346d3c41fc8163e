"""Totals counted anew in SQL are what the same events make in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from pipeline.reconcile_bill import milliseconds
from pipeline.reconcile_totals import Key, Selection
from schemas.meter import Aggregation, Meter, Period
from schemas.quantity import NANOS
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.recompute import outcomes, recomputed, stored_totals, why_not_recomputed

START = datetime(2026, 11, 20, tzinfo=UTC)
LONG = "99999999999999999999999999999.123456789"

#: As services may write one and the same value, and its exact value.
LITERALS = [
    ("1", 1), ('"2"', 2), ("1e3", 1000), ('"1E+3"', 1000), ('"+5"', 5), ('".5"', Fraction(1, 2)),
    ("-1.25", Fraction(-5, 4)), ("1.0000000000", 1), ('"1e-9"', Fraction(1, NANOS)),
    ('"\\u0031\\u0032"', 12), ("12345678901234567890", 12345678901234567890),
    ('"99999999999999999999999999999.123456789"',
     Fraction("99999999999999999999999999999.123456789")),
    ("123456.789012345", Fraction("123456.789012345")),
]  # fmt: skip


def meter(aggregation: Aggregation, period: Period = "month", value: str = "$.n.v[1]") -> Meter:
    return Meter(
        slug="m",
        event_type="t",
        aggregation=aggregation,
        value=None if aggregation == "count" else value,
        period=period,
    )


def insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Accepted events; each row says what is not usual about it."""
    usual = {
        "customer": "cus", "type": "t", "source": "/s", "data": b"{}", "received_at": START,
        "source_partition": 0, "late_for": [], "version": 1, "definitions": "d",
    }  # fmt: skip
    events = [
        usual | {"id": str(n), "source_offset": n, "time": START} | row
        for n, row in enumerate(rows)
    ]
    columns = {name: [event[name] for event in events] for name in events[0]}
    table = pa.table(columns | {"time": pa.array(columns["time"], pa.timestamp("ns", "UTC"))})
    with connection.client() as client:
        client.insert_arrow("events", table)


def data(literal: str) -> bytes:
    return b'{"n":{"v":[null,%s]},"other":"x"}' % literal.encode()


def units(connection: Connection, of: Meter, *without: str) -> dict[tuple[str, int], int | None]:
    with connection.client() as client:
        found = recomputed(client, of, without, Selection())
    return {(key.customer, key.start_ms): again.units for key, again in found.items()}


@pytest.mark.parametrize(("literal", "value"), LITERALS)
def test_every_way_to_write_a_number_is_read_exactly(
    clickhouse: Connection, literal: str, value: int | Fraction
) -> None:
    insert(clickhouse, [{"data": data(literal)}])
    assert list(units(clickhouse, meter("sum")).values()) == [value * NANOS]


@pytest.mark.parametrize(("literal", "value"), [*LITERALS, (LONG, Fraction(LONG))])
def test_data_that_is_itself_the_number_is_read_exactly(
    clickhouse: Connection, literal: str, value: int | Fraction
) -> None:
    insert(clickhouse, [{"data": literal.encode()}])
    assert list(units(clickhouse, meter("sum", value="$")).values()) == [value * NANOS]


@pytest.mark.parametrize(
    "literal",
    [
        LONG, f"-{LONG}", "1234567890.123456789", f"{LONG}e0", "9007199254740993e0",
        "-9007199254740993E-3", "900719925474099.3e1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ['{"n":{"v":%s},"other":"v"}', '{"n": {"m": [1], "v" :\n%s }}'])
def test_a_number_of_many_digits_is_read_from_the_text(
    clickhouse: Connection, literal: str, form: str
) -> None:
    insert(clickhouse, [{"data": (form % literal).encode()}])
    found = units(clickhouse, meter("sum", value="$.n.v"))
    assert list(found.values()) == [Fraction(literal) * NANOS]


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("$.n.v[1]", '{"n":{"v":[null,%s]}}'),
        ("$.n.v", '{"v":1,"n":{"v":%s}}'),
        ("$.n.v", '{"n":{"v":%s},"v":1}'),
        ("$.n.v", '{"n":{"\\u0076":%s},"o":{"v":1}}'),
        ("$.n['v w']", '{"n":{"v w":%s}}'),
    ],
)
def test_a_number_that_sql_may_round_or_mistake_is_not_taken(
    clickhouse: Connection, value: str, form: str
) -> None:
    insert(clickhouse, [{"data": (form % LONG).encode()}])
    assert list(units(clickhouse, meter("sum", value=value)).values()) == [None]


@pytest.mark.parametrize("aggregation", ["count", "sum", "max", "min", "latest"])
@pytest.mark.parametrize("period", ["month", "day"])
def test_each_aggregation_is_counted_by_customer_and_period(
    clickhouse: Connection, aggregation: Aggregation, period: Period
) -> None:
    rng = Random(7)
    events: list[dict[str, Any]] = [
        {
            "customer": f"cus_{rng.randrange(3)}",
            "time": START + timedelta(hours=rng.randrange(24 * 20), microseconds=n),
            "value": rng.randrange(-(10**12), 10**12),
        }
        for n in range(300)
    ]
    rows = [
        {
            "customer": e["customer"],
            "time": e["time"],
            "data": data(f"{Decimal(e['value']) / 1000}"),
        }
        for e in events
    ]
    insert(clickhouse, rows)
    expected: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in events:
        time = event["time"]
        day = time.replace(hour=0, minute=0, second=0, microsecond=0)
        start = day.replace(day=1) if period == "month" else day
        expected.setdefault((event["customer"], milliseconds(start)), []).append(event)
    reduce: dict[str, Callable[[list[dict[str, Any]]], int]] = {
        "count": lambda group: len(group) * NANOS,
        "sum": lambda group: sum(e["value"] for e in group) * NANOS // 1000,
        "max": lambda group: max(e["value"] for e in group) * NANOS // 1000,
        "min": lambda group: min(e["value"] for e in group) * NANOS // 1000,
        "latest": lambda group: max(group, key=lambda e: e["time"])["value"] * NANOS // 1000,
    }
    found = units(clickhouse, meter(aggregation, period))
    assert found == {key: reduce[aggregation](group) for key, group in expected.items()}


def test_of_latest_events_in_one_pack_only_those_of_one_partition_have_an_order(
    clickhouse: Connection,
) -> None:
    insert(
        clickhouse,
        [
            {"customer": customer, "source_partition": partition, "version": version, "data": data}
            for customer, partition, version, data in (
                ("one partition", 1, 1, data("1")),
                ("one partition", 1, 1, data("2")),
                ("several", 1, 1, data("3")),
                ("several", 0, 1, data("4")),
                ("several packs", 1, 1, data("5")),
                ("several packs", 0, 2, data("6")),
            )
        ],
    )
    found = {customer: value for (customer, _), value in units(clickhouse, meter("latest")).items()}
    assert found == {"one partition": 2 * NANOS, "several": None, "several packs": 6 * NANOS}


def test_left_out_is_what_its_meter_did_not_count(clickhouse: Connection) -> None:
    insert(
        clickhouse,
        [
            {"data": data("1")},
            {"data": data("10"), "late_for": ["m"]},
            {"data": data("100"), "late_for": ["other"]},
            {"data": data("1000"), "definitions": "before the meter"},
            {"data": data("10000"), "type": "other"},
        ],
    )
    assert list(units(clickhouse, meter("sum"), "before the meter").values()) == [101 * NANOS]


def test_an_event_after_the_total_s_version_is_not_in_it(clickhouse: Connection) -> None:
    insert(clickhouse, [{"version": 4}, {"version": 5}, {"version": 6}])
    with clickhouse.client() as client:
        client.command(
            "INSERT INTO totals (customer, meter, period_start, period_end, group_key, value, "
            "usage, events, version) VALUES ('cus', 'm', '2026-11-01', '2026-12-01', '{}', 2, 2, "
            "2, 5)"
        )
        ((key, again),) = recomputed(client, meter("count"), [], Selection()).items()
    assert key == Key("cus", "m", milliseconds(datetime(2026, 11, 1, tzinfo=UTC)))
    assert (again.events, again.units, again.newest) == (2, 2 * NANOS, 5)
    assert (again.version, again.counted, again.usage) == (5, 2, 2 * NANOS)


def test_only_selected_periods_and_customers_are_counted(clickhouse: Connection) -> None:
    insert(clickhouse, [{}, {"customer": "other"}, {"time": START - timedelta(days=40)}])
    november = milliseconds(datetime(2026, 11, 1, tzinfo=UTC))
    selection = Selection(from_ms=november, customer="cus")
    with clickhouse.client() as client:
        assert list(recomputed(client, meter("count"), [], selection)) == [
            Key("cus", "m", november)
        ]


@pytest.mark.parametrize("year", [2262, 2263, 2299, 2300, 9999])
def test_in_a_period_after_the_last_event_there_is_nothing(
    clickhouse: Connection, year: int
) -> None:
    insert(clickhouse, [{}])
    selection = Selection(from_ms=milliseconds(datetime(year, 5, 1, tzinfo=UTC)))
    with clickhouse.client() as client:
        assert recomputed(client, meter("count"), [], selection) == {}
        assert stored_totals(client, selection) == {}


def test_positions_are_counted_between_two_bounds_of_each_partition(
    clickhouse: Connection,
) -> None:
    insert(clickhouse, [{"source_partition": n % 2, "source_offset": n} for n in range(20)])
    with clickhouse.client() as client:
        found = outcomes(client, [4, 0], [9, 1_000])
        assert outcomes(client, [0], [5]) == [(0, "accepted", 3, 0 + 2 + 4)]
    assert sorted(found) == [
        (0, "accepted", 3, 4 + 6 + 8),
        (1, "accepted", 10, sum(range(1, 20, 2))),
    ]


def test_every_aggregation_and_period_of_the_schema_can_be_counted_anew() -> None:
    for aggregation in ("count", "sum", "max", "min", "latest"):
        assert why_not_recomputed(meter(aggregation)) is None
