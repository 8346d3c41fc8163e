"""Records become events in both modes of CloudEvents, or are refused with a reason."""

from __future__ import annotations

import base64
import json
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import (
    EVENT_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    decode_data,
    decode_event,
)
from pipeline.errors import Reject
from pipeline.record import Headers, Record
from tests.pipeline.usage_log import binary, core, event, record

NAMES = (b'"n"', b'"model"')


def refused(arriving: Record, names: tuple[bytes, ...] = NAMES) -> str:
    """The reason why a record is refused; empty if it is an event."""
    try:
        decode_data(decode_event(arriving)[0], names)
    except Reject as reject:
        return reject.reason if reject.message and reject.remedy else "without a word"
    return ""


def said(arriving: Record) -> tuple[object, ...]:
    """What an event says, its data as the bytes that were sent."""
    envelope, _ = decode_event(arriving)
    attributes = (envelope.id, envelope.source, envelope.type, envelope.subject, envelope.time)
    return (*attributes, decode_data(envelope)[1])


# Modes


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE"])
@pytest.mark.parametrize(
    "content_type",
    [
        b"application/cloudevents+json",
        b"Application/CloudEvents+JSON; charset=UTF-8",
        b"application/cloudevents",
    ],
)
def test_a_cloudevents_content_type_in_any_case_is_structured_mode(
    name: str, content_type: bytes
) -> None:
    headers = ((name, content_type), ("ce_id", b"another"))
    assert said(record(event("7"), headers=headers)) == said(record(event("7")))


@pytest.mark.parametrize("prefix", ["ce_", "CE_", "Ce_"])
@pytest.mark.parametrize("content_type", ["content-type", "Content-Type", None])
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_binary_mode_is_read_in_every_case_of_its_headers(
    prefix: str, content_type: str | None, spelling: type[str]
) -> None:
    lower = binary(b'{"n": 1, "model": "m"}')
    headers: Headers = tuple(
        (prefix + spelling(name[3:]), value)
        for name, value in lower.headers
        if name.startswith("ce_")
    )
    if content_type is not None:
        headers += ((content_type, b"application/json"),)
    assert said(record(lower.value, headers=headers)) == said(record(event()))


@pytest.mark.parametrize("headers", [(), (("content-type", b"application/cloudevents+json"),)])
def test_json_without_any_header_is_structured_mode(headers: Headers) -> None:
    assert decode_event(record(event(), headers=headers))[1] == event()
    assert refused(record(b"[]", headers=headers)) == "not_a_cloudevent"


def test_headers_of_others_do_not_matter() -> None:
    headers = (("traceparent", b"\xff\xfe"), ("x-ce_id", b"no"), ("traceparent", b"again"))
    assert said(record(event(), headers=headers)) == said(record(event()))


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/cloudevents-batch+json",
        b"application/cloudevents-batch+json; charset=utf-8",
        b"application/cloudevents+avro",
        b"Application/CloudEvents+XML",
    ],
)
def test_batch_mode_and_other_formats_are_refused(content_type: bytes) -> None:
    batch = b"[" + event() + b"]"
    assert refused(record(batch, headers=(("content-type", content_type),))) == "unsupported_mode"


def test_a_batch_without_headers_is_refused() -> None:
    assert refused(record(b"[" + event() + b"]")) == "not_a_cloudevent"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@core(200)
@given(texts, texts, values, st.booleans(), st.sampled_from(["", " ", "\n "]))
def test_both_modes_say_the_same(
    event_id: str, source: str, data: object, ascii_only: bool, around: str
) -> None:
    written = json.dumps(data, ensure_ascii=ascii_only)
    structured = event(event_id, source=source, data="HERE").replace(b'"HERE"', written.encode())
    in_headers = binary((around + written + around).encode(), id=event_id, source=source)
    assert said(in_headers) == said(record(structured))
    assert said(in_headers)[-1] == written.encode()


def test_data_in_base64_says_the_same_as_data_in_clear() -> None:
    encoded = base64.b64encode(b'{"n": 1, "model": "m"}').decode()
    assert said(record(event(data=None, data_base64=encoded))) == said(record(event()))


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/octet-stream", b"text/xml"])
def test_data_of_another_type_is_kept_byte_for_byte_where_no_meter_reads_it(
    content_type: bytes,
) -> None:
    arriving = binary(b"\xff\x00 1,2", content_type)
    assert said(arriving)[-1] == b"\xff\x00 1,2"
    assert refused(arriving, names=NAMES) == "invalid_data"


