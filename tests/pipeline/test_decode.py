"""Records become events in both modes of CloudEvents, or are refused with a reason."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pipeline.decode import decode_data, decode_event
from pipeline.errors import Reject
from pipeline.record import Headers
from schemas.publish import PUBLISHED
from schemas.usage_event import NAME_CHARACTERS_MAX
from tests.pipeline.decoding import NAMES, refused, said, texts
from tests.pipeline.usage_log import binary, core, event, record

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
    assert decode_data(envelope, NAMES, is_read=True) == ({"n": 1}, b'{"n": 1}')


@pytest.mark.parametrize("value", [None, b""])
def test_an_event_may_have_no_data(value: bytes | None) -> None:
    assert said(binary(value))[-1] == said(record(event(data=None)))[-1] == b""


def test_data_may_be_null() -> None:
    null = record(event(data="HERE").replace(b'"HERE"', b"null"))
    assert decode_data(decode_event(null)[0]) == (None, b"null")
    assert said(binary(b"null")) == said(null)


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


@pytest.mark.parametrize(
    "changed",
    [
        {},
        *({name: None} for name in ("specversion", "id", "source", "type", "subject", "time")),
        *({name: ""} for name in ("specversion", "id", "source", "type", "subject")),
        *({name: "é" * NAME_CHARACTERS_MAX} for name in ("id", "source", "type", "subject")),
        *({name: "é" * (NAME_CHARACTERS_MAX + 1)} for name in ("id", "source", "type", "subject")),
        {"specversion": "0.3"},
        {"datacontenttype": 5},
    ],
    ids=lambda changed: " ".join(f"{name}={value!s:.9}" for name, value in changed.items()),
)
def test_the_published_schema_takes_what_is_taken_here(changed: dict[str, object]) -> None:
    schema = json.loads((PUBLISHED / "usage_event.schema.json").read_text())
    sent = event(**changed)
    is_refused = bool(refused(record(sent)))
    assert is_refused != Draft202012Validator(schema).is_valid(json.loads(sent))


def test_a_version_that_is_missing_is_said_to_be_missing() -> None:
    with pytest.raises(Reject, match=r"^specversion is missing\."):
        decode_event(record(event(specversion=None)))
    with pytest.raises(Reject, match=r"^specversion is '0\.3', not '1\.0'"):
        decode_event(record(event(specversion="0.3")))


@pytest.mark.parametrize("text", ["!", "MQ", "é", "MQ==MQ=="])
def test_faulty_base64_is_refused_even_where_no_meter_reads_it(text: str) -> None:
    arriving = event(data=None, data_base64=text, datacontenttype="text/plain")
    assert refused(record(arriving), names=()) == "invalid_data"
