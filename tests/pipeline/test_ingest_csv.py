"""Rows of a CSV file become usage events, letter by letter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Stop
from pipeline.ingest_csv import CsvMapping, parse_mapping, read_csv
from pipeline.ingest_file import Line

CONSTANTS = ["type=llm.request", "subject=cus_1"]
TRACE = [
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n",
    b"2023-11-16 18:17:03.9799600,4808,10\n",
    b"2023-11-16 18:17:04.0319600,3180,8\n",
]


def events(lines: list[bytes], *maps: str, utc: bool = True) -> list[dict[str, Any]]:
    mapping = parse_mapping("trace.csv", maps, CONSTANTS, utc)
    return [json.loads(line.value) for line in read_csv(lines, mapping)]


def cell(text: str) -> Any:
    """What a cell becomes in data."""
    quoted = '"' + text.replace('"', '""') + '"'
    lines = [b"at,x\n", f"2026-11-20T12:00:00Z,{quoted}\n".encode()]
    return events(lines, "time=at", "data.x=x")[0]["data"].get("x")


def test_columns_and_constants_make_an_event() -> None:
    assert events(TRACE, "time=TIMESTAMP", "data.tokens=ContextTokens")[1] == {
        "specversion": "1.0",
        "id": "2",
        "source": "trace.csv",
        "type": "llm.request",
        "subject": "cus_1",
        "time": "2023-11-16T18:17:04.0319600Z",
        "data": {"tokens": 3180},
    }


def test_the_customer_is_the_key_and_an_arrival_time_the_timestamp() -> None:
    mapping = parse_mapping(
        "f", ["time=at", "receivedat=in", "subject=who"], ["type=t", "id=7", "source=s"]
    )
    (line,) = read_csv([b"at,in,who\n", b"2026-11-20T12:00:00Z,1970-01-01T00:00:01Z,ann"], mapping)
    assert (line.key, line.timestamp_ms) == (b"ann", 1_000)
    event = json.loads(line.value)
    assert (event["id"], event["source"], "receivedat" in event) == ("7", "s", False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-7", -7),
        ("9" * 38, int("9" * 38)),
        ("9" * 39, "9" * 39),
        ("0.10", "0.10"),
        ("1e3", "1e3"),
        ("007", "007"),
        ("-0", "-0"),
        ("+1", "+1"),
        (" 1", " 1"),
        ("\u0661", "\u0661"),
        ("true", "true"),
        ("NaN", "NaN"),
        ('say "hi", twice', 'say "hi", twice'),
        ("", None),
    ],
)
def test_numbers_stay_exact_and_texts_stay_texts(text: str, value: Any) -> None:
    assert cell(text) == value


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_no_cell_is_silently_changed(text: str) -> None:
    assert str(cell(text)) == text


def test_sending_a_file_twice_sends_the_same_identities() -> None:
    mapping = parse_mapping("trace.csv", ["time=TIMESTAMP"], CONSTANTS, utc=True)
    assert list(read_csv(TRACE, mapping)) == list(read_csv(TRACE, mapping))


def test_a_byte_order_mark_and_blank_rows_are_skipped() -> None:
    assert len(events([b"\xef\xbb\xbf" + TRACE[0], TRACE[1], b"\n"], "time=TIMESTAMP")) == 1


def test_an_offset_in_the_file_wins_and_what_is_no_time_is_left_for_intake_to_reject() -> None:
    lines = [b"at\n", b"2026-11-20T12:00:00+01:00\n", b"yesterday\n"]
    times = [event["time"] for event in events(lines, "time=at")]
    assert times == ["2026-11-20T12:00:00+01:00", "yesterday"]


@pytest.mark.parametrize(
    ("lines", "utc", "says"),
    [
        (TRACE, False, "Row 1 .* without an offset.*--utc"),
        ([b"at\n"], True, "no column TIMESTAMP; it has at"),
        ([], True, "is empty"),
        ([b"\xef\xbb\xbf\n", TRACE[0]], True, "begins with an empty line"),
        ([b"TIMESTAMP,TIMESTAMP\n"], True, "several columns named TIMESTAMP"),
        ([TRACE[0], b"2023-11-16 18:17:03,1\n"], True, "Row 1 .* 2 cells, its header 3"),
        ([TRACE[0], b"\xff,1,2\n"], True, "Line 2 .* not UTF-8"),
        ([TRACE[0], b'"a"b,1,2\n'], True, "line 2: .* expected after.*double those inside"),
        ([*TRACE, b'"a\n', TRACE[1]], True, "line 4: unexpected end of data.*close each"),
        ([*TRACE, b'"a\n', b'"b",1,2\n'], True, "line 4: .* expected after.*close each"),
        ([*TRACE, b"x" * 200_000], True, "line 4: field larger than field limit.*cut cells"),
    ],
)
def test_what_cannot_be_sent_exactly_stops_with_a_remedy(
    lines: list[bytes], utc: bool, says: str
) -> None:
    with pytest.raises(Stop, match=says):
        events(lines, "time=TIMESTAMP", utc=utc)


def test_all_faults_of_a_mapping_are_named_at_once() -> None:
    with pytest.raises(Stop) as stop:
        parse_mapping("f", ["Tokens", "data=x", "id=a"], ["id=b"])
    for fault in ("'Tokens'", "'data=x'", "id is set twice", "type is neither", "time is neither"):
        assert fault in str(stop.value)


@pytest.mark.parametrize("target", ["Time", "user_id", "user-id", "data.", "data_base64", "", "é"])
def test_what_is_no_name_of_an_attribute_is_refused(target: str) -> None:
    with pytest.raises(Stop, match="is not target=value"):
        parse_mapping("f", ["time=at", f"{target}=x"], CONSTANTS)


def test_an_extension_is_an_attribute() -> None:
    extended = parse_mapping("f", ["time=at", "region1=x"], CONSTANTS)
    assert extended.columns["region1"] == "x"


@pytest.mark.parametrize("name", ["id", "source"])
def test_an_empty_cell_of_an_identity_is_none_for_intake_to_reject(name: str) -> None:
    lines = [b"at,it\n", b"2026-11-20T12:00:00Z,2\n", b"2026-11-20T12:00:00Z,\n"]
    first, second = events(lines, "time=at", f"{name}=it")
    assert first[name] == "2"
    assert name not in second


def test_an_empty_mapping_of_attributes_leaves_them_out() -> None:
    mapping = CsvMapping("f", {"time": "at"}, {"type": "t", "subject": ""})
    (line,) = read_csv([b"at\n", b"2026-11-20T12:00:00Z\n"], mapping)
    assert isinstance(line, Line)
    assert line.key is None
    assert "subject" not in json.loads(line.value)
