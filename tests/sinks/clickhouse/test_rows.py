"""Rows say exactly what travelled: every digit, every byte, the newest version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from pipeline.errors import Reject, Stop
from pipeline.record import Record
from pipeline.reject import rejected
from schemas import topics
from schemas.frame import Frame, Kind
from schemas.total import TOTAL_COLUMNS
from sinks.clickhouse.connect import Connection
from sinks.clickhouse.rows import alert_rows, delivery_rows, rejection_rows, total_rows
from sinks.clickhouse.write import ClickHouseSink

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
EXACT = [
    "0",
    "12.5",
    "-0.000000001",
    "9" * 38,
    "0." + "1" * 9,
    "-" + "7" * 60 + ".000000001",
    "9" * 67 + "." + "9" * 9,
]


def totals(version: int, values: Sequence[str], group: str = "{}") -> Frame:
    """A frame of totals: one customer for each value."""
    rows = [
        {
            "customer": f"cus_{number}",
            "meter": "tokens",
            "period_start": NOVEMBER,
            "period_end": datetime(2026, 12, 1, tzinfo=UTC),
            "group": group,
            "value": value,
            "usage": value,
            "events": 1,
            "as_of": NOVEMBER,
        }
        for number, value in enumerate(values)
    ]
    part = pa.RecordBatch.from_pylist(rows, schema=TOTAL_COLUMNS)
    return Frame(Kind.TOTALS, {"version": version}, (part,))


def test_every_digit_of_a_total_arrives(clickhouse: Connection) -> None:
    with clickhouse.client() as client:
        client.insert_arrow("totals", total_rows([totals(1, EXACT)]))
        rows = client.query(
            "SELECT toString(value), usage FROM totals FINAL ORDER BY customer"
        ).result_rows
    assert rows == [(value, Decimal(value)) for value in EXACT]


@pytest.mark.parametrize("value", ["1" + "0" * 67, "0.1234567891", "NaN", "Infinity", ""])
def test_a_total_that_would_lose_digits_stops_the_sink(value: str) -> None:
    with pytest.raises(Stop, match="widest decimal"):
        total_rows([totals(1, [value])])


def test_of_one_total_only_the_newest_version_is_written_whatever_the_order() -> None:
    for versions in ([5, 9, 7], [9, 5, 7], [7, 9, 5, 9]):
        frames = [totals(version, [f"{version}", f"{version}.5"]) for version in versions]
        rows = total_rows(frames)
        assert rows.column("version").to_pylist() == [9, 9]
        assert sorted(rows.column("value").to_pylist()) == [Decimal("9"), Decimal("9.5")]


def test_groups_are_part_of_what_makes_a_total(clickhouse: Connection) -> None:
    groups = ['{"model":"m","region":""}', '{"model":"n\\u0000\'","region":"\\ud83d\\udca9"}', "{}"]
    frames = [totals(index, ["1"], group) for index, group in enumerate(groups)]
    with clickhouse.client() as client:
        client.insert_arrow("totals", total_rows(frames))
        rows = client.query("SELECT group_key, `group` FROM totals FINAL").result_rows
    assert {row[0]: row[1] for row in rows} == {
        groups[0]: {"model": "m", "region": ""},
        groups[1]: {"model": "n\0'", "region": "\N{PILE OF POO}"},
        groups[2]: {},
    }


@pytest.mark.parametrize(
    "original", [b"\xff\xfe\x00", b"", None, b"{\x00", "\N{PILE OF POO}".encode(), b"x" * 3_000_000]
)
def test_a_rejection_keeps_the_original_bytes(
    clickhouse: Connection, original: bytes | None
) -> None:
    """Its sender may use the names of our headers; ours count."""
    headers = (("__connect.errors.offset", b"not a number"), ("meterline.reason", b"\xff"))
    record = Record(topics.EVENTS.name, 3, 1207, 1_795_000_000_125, b"key", original, headers)
    reason = Reject("malformed_json", "It is not JSON: \ud800.", remedy="Send JSON.")
    outgoing = rejected(record, reason)
    letter = Record(outgoing.topic, 0, 0, 0, outgoing.key, outgoing.value, outgoing.headers)
    ClickHouseSink(clickhouse).write([letter], 0)
    with clickhouse.client() as client:
        rows = client.query(
            "SELECT source_partition, source_offset, toUnixTimestamp64Milli(received_at), reason, "
            "message, remedy, hex(original) FROM rejections FINAL"
        ).result_rows
    assert rows == [
        (
            3,
            1207,
            1_795_000_000_125,
            "malformed_json",
            "It is not JSON: \\ud800.",
            "Send JSON.",
            (original or b"").hex().upper(),
        )
    ]


@pytest.mark.parametrize("received_ms", [-(2**63), -1, 0, 9_223_286_400_000, 2**63 - 1])
def test_a_rejection_of_an_impossible_arrival_can_be_read(
    clickhouse: Connection, received_ms: int
) -> None:
    record = Record(topics.EVENTS.name, 3, 1207, received_ms, None, b"{}", ())
    outgoing = rejected(record, Reject("invalid_arrival", f"{received_ms} ms.", remedy="Mend it."))
    letter = Record(outgoing.topic, 0, 0, 0, None, outgoing.value, outgoing.headers)
    ClickHouseSink(clickhouse).write([letter], 0)
    with clickhouse.client() as client:
        ((received_at, message),) = client.query(
            "SELECT received_at, message FROM rejections FINAL"
        ).result_rows
    assert received_at.year in (1970, 2261)
    assert message == f"{received_ms} ms."


def test_rejections_of_one_packed_record_are_rows_of_their_own(clickhouse: Connection) -> None:
    reason = Reject("malformed_json", "It is not JSON.", remedy="Send JSON.")
    for index in (0, 3, 3):
        record = Record(topics.EVENTS.name, 3, 1207, 1_795_000_000_125, None, b"7", (), index)
        outgoing = rejected(record, reason)
        letter = Record(outgoing.topic, 0, index, 0, None, outgoing.value, outgoing.headers)
        ClickHouseSink(clickhouse).write([letter], 0)
    with clickhouse.client() as client:
        rows = client.query(
            "SELECT source_partition, source_offset, source_index FROM rejections FINAL"
        ).result_rows
    assert {tuple(row) for row in rows} == {(3, 1207, 0), (3, 1207, 3)}
    assert len(rows) == 2


def test_what_others_wrote_to_our_topics_stops_the_sink() -> None:
    record = Record(topics.ALERTS.name, 1, 8, 0, None, b'{"customer": "secret"}')
    for rows in (alert_rows, delivery_rows, rejection_rows):
        with pytest.raises(Stop, match=r"usage\.alerts-1 at offset 8") as stop:
            rows([record])
        assert "secret" not in str(stop.value)
