"""docs/for-analysts.md: every query in it runs, and the views say what it promises."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse.connect import Connection
from sinks.clickhouse.write import ClickHouseSink
from tests.sinks.clickhouse.seeded_log import SeededLog

PAGE = (Path(__file__).parents[3] / "docs/for-analysts.md").read_text("utf-8")
QUERIES = dict(re.findall(r"^## (.+?)\n.*?^```sql\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def filled(clickhouse: Connection) -> tuple[Connection, SeededLog]:
    """A database with a whole log, written twice."""
    log = SeededLog(3)
    for _ in range(2):
        sink = ClickHouseSink(clickhouse)
        sink.write([record for of_place in log.records.values() for record in of_place], 0)
    return clickhouse, log


def insert(client: Client, time: datetime, data: str) -> None:
    """One accepted event of cus_1."""
    client.insert(
        "events",
        [["cus_1", "llm.request", "/s", str(time), data, time]],
        column_names=["customer", "type", "source", "id", "data", "time"],
    )


def test_every_section_has_a_query() -> None:
    assert len(QUERIES) == PAGE.count("\n## ") == PAGE.count("```sql")


@pytest.mark.parametrize("title", QUERIES)
def test_a_query_of_the_page_runs(filled: tuple[Connection, SeededLog], title: str) -> None:
    sql = QUERIES[title].rstrip().rstrip(";")
    with filled[0].client() as client:
        if sql.startswith("CREATE"):
            client.command(sql)
            client.command("SYSTEM WAIT VIEW tokens_by_hour")
            sql = "SELECT hour, p99 FROM tokens_by_hour FINAL ORDER BY hour"
            assert sql in PAGE
        assert client.query_arrow(sql).column_names


def test_every_table_and_view_is_on_the_page(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        names = client.query(
            "SELECT name FROM system.tables WHERE database = currentDatabase() "
            "AND name NOT IN ('schema_migrations', 'totals')"
        ).result_rows
    assert [name for (name,) in names if f"| `{name}`" not in PAGE] == []


def test_use_by_day_is_exact(filled: tuple[Connection, SeededLog]) -> None:
    """Summed here from the events of the log."""
    connection, log = filled
    query = QUERIES["Use by day, from the events"].rstrip().rstrip(";")
    with connection.client() as client:
        rows = client.query(query.replace("llm.request", "call")).result_rows
    expected = [
        int(data.partition(": ")[2].rstrip("}") or 0)
        for customer, kind, _, _, _, data, *_ in log.expected["events"].values()
        if (customer, kind) == ("cus_1", "call")
    ]
    assert expected
    assert sum(tokens for *_, tokens in rows) == Decimal(sum(expected))
    assert sum(events for _, _, events, _ in rows) == len(expected)


@pytest.mark.parametrize(
    "literal",
    [
        "1234567890.123456789",
        "123456789012345678.5",
        "99999999.999999999",
        "-0.000000001",
        "12345678901234567890123",
        '"123456789012345678.5"',
        "1.5e3",
    ],
)
def test_use_by_day_keeps_every_digit(clickhouse: Connection, literal: str) -> None:
    data = f'{{"note": "\\"tokens\\":7", "in": [1], "tokens" : {literal}, "model": "m"}}'
    query = QUERIES["Use by day, from the events"].rstrip().rstrip(";")
    with clickhouse.client() as client:
        insert(client, datetime(2026, 11, 20, tzinfo=UTC), data)
        ((_, model, events, tokens),) = client.query(query).result_rows
    assert (model, events, tokens) == ("m", 1, Decimal(literal.strip('"')))


@pytest.mark.parametrize("title", ["A meter's p99 by hour", "A meter's p99 by hour, kept"])
def test_an_hour_long_ahead_is_an_hour_of_its_own(clickhouse: Connection, title: str) -> None:
    """A service may send any time that ClickHouse has, up to the year 2262."""
    query = QUERIES[title].rstrip().rstrip(";").rpartition("\nAS ")[2]
    with clickhouse.client() as client:
        insert(client, datetime(2150, 6, 1, 7, 30, tzinfo=UTC), '{"tokens": 5}')
        insert(client, datetime(2261, 12, 31, 23, 59, tzinfo=UTC), '{"tokens": 6}')
        rows = client.query(query).result_rows
    assert [tuple(row) for row in rows] == [
        (datetime(2150, 6, 1, 7, tzinfo=UTC), 1, 5.0),
        (datetime(2261, 12, 31, 23, tzinfo=UTC), 1, 6.0),
    ]


def test_every_conflict_is_shown_whoever_it_was_sent_for(clickhouse: Connection) -> None:
    query = QUERIES["Conflicts beside the event that counts"].rstrip().rstrip(";")
    time = datetime(2026, 11, 20, tzinfo=UTC)
    refused = [
        ("conflict", "cus_1", str(time), "of the same customer", 1),
        ("conflict", "cus_2", str(time), "of another one", 2),
        ("conflict", "cus_2", "late", "of one that does not count", 3),
        ("duplicate", "cus_1", str(time), "no conflict", 4),
    ]
    with clickhouse.client() as client:
        insert(client, time, "counts")
        client.insert(
            "set_aside",
            [[status, customer, "/s", id, *rest] for status, customer, id, *rest in refused],
            column_names=["status", "customer", "source", "id", "data", "source_offset"],
        )
        rows = client.query(query).result_rows
    assert sorted(map(tuple, rows)) == [
        ("/s", str(time), "cus_1", "counts", "cus_1", "of the same customer"),
        ("/s", str(time), "cus_1", "counts", "cus_2", "of another one"),
        ("/s", "late", "", "", "cus_2", "of one that does not count"),
    ]


def test_a_month_by_day_has_no_day_of_another_month(clickhouse: Connection) -> None:
    query = QUERIES["One customer's month by day"].rstrip().rstrip(";")
    with clickhouse.client() as client:
        for month, day in ((11, 30), (12, 1), (12, 31)):
            insert(client, datetime(2026, month, day, tzinfo=UTC), "{}")
        insert(client, datetime(2027, 1, 1, tzinfo=UTC), "{}")
        asked = query.replace("now('UTC')", "toDateTime('2026-12-05 10:00:00', 'UTC')")
        rows = client.query(asked).result_rows
    assert [day for day, *_ in rows] == [date(2026, 12, 1), date(2026, 12, 31)]


def test_a_month_by_group_has_every_day_of_a_meter_that_counts_days(
    clickhouse: Connection,
) -> None:
    query = QUERIES["One customer, this month, by group"].rstrip().rstrip(";")
    periods = [
        ("tokens", datetime(2026, 12, 1, tzinfo=UTC), 30),
        *(("largest", datetime(2026, 12, day, tzinfo=UTC), day) for day in (1, 2, 31)),
        ("largest", datetime(2026, 11, 30, tzinfo=UTC), 30),
        ("largest", datetime(2027, 1, 1, tzinfo=UTC), 1),
    ]
    with clickhouse.client() as client:
        client.insert(
            "totals",
            [["cus_1", meter, start, Decimal(value), 1] for meter, start, value in periods],
            column_names=["customer", "meter", "period_start", "value", "events"],
        )
        asked = query.replace("now('UTC')", "toDateTime('2026-12-05 10:00:00', 'UTC')")
        rows = client.query(asked).result_rows
    assert [(meter, start.day, value) for meter, start, _, value, _ in rows] == [
        ("largest", 1, 1),
        ("largest", 2, 2),
        ("largest", 31, 31),
        ("tokens", 1, 30),
    ]


@pytest.mark.parametrize("now", ["2026-12-01 00:00:00", "2026-12-03 23:59:59"])
def test_the_kept_hours_reach_to_the_end_of_a_month(clickhouse: Connection, now: str) -> None:
    """Asked anew when the hour is over, and until the grace time is."""
    _, _, query = QUERIES["A meter's p99 by hour, kept"].rstrip().rstrip(";").partition("\nAS ")
    with clickhouse.client() as client:
        insert(client, datetime(2026, 11, 30, 23, 59, tzinfo=UTC), '{"tokens": 5}')
        insert(client, datetime(2026, 11, 1, tzinfo=UTC), '{"tokens": 6}')
        asked = query.replace("now('UTC')", f"toDateTime('{now}', 'UTC')")
        rows = client.query(asked).result_rows
    assert sorted(map(tuple, rows)) == [
        (datetime(2026, 11, 1, tzinfo=UTC), 1, 6.0),
        (datetime(2026, 11, 30, 23, tzinfo=UTC), 1, 5.0),
    ]


def test_usage_over_all_groups_is_the_newest_one(filled: tuple[Connection, SeededLog]) -> None:
    connection, log = filled
    newest: dict[tuple[object, ...], tuple[int, str]] = {}
    for key, (_, _, usage, _, version) in log.expected["totals"].items():
        newest[key[:3]] = max(newest.get(key[:3], (-1, "")), (version, usage))
    with connection.client() as client:
        rows = client.query(
            "SELECT customer, meter, toUnixTimestamp64Milli(period_start), toString(usage) "
            "FROM usage_by_customer"
        ).result_rows
    assert {tuple(row[:3]): row[3] for row in rows} == {
        key: usage for key, (_, usage) in newest.items()
    }
    assert len(rows) == len(newest)
