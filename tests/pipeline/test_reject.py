"""A dead letter can be replayed: nothing of it is lost or changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Reject
from pipeline.record import Headers, Record
from pipeline.reject import rejected
from schemas import rejection, topics
from tests.pipeline.usage_log import core

headers = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=4).map(tuple)


@core(200)
@given(st.none() | st.binary(), st.none() | st.binary(), headers, st.text())
def test_key_value_and_headers_are_kept_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: Headers, message: str
) -> None:
    record = Record("usage.events", 3, 1_207, 1_795_253_400_125, key, value, headers)
    letter = rejected(record, Reject("ambiguous", message, remedy="Say it once."))
    assert letter.topic == topics.REJECTED.name
    assert (letter.key, letter.value, letter.headers[: len(headers)]) == (key, value, headers)
    assert letter.partition is None
    added = dict(letter.headers[len(headers) :])
    assert added == {
        rejection.HEADER_TOPIC: b"usage.events",
        rejection.HEADER_PARTITION: b"3",
        rejection.HEADER_OFFSET: b"1207",
        rejection.HEADER_STAGE: b"intake",
        rejection.HEADER_RECEIVED_AT: b"1795253400125",
        rejection.HEADER_REASON: b"ambiguous",
        rejection.HEADER_MESSAGE: message.encode(errors="backslashreplace"),
        rejection.HEADER_REMEDY: b"Say it once.",
    }
