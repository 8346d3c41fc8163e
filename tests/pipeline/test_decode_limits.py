"""Numbers are exact, and texts, depth and size have limits that any bytes are held to."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import EVENT_BYTES_MAX, decode_data, decode_event
from pipeline.nesting import NESTING_MAX
from tests.pipeline.decoding import refused, texts
from tests.pipeline.usage_log import binary, core, event, record


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


@pytest.mark.parametrize("depth", [NESTING_MAX, NESTING_MAX + 1, 900, 1_000, 9_000, 100_000])
@pytest.mark.parametrize("place", ["specversion", "subject", "data", "data_base64", "extension"])
def test_what_is_nested_more_deeply_than_every_reader_can_go_is_refused(
    depth: int, place: str
) -> None:
    for backslash in ("", "\n"):
        structured = event(backslash, **{place: "HERE"}).replace(b'"HERE"', nested(depth))
        assert refused(record(structured)) == "malformed_json"
    assert refused(binary(nested(depth))) == "invalid_data"
    assert refused(record(in_base64(nested(depth)))) == "invalid_data"


def test_nesting_is_accepted_however_deep_in_calls_the_reader_stands() -> None:
    # The event itself is one level.
    for depth, backslash in product((1, 50, NESTING_MAX - 1), ("", "\n")):
        for place in ("data", "extension"):
            arriving = event(backslash or "1", **{place: "HERE"}).replace(b'"HERE"', nested(depth))
            assert not refused(record(arriving))
            assert not called_deeply(partial(refused, record(arriving)))
        assert not refused(binary(nested(depth)))
        assert not refused(record(in_base64(nested(depth))))


def in_base64(data: bytes) -> bytes:
    return event(data=None, data_base64=base64.b64encode(data).decode())


def called_deeply(read: Callable[[], str], calls: int = 500) -> str:
    return called_deeply(read, calls - 1) if calls else read()


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
