"""Read models give back what was written, exactly and once."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import pytest

from schemas.total import Total
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.read import alerts, ledger, top_customers, totals
from sinks.clickhouse.write import ClickHouseSink
from tests.sinks.clickhouse.seeded_log import SeededLog


@pytest.fixture
def filled(clickhouse: Connection) -> tuple[Connection, SeededLog]:
    """A database with a whole log, written twice."""
    log = SeededLog(4)
    for _ in range(2):
        sink = ClickHouseSink(clickhouse)
        sink.write([record for of_place in log.records.values() for record in of_place], 0)
    return clickhouse, log


def test_the_ledger_counts_every_record_once(filled: tuple[Connection, SeededLog]) -> None:
    connection, log = filled
    aside = Counter(row[-1] for row in log.expected["set_aside"].values())
    with connection.client() as client:
        assert ledger(client) == {
            "accepted": len(log.expected["events"]),
            "duplicate": aside["duplicate"],
            "conflict": aside["conflict"],
            "late": aside["late"],
            "unknown": aside["unknown"],
            "rejected": len(log.expected["rejections"]),
        }


def test_an_empty_ledger_names_every_outcome(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        assert ledger(client) == dict.fromkeys(
            ("accepted", "duplicate", "conflict", "late", "unknown", "rejected"), 0
        )


def _key(total: Total) -> tuple[str, str, int, str]:
    group = json.dumps(total.group, sort_keys=True, ensure_ascii=False)
    return total.customer, total.meter, int(total.period_start.timestamp() * 1000), group


def test_totals_come_back_as_they_were_sent(filled: tuple[Connection, SeededLog]) -> None:
    connection, log = filled
    with connection.client() as client:
        found = totals(client)
    assert [
        (total.group, total.value, total.usage, total.events, total.version) for total in found
    ] == [log.expected["totals"][_key(total)] for total in found]
    assert {_key(total) for total in found} == log.expected["totals"].keys()
    assert len(found) == len(log.expected["totals"])
    assert all(total.period_start.utcoffset() is not None for total in found)
    assert found == sorted(found, key=lambda total: (total.customer, total.meter))


def test_alerts_come_back_in_the_order_of_their_crossing(
    filled: tuple[Connection, SeededLog],
) -> None:
    connection, log = filled
    with connection.client() as client:
        found = alerts(client)
    assert [alert.crossed_at for alert in found] == sorted(alert.crossed_at for alert in found)
    assert {alert.customer: alert.value for alert in found} == {
        key[0]: row[3] for key, row in log.expected["alerts"].items()
    }


def test_top_customers_are_ranked_in_each_meter_and_period(
    filled: tuple[Connection, SeededLog],
) -> None:
    connection, _ = filled
    with connection.client() as client:
        every = top_customers(client, 1_000_000)
        top = top_customers(client, 2)
    for place in {(each.meter, each.period_start) for each in every}:
        here = [each for each in every if (each.meter, each.period_start) == place]
        ranked = sorted(here, key=lambda each: (-Decimal(each.usage), each.customer))
        assert here == ranked
        assert [each for each in top if (each.meter, each.period_start) == place] == ranked[:2]