@pytest.mark.parametrize(
    "content_type",
    [b"application/json; charset=utf-8", b"text/json", b"application/vnd.usage+json", None],
)
def test_json_by_any_name_is_read(content_type: bytes | None) -> None:
    envelope, _ = decode_event(binary(b'{"n": 1}', content_type))
    assert decode_data(envelope, NAMES) == ({"n": 1}, b'{"n": 1}')


@pytest.mark.parametrize("value", [None, b""])
def test_an_event_may_have_no_data(value: bytes | None) -> None:
    assert said(binary(value))[-1] == said(record(event(data=None)))[-1] == b""


def test_data_may_be_null() -> None:
    null = record(event(data="HERE").replace(b'"HERE"', b"null"))
    assert decode_data(decode_event(null)[0]) == (None, b"null")
    assert said(binary(b"null")) == said(null)


# What binary mode could smuggle


@pytest.mark.parametrize(
    "value",
    [
        b'1,"id":"x"',
        b'1,"data_base64":"MQ=="',
        b'1},{"id":"x"',
        b'{"n":1}}',
        b'{"n":1},"subject":"cus_2"',
        b"",
    ],
)
def test_data_cannot_smuggle_attributes_in(value: bytes) -> None:
    arriving = binary(value)
    assert refused(arriving) == ("invalid_data" if value else "")


@pytest.mark.parametrize("name", ["ce_data", "CE_Data", "ce_data_base64"])
@pytest.mark.parametrize("value", [b'{"n": 1}', b"", None])
def test_a_header_cannot_stand_for_the_data(name: str, value: bytes | None) -> None:
    good = binary(value)
    headers = (*good.headers, (name, b"MTAwMA=="))
    assert refused(record(value, headers=headers)) == "invalid_attribute"


@pytest.mark.parametrize("other", [b"2", b"1"])
@pytest.mark.parametrize("name", ["ce_id", "CE_ID", "ce_specversion", "ce_extension"])
def test_a_header_that_occurs_twice_is_ambiguous(name: str, other: bytes) -> None:
    good = binary(b"1")
    headers = (*good.headers, ("ce_extension", b"1"), (name, other))
    assert refused(record(good.value, headers=headers)) == "ambiguous"


def test_two_content_types_are_ambiguous() -> None:
    good = binary(b"1")
    headers = (*good.headers, ("Content-Type", b"application/cloudevents+json"))
    assert refused(record(good.value, headers=headers)) == "ambiguous"


@pytest.mark.parametrize("version", ["0.3", "", "1", "1.0 "])
def test_another_version_of_cloudevents_is_refused_in_both_modes(version: str) -> None:
    assert refused(binary(b"1", specversion=version)) == "not_a_cloudevent"
    assert refused(record(event(specversion=version))) == "not_a_cloudevent"


def test_headers_that_are_no_utf8_are_refused() -> None:
    headers = (*binary(b"1").headers, ("ce_x", b"\xff"))
    assert refused(record(b"1", headers=headers)) == "invalid_attribute"


def test_a_header_without_value_is_an_empty_attribute() -> None:
    headers: Headers = tuple(
        (name, None if name == "ce_subject" else value)  # type: ignore[misc]
        for name, value in binary(b"1").headers
    )
    assert refused(record(b"1", headers=headers)) == "invalid_attribute"


@core(100)
@given(texts, texts)
def test_names_and_texts_of_headers_are_only_ever_texts(name: str, text: str) -> None:
    arriving = binary(b"1")
    headers = (*arriving.headers, (f"ce_x{name}", text.encode()))
    envelope, original = decode_event(record(b"1", headers=headers))
    assert json.loads(original)[f"x{name}".lower()] == text
    assert envelope.subject == "cus_1"
    assert bytes(envelope.data) == b"1"


# Attributes


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "time"])
def test_every_attribute_that_is_needed_is_asked_for(name: str) -> None:
    assert refused(record(event(**{name: None}))) == "missing_attribute"
    null = event(**{name: "HERE"}).replace(b'"HERE"', b"null")
    assert refused(record(null)) == "missing_attribute"
    faulty: tuple[object, ...] = (1, True, [], {})
    for value in faulty:
        assert refused(record(event(**{name: value}))) == "invalid_attribute"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject"])
def test_an_empty_name_is_no_name(name: str) -> None:
    assert refused(record(event(**{name: ""}))) == "invalid_attribute"
    assert refused(binary(b"1", **{name: ""})) == "invalid_attribute"


@pytest.mark.parametrize("name", ["datacontenttype", "data_base64"])
def test_an_optional_attribute_is_a_text(name: str) -> None:
    assert refused(record(event(**{name: 5}))) == "invalid_attribute"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject"])
