"""What is scanned is read exactly as event by event, and what is usual is scanned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Intake
from pipeline.measure import readings
from pipeline.record import Record
from pipeline.scan import Scanned, Scanner
from pipeline.words import Texts
from schemas import topics
from schemas.definitions import Definitions
from tests.pipeline.apart import assert_read_alike, one_by_one, seen
from tests.pipeline.usage_log import NOVEMBER_20_MS, core

DEFINITIONS = Definitions.model_validate(
    {
        "meters": [
            {
                "slug": "tokens",
                "event_type": "llm",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"model": "$.model", "long": "$['a name of many letters']"},
            },
            {
                "slug": "calls",
                "event_type": "call",
                "aggregation": "count",
                "group_by": {"model": '$["model"]', "n": "$['n']"},
            },
            {"slug": "peak", "event_type": "disk", "aggregation": "max", "value": "$.bytes"},
            {
                "slug": "deep",
                "event_type": "deep",
                "aggregation": "sum",
                "value": "$.usage.n",
                "group_by": {"model": "$.usage.a.model"},
            },
            {
                "slug": "both",
                "event_type": "both",
                "aggregation": "sum",
                "value": "$.n",
                "group_by": {"n": "$.bytes", "a": "$.usage.a"},
            },
            {
                "slug": "wholes",
                "event_type": "whole",
                "aggregation": "count",
                "group_by": {"all": "$", "first": "$[0]"},
            },
        ],
        "plans": [{"slug": "free"}],
        "default_plan": "free",
    }
)

USUAL = (
    b'{"specversion":"1.0","id":"7","source":"/gateway/eu-1","type":"llm","subject":"cus_1",'
    b'"time":"2026-11-20T09:30:00.125Z","data":{"n":12,"model":"small"}}'
)

SPACES = ["", "", "", " ", "\n", "\t ", "\r\n"]
NAMES = ["7", "8", "cus_1", "a b", "", "é", "x" * 20, '\\"', "\\u0041", "\x7f", "\x1f", "日本",
         "n", "a" * 7 + "é", "😀" * 3, "é" * 256, "x" * 513]  # fmt: skip
TIMES = [
    "2026-11-20T09:30:00Z",
    "2026-11-20T09:30:00.1Z",
    "2026-11-20T09:30:00.123456789Z",
    "2026-11-20T09:30:00.1234567891Z",
    "2026-11-20T09:30:00.Z",
    "2026-11-20T09:30:00z",
    "2026-11-20t09:30:00Z",
    "2026-11-20 09:30:00Z",
    "2026-11-20T09:30:00+01:00",
    "2026-11-20T09:30:00.5-23:59",
    "2026-11-20T09:30:00.123456+00:00",
    "2026-11-20T09:30:00.123456789-00:00",
    "2026-11-20T09:30:00.1234567891+00:00",
    "2026-11-20T09:30:00.+00:00",
    "2026-11-20T09:30:00+24:00",
    "2026-11-20T09:30:00+01:60",
    "2026-11-20T09:30:00+0100",
    "2026-11-20T09:30:00+1:000",
    "2026-11-20T09:30:00",
    "2026-11-20T09:30+01:00",
    "2026-11-20T09:30:00=01:00",
    "1970-01-01T00:30:00+01:00",
    "1969-12-31T23:30:00-01:00",
    "2261-12-31T23:59:59-23:59",
    "2026-11-20T24:00:00Z",
    "2026-11-20T09:60:00Z",
    "2026-11-20T09:30:60Z",
    "2024-02-29T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "2100-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-01-00T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "2261-12-31T23:59:59.999999999Z",
    "2262-04-10T00:00:00Z",
    "2262-04-11T00:00:00Z",
    "2026-11-20T09:3a:00Z",
    "2026/11/20T09:30:00Z",
    "",
]
SCALARS = [
    '"small"', '""', '"a\\nb"', '"é"', "0", "-0", "7", "-7", "007", "12345", "999999999999999999",
    "1000000000000000000", "-999999999999999999", "1.5", "0.10", "1.", ".5", "1e3", "1E400", "+1",
    "true", "null", "[1]", '{"n":1}', '"12.5"', "1.0000000000000000001", "--1", "-", "1 2", "",
    "false", "nul", "truer", "[]", "{}", "[ ]", "[1,]", "[,1]", "[1 2]", "[1,[true,{}],\"a\"]",
    '[{"n":1},{"n":2}]', '{"n":1,"n":2}', '{"a":{"model":"deep","n":[]}}', '{"n":3,"a":null}',
    '{"n":"4.25","a":{"model":"m"}}', '{"a":1,"a":2}', '{"a" 1}', '{"a":}', '{"a":1,}', "[1}",
    '{"a":1]', "[" * 60 + "]" * 60, "[" * 59 + "]" * 59, '[[{"a":"}"}],"]"]', "[[1]", "[1]]",
    '"\\/"', '"\\u00e9"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\u00g1"', '"\\x"', '"\\', '"\\u12"',
    '"😀"', '"1."', '".5"', '"-7"', '"+7"', '"007"', '"-0.50"', '" 1"', '"1e3"', '"1_0"', '"1.2.3"',
    '"-"', '""', '"0.0000000001"', '"0.1000000000"', '"9223372036.854775807"', '"12345678901.5"',
    "0.123456789", "-0.0", "-0.5", "9223372036.854775808", "922337203685477580.7", "1.50", "2.000",
    "1e-7", "1E+5", "1e", "1e+", "1e1000", "1.5e3", "0e0", '"999999999999999999"',
]  # fmt: skip
MEMBERS = ["n", "n", "model", "model", "bytes", "usage", "usage", "a", "a name of many letters",
           "a name of many letterz", "N", "", "é", "\\u006e", "other"]  # fmt: skip

#: On either side of each limit of what is well-formed.
CHARACTERS = [
    b"\x7f", b"\x80", b"\xbf", b"\xc1\xbf", b"\xc2\x80", b"\xc2\x7f", b"\xdf\xbf", b"\xdf\xc0",
    b"\xdf", b"\xe0\x9f\xbf", b"\xe0\xa0\x80", b"\xe1\x80\x7f", b"\xed\x9f\xbf", b"\xed\xa0\x80",
    b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xef\xbf", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80",
    b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf1\x80\x80\xc0", b"\xf1\x80\xc0\x80",
    b"\xf5\x80\x80\x80", b"\xff", b"abcdefg\xc3\xa9h", b"\xf1\x80\x80", b"\\u0041", b"\\ud7ff",
    b"\\ud800", b"\\udbff\\udc00", b"\\udfff", b"\\ue000", b"\\U0041", b"\\u00zz", b"\\u:041",
    b"\\uFfFf", b"\\uGGGG", b"\\u@041", b"\\u`041", b"\\n", b"\\a", b"\\", b"\\u004", b"\x00",
    b"\x1f", b"a\nb",
]  # fmt: skip

WHOLE_DATA = ['{"n":5,"model":"m"}', "[5]", "null", "7", '"text"', '{"usage":{"n":1.5}}',
              '{"usage" : { "n":2, "a":{"model":"é"} , "x":["a"]} ,"y":{}}']  # fmt: skip

spaces = st.sampled_from(SPACES)
members = st.lists(st.tuples(st.sampled_from(MEMBERS), st.sampled_from(SCALARS)), max_size=5)


def quoted(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return texts.map(lambda text: f'"{text}"')


@st.composite
def data_texts(draw: st.DrawFn) -> str:
    """Mostly objects, some of them no JSON."""
    written = (f'"{name}"{draw(spaces)}:{draw(spaces)}{text}' for name, text in draw(members))
    return f"{{{draw(spaces)}{','.join(written)}{draw(spaces)}}}"


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """Events of every form between the usual one and no event at all."""
    types = ["llm", "llm", "call", "disk", "deep", "deep", "both", "whole", "unknown"]
    attributes = [
        ("specversion", draw(st.sampled_from(['"1.0"'] * 9 + ['"1.1"', '"1.00"', "1.0"]))),
        ("id", draw(quoted(st.sampled_from(NAMES)))),
        ("source", draw(quoted(st.sampled_from(NAMES)))),
        ("type", draw(quoted(st.sampled_from(types)))),
        ("subject", draw(quoted(st.sampled_from(NAMES)))),
        ("time", draw(quoted(st.sampled_from(TIMES)))),
        ("data", draw(data_texts() | st.sampled_from(WHOLE_DATA))),
    ]
    more = [
        ("datacontenttype", draw(quoted(st.sampled_from(["application/json", "text/plain"])))),
        ("data_base64", '"e30="'),
        ("traceparent", '"00-1"'),
        ("extension", draw(st.sampled_from(SCALARS))),
        ("id", '"9"'),
        ("data", '{"n":1}'),
    ]
    attributes += draw(st.lists(st.sampled_from(more), max_size=2)) if draw(st.booleans()) else []
    if draw(st.booleans()):
        attributes = draw(st.permutations(attributes))
    if draw(st.integers(0, 9)) == 0:
        attributes.pop(draw(st.integers(0, len(attributes) - 1)))
    space = draw(spaces)
    inner = f",{space}".join(f'"{name}"{space}:{space}{text}' for name, text in attributes)
    return f"{space}{{{inner}{space}}}{draw(spaces)}".encode()


def records(texts: Sequence[bytes | None]) -> list[Record]:
    return [
        Record(topics.EVENTS.name, number % 3, number, NOVEMBER_20_MS + number, b"k", text)
        for number, text in enumerate(texts)
    ]


@core(400)
@given(st.lists(values(), min_size=1, max_size=6))
def test_whatever_arrives_is_read_as_it_is_read_one_by_one(texts: list[bytes]) -> None:
    arriving = records([USUAL, *texts, USUAL])
    assert_read_alike(arriving, DEFINITIONS)


@core(300)
@given(st.integers(0, len(USUAL) - 1), st.integers(0, 255), st.booleans())
def test_any_byte_of_a_usual_event_may_be_another_or_missing(
    place: int, octet: int, is_missing: bool
) -> None:
    broken = USUAL[:place] + (b"" if is_missing else bytes([octet])) + USUAL[place + 1 :]
    arriving = records([USUAL, broken, USUAL])
    assert_read_alike(arriving, DEFINITIONS)


@pytest.mark.parametrize("length", range(len(USUAL)))
def test_an_event_that_was_cut_off_does_not_run_on_into_the_next(length: int) -> None:
    arriving = records([USUAL[:length], USUAL[length:], USUAL])
    assert_read_alike(arriving, DEFINITIONS)


def alone(texts: Iterable[bytes]) -> None:
    """Each of `texts`, beside a usual event, is read as it is read one by one."""
    for text in texts:
        assert_read_alike(records([text, USUAL]), DEFINITIONS)


@pytest.mark.parametrize("event_type", ["llm", "call", "deep", "both", "unknown"])
@pytest.mark.parametrize("name", ["n", "model", "usage", "bytes", "other", "N"])
def test_any_member_of_a_usual_event_may_be_anything(name: str, event_type: str) -> None:
    good = {"n": "12", "model": '"small"', "usage": '{"n":3,"a":{"model":"m"}}'}
    usual = USUAL.replace(b"llm", event_type.encode())
    for scalar in SCALARS:
        members = (f'"{key}":{text}' for key, text in (good | {name: scalar}).items())
        alone([usual.replace(b'{"n":12,"model":"small"}', f"{{{','.join(members)}}}".encode())])


@pytest.mark.parametrize("part", [b"7", b"/gateway/eu-1", b"cus_1", b"llm", b"small", b"time"])
def test_any_text_of_a_usual_event_may_be_any_other(part: bytes) -> None:
    texts = [text.encode() for text in NAMES] + CHARACTERS
    alone(USUAL.replace(b'"%b"' % part, b'"%b"' % text) for text in texts)


@pytest.mark.parametrize("text", CHARACTERS)
def test_what_nobody_reads_is_utf_8_as_well(text: bytes) -> None:
    alone([USUAL.replace(b'"model"', b'"other":"%b","model"' % text)])
    alone([USUAL.replace(b'"model"', b'"other":["%b"],"model"' % text)])
    alone([USUAL.replace(b'"model"', b'"%b":1,"model"' % text)])
    alone([USUAL.replace(b'"id"', b'"other":"%b","id"' % text)])


@pytest.mark.parametrize("again", [b'"n":12', b'"n":null', b'"model":"b"', b'"usage":{}', b'"x":1'])
@pytest.mark.parametrize("event_type", [b"llm", b"call", b"deep", b"unknown"])
def test_a_member_may_stand_twice(event_type: bytes, again: bytes) -> None:
    usual = USUAL.replace(b"llm", event_type).replace(b"}}", b',"usage":{"n":1},"x":{"n":2}}}')
    alone([usual.replace(b'"model"', b'%b,"model"' % again)])
    alone([usual.replace(b"}}}", b",%b}}}" % again), usual.replace(b"}},", b",%b}}," % again)])


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "subject", "time", "data"])
def test_an_attribute_may_stand_twice(name: str) -> None:
    again = b'"%b":"7",' % name.encode()
    alone([USUAL.replace(b'"id"', again + b'"id"'), USUAL.replace(b'"data"', again + b'"data"')])
    alone([USUAL[:-1] + b"," + again[:-1] + b"}"])


@pytest.mark.parametrize(
    "more", [b"}", b",", b',"x":1}', b',"x":{}}', b"{}", b"]", b'"', b" ", b"\0"]
)
def test_an_event_ends_where_its_object_ends(more: bytes) -> None:
    without_data = USUAL.replace(b',"data":{"n":12,"model":"small"}', b"")
    alone([USUAL + more, USUAL[:-1] + more, without_data + more, USUAL + more + USUAL])
    alone([USUAL.replace(b'"model"', b'"other":{}%b,"model"' % more)])
    alone([USUAL.replace(b'"model"', b'"other":[]%b,"model"' % more)])


def test_the_time_of_a_usual_event_may_be_anything() -> None:
    alone(USUAL.replace(b"2026-11-20T09:30:00.125Z", time.encode()) for time in TIMES)


def scanned(*texts: bytes) -> Scanned:
    return Scanner(readings(DEFINITIONS)).scan(Texts.of(texts), np.ones(len(texts), np.bool_))


@pytest.mark.parametrize(
    "text",
    [
        USUAL,
        USUAL.replace(b":", b": ").replace(b"T09: 30: 00", b"T09:30:00").replace(b",", b", "),
        USUAL.replace(b".125Z", b"Z"),
        USUAL.replace(b'"data"', b'"datacontenttype":"application/json","data"'),
        USUAL.replace(b'"data"', b'"traceparent":"00-0af7","data"'),
        USUAL.replace(b"llm", b"unknown"),
        USUAL.replace(b":12,", b":-12,"),
        USUAL.replace(b'"model"', b'"share":0.25,"model"'),
        USUAL.replace(b"llm", b"call").replace(b',"data":{"n":12,"model":"small"}', b""),
        USUAL.replace(b"}}", b',"other":"text"}}\n'),
        USUAL.replace(b".125Z", b".125000+00:00"),
        USUAL.replace(b".125Z", b"-07:30"),
        USUAL.replace(b":12,", b":12.5,"),
        USUAL.replace(b":12,", b':"12.5",'),
        USUAL.replace(b":12,", b':"12",'),
        USUAL.replace(b"cus_1", "Zoë".encode()),
        USUAL.replace(b"small", "小😀".encode()),
        USUAL.replace(b'"small"', b"null"),
        USUAL.replace(b'"small"', b"true"),
        USUAL.replace(b"}}", b',"tags":["a",{"b":[1e-7,null]}],"stream":false}}'),
        USUAL.replace(b"}}", b',"parts":[{"n":1,"model":"a"},{"n":2,"model":"b"}]}}'),
        USUAL.replace(b"}}", b',"prompt":"line\\n\\"two\\" \\u00e9"}}'),
        USUAL.replace(b'"data"', b'"sampled":true,"baggage":{"a":[]},"data"'),
        USUAL.replace(b"llm", b"deep").replace(b'"n":12', b'"usage":{"n":12,"a":{"model":"m"}}'),
    ],
)
def test_what_most_services_send_is_usual(text: bytes) -> None:
    assert scanned(text).rows.tolist() == [0]


@pytest.mark.parametrize("path", ["$.model", "$['model']", '$["model"]'])
def test_a_member_is_found_in_whichever_way_its_path_is_written(path: str) -> None:
    two = readings(
        Definitions.model_validate(
            {
                "meters": [
                    DEFINITIONS.meters[0].model_dump(),
                    {
                        "slug": "calls",
                        "event_type": "llm",
                        "aggregation": "count",
                        "group_by": {"model": path},
                    },
                ],
                "plans": [{"slug": "free"}],
                "default_plan": "free",
            }
        )
    )
    found = Scanner(two).scan(Texts.of([USUAL]), np.ones(1, np.bool_))
    assert found.texts(path).to_pylist() == ["small"]


def test_the_slow_way_is_only_for_what_is_not_usual() -> None:
    odd = USUAL.replace(b"cus_1", b"Zo\\u00eb")
    assert scanned(USUAL, odd, b"", USUAL).rows.tolist() == [0, 3]


def test_many_events_in_any_order_keep_their_places() -> None:
    random = Random(7)
    texts = []
    for number in range(3_000):
        text = USUAL.replace(b'"7"', b'"%d"' % number).replace(b"cus_1", b"cus_%d" % (number % 50))
        if random.random() < 0.2:
            text = text.replace(b"small", b"gro\\u00df")
        if random.random() < 0.2:
            text = text.replace(b":12,", b":0.%d," % random.randrange(1, 1_000))
        texts.append(text)
    arriving = records(texts)
    assert seen(Intake(DEFINITIONS, shards=5).step(arriving)) == seen(
        one_by_one(arriving, DEFINITIONS, shards=5)
    )
