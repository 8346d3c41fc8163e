"""Binary mode is read together as it is read record by record, and what is usual is made so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Intake
from pipeline.record import Headers, Record, Records
from pipeline.restructure import restructured
from tests.pipeline.apart import assert_read_alike, seen
from tests.pipeline.taking_in import HUNGRY
from tests.pipeline.usage_log import binary, core, record

DATA = b'{"n": 12, "model": "small"}'
STRUCTURED = (
    b'{"specversion":"1.0","id":"1","source":"/test","type":"llm","subject":"cus_1",'
    b'"time":"2026-11-20T09:30:00Z","datacontenttype":"application/json","data":' + DATA + b"}"
)
USUAL = binary(DATA)

VALUES = [DATA, b"{}", b"", None, b" ", b"[]", b"7", b"null", b'{"n":1}{', b'{"n":1} ', b' {"n":1}',
          b'{"n":1},"id":"2"', b'{"n":1},"x":{"n":2}', b'{"n":"}"}', b'{"n":"\\"}', b'{"n":"\\\\"}',
          b'{"n":1}}', b'{"n":[1}', b'{"n":{"a":"]"}}', b'{"n":1,"n":2}', b"\xff", b'{"n":"\xff"}',
          "{\"n\":1.5,\"model\":\"é\"}".encode(), b'{"n":1', b'"}', b"{\x00}"]  # fmt: skip
NAMES = ["ce_id", "CE_ID", "ce_Subject", "ce_", "ce_data", "ce_data_base64", "ce_datacontenttype",
         "ce_dat", "ce_traceparent", 'ce_"', "ce_\\", "ce_\n", "ce_é", "é", "", "c",
         "content-type", "Content-Type", "content-typ", "content-type2", "traceparent",
         "ce_time", "cE_a b"]  # fmt: skip
TEXTS = [b"", None, b"1", b"a b", b'"', b"\\", b"\n", b"\x00", b"\x7f", "é".encode(), b"\xff",
         b"application/json", b"application/json; charset=utf-8", b"application/json2",
         b'application/json;charset="utf-8"', b"APPLICATION/JSON", b"application/avro",
         b"application/vnd.x+json", b"text/json", b"application/cloudevents+json",
         b"application/cloudevents-batch+json", b"2026-11-20T09:30:00+02:00",
         b"x" * 40]  # fmt: skip


@st.composite
def arrivals(draw: st.DrawFn) -> Record:
    """Records of every form between a usual one in binary mode and no event at all."""
    headers: list[Any] = list(USUAL.headers)
    if draw(st.booleans()):
        headers.pop(draw(st.integers(0, len(headers) - 1)))
    added = st.tuples(st.sampled_from(NAMES), st.sampled_from(TEXTS))
    for header in draw(st.lists(added, max_size=3)):
        headers.insert(draw(st.integers(0, len(headers))), header)
    return record(draw(st.sampled_from(VALUES)), headers=tuple(headers))


def arriving_as(*records: Record) -> list[Record]:
    return [record(each.value, offset, each.headers) for offset, each in enumerate(records)]


@core(500)
@given(st.lists(arrivals(), min_size=1, max_size=5))
def test_whatever_arrives_is_read_as_it_is_read_one_by_one(arrived: list[Record]) -> None:
    arriving = arriving_as(USUAL, *arrived, record(STRUCTURED))
    assert_read_alike(arriving, HUNGRY)


@pytest.mark.parametrize("name", NAMES)
def test_any_header_may_stand_beside_those_of_a_usual_event(name: str) -> None:
    for text in TEXTS:
        header: Any = (name, text)
        others = [each for each in USUAL.headers if each[0] != name.lower()]
        for headers in ((header, *USUAL.headers), (*USUAL.headers, header), (header, *others)):
            assert_read_alike([record(DATA, headers=headers)], HUNGRY)


@pytest.mark.parametrize("value", VALUES)
def test_any_value_may_stand_below_the_headers_of_a_usual_event(value: bytes | None) -> None:
    for headers in (USUAL.headers, USUAL.headers[:-1], (*USUAL.headers, ("ce_x", b"1"))):
        assert_read_alike([record(value, headers=headers)], HUNGRY)


def made(*records: Record) -> list[bytes | None]:
    """What becomes of values; None where it is not said to be structured mode."""
    texts, usual = restructured(Records(records))
    octets = texts.octets.tobytes()
    bounds = texts.bounds.tolist()
    return [
        octets[bounds[number] : bounds[number + 1]] if is_usual else None
        for number, is_usual in enumerate(usual.tolist())
    ]


def test_a_usual_event_in_binary_mode_becomes_structured_mode() -> None:
    assert made(record(b"first"), USUAL, record(STRUCTURED), USUAL) == [
        b"first",
        STRUCTURED,
        STRUCTURED,
        STRUCTURED,
    ]


@pytest.mark.parametrize(
    "headers",
    [
        (*USUAL.headers, ("traceparent", b"00-1")),
        (("__TypeId__", b"com.example.Usage"), *USUAL.headers),
        tuple((name.upper(), text) for name, text in USUAL.headers),
        tuple(reversed(USUAL.headers)),
        USUAL.headers[:-1],
        (*USUAL.headers[:-1], ("content-type", b"application/json; charset=UTF-8")),
        (*USUAL.headers, ("ce_partitionkey", "größe".encode())),
    ],
)
def test_what_client_libraries_send_is_usual(headers: Headers) -> None:
    arriving = arriving_as(record(DATA, headers=headers))
    (text,) = made(*arriving)
    assert text is not None
    (pack,) = seen(Intake(HUNGRY, shards=1).step(arriving))
    assert repr(text) in repr(pack)


def test_an_attribute_that_stands_twice_is_not_usual_whatever_its_name() -> None:
    twice = record(DATA, headers=(*USUAL.headers, ("ce_tenant", b"1"), ("CE_Tenant", b"2")))
    assert made(twice) == [None]
    assert_read_alike([twice], HUNGRY)


def test_no_value_passes_for_more_than_data() -> None:
    smuggled = DATA + b',"subject2":"cus_2"'
    assert made(record(smuggled, headers=USUAL.headers)) == [None]


def test_many_records_keep_their_places_and_their_bytes() -> None:
    records = [record(b"%d" % n, headers=() if n % 3 else USUAL.headers) for n in range(1_000)]
    texts, usual = restructured(Records(records))
    assert texts.octets.tobytes()[: texts.bounds[-1]] == b"".join(b"%d" % n for n in range(1_000))
    assert usual.tolist() == [n % 3 != 0 for n in range(1_000)]