def test_names_are_small_beside_a_record(name: str) -> None:
    assert not refused(record(event(**{name: "é" * NAME_CHARACTERS_MAX})))
    too_long = record(event(**{name: "é" * (NAME_CHARACTERS_MAX + 1)}))
    assert refused(too_long) == "invalid_attribute"
    assert refused(binary(b"1", **{name: "x" * 100_000})) == "invalid_attribute"


@pytest.mark.parametrize("text", ["!", "MQ", "é", "MQ==MQ=="])
def test_faulty_base64_is_refused_even_where_no_meter_reads_it(text: str) -> None:
    arriving = event(data=None, data_base64=text, datacontenttype="text/plain")
    assert refused(record(arriving), names=()) == "invalid_data"


# What is said twice

MEMBERS = {
    "specversion": '"1.0"',
    "id": '"1"',
    "source": '"/test"',
    "type": '"llm"',
    "subject": '"cus_1"',
    "time": '"2026-11-20T09:30:00Z"',
    "data": '{"n": 1, "id": 2}',
    "datacontenttype": '"application/json"',
}


def escaped(name: str) -> str:
    """The name as JSON may also write it."""
    return "".join(f"\\u{ord(character):04x}" for character in name)


def document(*more: str, without: str = "") -> bytes:
    members = [f'"{name}": {value}' for name, value in MEMBERS.items() if name != without]
    return ("{" + ", ".join([*members, *more]) + "}").encode()


@pytest.mark.parametrize("spaces", ["", " "])
@pytest.mark.parametrize("extension", ["", '"x": "y"'])
@pytest.mark.parametrize(("name", "value"), MEMBERS.items())
def test_an_attribute_that_occurs_twice_is_ambiguous(
    name: str, value: str, extension: str, spaces: str
) -> None:
    more = [extension] if extension else []
    assert not refused(record(document(*more)))
    for written in (name, escaped(name[0]) + name[1:]):
        twice = document(*more, f'"{written}"{spaces}: {value}')
        assert refused(record(twice)) == "ambiguous"
        assert refused(record(document(*more, f'"{written}": null'))) != ""


#: Optional members, or some again, with values that look like JSON, or are no texts.
members = st.tuples(
    st.sampled_from([*MEMBERS, "extension"]),
    st.sampled_from(["x", "", "é", '"id"', "a,b", "\\", '"', "1.0", '":"', "llm", 1, None]),
)


