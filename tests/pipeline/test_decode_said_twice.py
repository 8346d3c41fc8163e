"""An event says everything once: nothing is smuggled in by headers or data, or said again."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import decode_event
from pipeline.record import Headers
from tests.pipeline.decoding import refused, texts
from tests.pipeline.usage_log import binary, core, event, record

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
