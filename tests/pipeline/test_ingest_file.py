"""Lines of a file of CloudEvents are sent as they stand, less their arrival time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Stop
from pipeline.ingest_file import Line, read_ndjson, unmarked

EVENT = b'{"id": "1", "subject": "cus_1"}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def read(*lines: bytes) -> list[Line]:
    return list(read_ndjson(lines))


def test_the_key_is_the_customer_and_the_bytes_stay_as_they_are() -> None:
    spaced = b'  {"subject" :"caf\xc3\xa9",\t"data":{"n":1.50}}  '
    assert read(spaced + b"\r\n") == [Line("café".encode(), spaced, None)]


def test_blank_lines_are_skipped() -> None:
    assert read(b"\n", b"  \r\n", b"", EVENT) == [Line(b"cus_1", EVENT, None)]


def test_a_byte_order_mark_before_a_file_is_no_part_of_its_first_line() -> None:
    mark = b"\xef\xbb\xbf"
    assert list(unmarked([mark + EVENT, EVENT, mark + EVENT])) == [EVENT, EVENT, mark + EVENT]
    assert list(unmarked([])) == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_file_in_utf_16_is_refused(encoding: str) -> None:
    with pytest.raises(Stop, match="UTF-16") as stop:
        list(unmarked([("\ufeff" + EVENT.decode()).encode(encoding)]))
    assert "UTF-8" in stop.value.remedy


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"subject": "cus_1"',
        b'{"subject": "\\ud800"}',
        b'{"subject": "\xff"}',
        b'["subject", "cus_1"]',
        b'"receivedat"',
        b'{"subject": ["cus_1"]}',
        b'{"subject": ""}',
        b"[" * 100_000,
        b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x00",
        '{"größe":"x","receivedat":"1970-01-01T00:00:01Z"}'.encode("latin-1"),
        b'{"\xff":"x","receivedat":"1970-01-01T00:00:01Z"}',
        b'{"\\ud800":"x","receivedat":"1970-01-01T00:00:01Z"}',
    ],
)
def test_a_broken_line_is_sent_as_it_stands(line: bytes) -> None:
    assert read(line) == [Line(None, line, None)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1,"receivedat":"%s"}', b'{"a":1}'),
        (b'{"receivedat":"%s","a":1}', b'{"a":1}'),
        (b'{ "a" : 1 , "receivedat" : "%s" , "b" : 2 }', b'{ "a" : 1 , "b" : 2 }'),
        (b'{"receivedat":"%s"}', b"{}"),
        (b'{"received\\u0061t":"%s","a":1}', b'{"a":1}'),
        (b'{"receivedat":1,"a":1,"receivedat":"%s"}', b'{"a":1}'),
        (
            b'{"a":{"receivedat":"x"},"b":["receivedat",{}],"c":"receivedat","receivedat":"%s"}',
            b'{"a":{"receivedat":"x"},"b":["receivedat",{}],"c":"receivedat"}',
        ),
        (b'{"a":"\\",\\"receivedat\\":","receivedat":"%s"}', b'{"a":"\\",\\"receivedat\\":"}'),
    ],
)
def test_the_arrival_time_is_taken_out_and_nothing_else(before: bytes, after: bytes) -> None:
    at = b"1970-01-01T01:00:01.5009+01:00"
    assert read(before % at) == [Line(None, after, 1_500)]


@pytest.mark.parametrize("at", ['"soon"', '"2026-11-20T12:00:00"', "17", "null"])
def test_what_is_no_time_stays_where_it_is(at: str) -> None:
    line = f'{{"receivedat":{at},"subject":"cus_1"}}'.encode()
    assert read(line) == [Line(b"cus_1", line, None)]


@given(
    before=st.dictionaries(st.text(), JSON, max_size=4),
    after=st.dictionaries(st.text(), JSON, max_size=4),
    spaces=st.sampled_from([None, 1, "\t"]),
    ascii_only=st.booleans(),
)
def test_any_event_is_the_same_less_its_arrival_time(
    before: dict[str, object], after: dict[str, object], spaces: int | str | None, ascii_only: bool
) -> None:
    other = before | after
    other.pop("receivedat", None)
    event = {**before, "receivedat": "1970-01-01T00:00:01Z", **other}
    event["receivedat"] = "1970-01-01T00:00:01Z"
    text = json.dumps(event, indent=spaces, ensure_ascii=ascii_only)
    (line,) = read(text.encode())
    assert line.timestamp_ms == 1_000
    assert json.loads(line.value) == other
    assert list(json.loads(line.value)) == [name for name in event if name != "receivedat"]


@given(name=st.binary(max_size=4), text=st.binary(max_size=4))
def test_no_name_and_no_text_beside_an_arrival_time_make_it_fail(name: bytes, text: bytes) -> None:
    read(b'{"%s":"%s","receivedat":"1970-01-01T00:00:01Z"}' % (name, text))


@given(st.binary())
def test_no_bytes_make_it_fail_or_change_without_an_arrival_time(line: bytes) -> None:
    assert [read_line.value for read_line in read(line)] in ([], [line.rstrip(b"\r\n")])