@core(500)
@given(
    st.lists(members, max_size=3),
    st.booleans(),
    st.sampled_from(["", "data", "datacontenttype"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :")]),
    st.randoms(use_true_random=False),
)
def test_whatever_else_an_event_says_each_attribute_is_said_once(
    more: list[tuple[str, str | int | None]],
    ascii_only: bool,
    without: str,
    separators: tuple[str, str],
    random: Random,
) -> None:
    said_once = [(name, value) for name, value in MEMBERS.items() if name != without]
    added = [(name, json.dumps(text, ensure_ascii=ascii_only)) for name, text in more]
    all_members = [*said_once, *added]
    random.shuffle(all_members)
    comma, colon = separators
    text = comma.join(f'"{name}"{colon}{value}' for name, value in all_members)
    names = [name for name, _ in all_members if name != "extension"]
    reason = refused(record(f"{{{text}}}".encode()), names=())
    if len(set(names)) < len(names):
        assert reason
    else:
        # A content type may also be one that is not JSON, or no text.
        assert not reason or "datacontenttype" in dict(more)


@pytest.mark.parametrize(("name", "value"), MEMBERS.items())
def test_an_escaped_name_is_the_name(name: str, value: str) -> None:
    assert not refused(record(document(f'"{escaped(name)}": {value}', without=name)))


def test_data_in_both_forms_is_ambiguous() -> None:
    assert refused(record(event(data_base64="MQ=="))) == "ambiguous"
    twice = event(data=None, data_base64="MQ==", x=1).replace(b'"x": 1', b'"data_base64": "Mg=="')
    assert refused(record(twice)) == "ambiguous"


@pytest.mark.parametrize("extra", ["", "\\n", "{"])
def test_members_of_the_data_may_have_the_names_of_attributes(extra: str) -> None:
    data = {"id": [{"id": 1}], "time": {"data": {"source": extra}}, "type": "subject"}
    assert not refused(record(event(data=data)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"n": 1, "n": 1}', "ambiguous"),
        ('{"n": 1, "\\u006e": 2}', "ambiguous"),
        ('{"model": "a", "n": 1, "model": "a"}', "ambiguous"),
        ('{"n": 1, "other": 1, "other": 2}', ""),
        ('{"n": 1, "other": {"id": 1, "id": 2}}', ""),
        ('{"n": 1, "other": {"id": 1, "id": 2}, "text": "\\n"}', ""),
        ('{"n": 1, "list": [{"n": 1}, {"n": 2}]}', ""),
        ('{"n": "n", "model": "model"}', ""),
    ],
)
def test_only_what_is_read_from_the_data_must_be_said_once(data: str, expected: str) -> None:
    structured = event(data="HERE").replace(b'"HERE"', data.encode())
    assert refused(record(structured)) == expected
    assert refused(binary(data.encode())) == expected


# Numbers, texts, depth and size


def test_numbers_are_exact_at_any_size() -> None:
    texts = {
        "18446744073709551616": 18446744073709551616,
        "-9223372036854775809": -9223372036854775809,
        "99999999999999999999999999999999999999": 10**38 - 1,
        "1.0": 1,
        "1e3": 1000,
    }
    for text, number in texts.items():
        envelope, _ = decode_event(record(event(data="HERE").replace(b'"HERE"', text.encode())))
        data, sent = decode_data(envelope)
        assert type(data) is int
        assert (data, sent) == (number, text.encode())
    envelope, _ = decode_event(record(event(data="HERE").replace(b'"HERE"', b"0.1000000000000001")))
    assert str(decode_data(envelope)[0]) == "0.1000000000000001"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1"])
def test_what_is_no_json_number_is_refused(literal: str) -> None:
    structured = event(data="HERE").replace(b'"HERE"', literal.encode())
    assert refused(record(structured)) == "malformed_json"
    assert refused(binary(literal.encode())) == "invalid_data"


@pytest.mark.parametrize("text", [rb'"\ud800"', rb'"\udc00\ud800"', b'"\xed\xa0\x80"'])
@pytest.mark.parametrize("place", ["subject", "id", "data", "extension"])
def test_half_of_a_surrogate_pair_is_refused_everywhere(text: bytes, place: str) -> None:
    structured = event(**{place: "HERE"}).replace(b'"HERE"', text)
    assert refused(record(structured))


@pytest.mark.parametrize("place", ["subject", "data", "extension"])
def test_invalid_utf8_is_refused_everywhere_also_where_nobody_reads(place: str) -> None:
    structured = event(**{place: "HERE"}).replace(b"HERE", b"\xff")
    assert refused(record(structured)) == "malformed_json"
    assert refused(record(event()[:-1] + b', "\xff": 1}')) == "malformed_json"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [*range(900, 1010, 3), 100_000])
@pytest.mark.parametrize("place", ["specversion", "subject", "data", "data_base64", "extension"])
def test_no_depth_of_nesting_is_too_much_to_refuse(depth: int, place: str) -> None:
    for backslash in ("", "\n"):
        structured = event(backslash, **{place: "HERE"}).replace(b'"HERE"', nested(depth))
        reason = refused(record(structured))
        assert reason or place in ("data", "extension")
        assert reason or depth < 100_000
    if place == "data":
        assert refused(binary(nested(depth))) in ("", "invalid_data")


def test_ordinary_nesting_is_accepted() -> None:
    for depth, backslash in product((1, 50, 200), ("", "\n")):
        arriving = event(backslash or "1", data="HERE").replace(b'"HERE"', nested(depth))
        assert not refused(record(arriving))
        assert not refused(binary(nested(depth)))


@pytest.mark.parametrize("size", [EVENT_BYTES_MAX + 1, 10_000_000])
def test_a_large_body_is_refused_by_its_size_alone(size: int) -> None:
    for value in (b" " * size, b"[" * size, b"\xff" * size):
        assert refused(record(value)) == "too_large"
        assert refused(binary(value)) == "too_large"


def test_an_event_of_the_greatest_size_is_read() -> None:
    padding = "x" * (EVENT_BYTES_MAX - len(event(data={"pad": ""})))
    assert not refused(record(event(data={"pad": padding})))
    assert refused(record(event(data={"pad": padding + "x"}))) == "too_large"


@core(300)
@given(st.binary(max_size=60) | texts.map(str.encode), st.booleans())
def test_any_bytes_are_an_event_or_are_refused(value: bytes, headers: bool) -> None:
    refused(binary(value) if headers else record(value))
    refused(record(event(data="HERE").replace(b'"HERE"', value)))
    refused(record(event(id="HERE").replace(b'"HERE"', value)))
