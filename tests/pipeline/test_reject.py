"""A dead letter can be replayed: nothing of it is lost or changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.errors import Reject, Stop
from pipeline.record import Headers, Outgoing, Record
from pipeline.reject import DeadLetter, Wanted, customer_of, open_letter, rejected
from schemas import rejection, topics
from tests.pipeline.usage_log import NOVEMBER_20_MS, binary, core, event
from tests.pipeline.usage_log import record as sent

OURS = [value for name, value in vars(rejection).items() if name.startswith("HEADER_")]

# The names of intake's own headers too: of a dead letter that was sent again, or a hostile one.
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.text(max_size=5) | st.sampled_from(OURS), st.none() | st.binary(max_size=5)),
    max_size=12,
).map(tuple)
records = st.builds(
    Record,
    st.just("usage.events"),
    st.integers(0, 1_000),
    st.integers(0, 2**62),
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.binary(),
    st.none() | st.binary(),
    headers,
    st.sampled_from([0, 0, 1, 9_999]),
)


def as_read(outgoing: Outgoing, offset: int = 0) -> Record:
    """What intake wrote, read from usage.rejected."""
    return Record(outgoing.topic, 5, offset, 1, outgoing.key, outgoing.value, outgoing.headers)


def letter(original: Record, reason: str = "ambiguous") -> DeadLetter:
    return open_letter(as_read(rejected(original, Reject(reason, "Why.", remedy="How."))))


@core(200)
@given(records, st.text())
def test_key_value_and_headers_are_kept_byte_for_byte(record: Record, message: str) -> None:
    letter = rejected(record, Reject("ambiguous", message, remedy="Say it once."))
    kept = len(record.headers)
    assert letter.topic == topics.REJECTED.name
    assert (letter.key, letter.value, letter.headers[:kept]) == (
        record.key,
        record.value,
        record.headers,
    )
    assert letter.partition is None
    added = dict(letter.headers[kept:])
    assert added == {
        rejection.HEADER_TOPIC: b"usage.events",
        rejection.HEADER_PARTITION: b"%d" % record.partition,
        rejection.HEADER_OFFSET: b"%d" % record.offset,
        rejection.HEADER_STAGE: b"intake",
        rejection.HEADER_RECEIVED_AT: b"%d" % record.timestamp_ms,
        rejection.HEADER_REASON: b"ambiguous",
        rejection.HEADER_MESSAGE: message.encode(errors="backslashreplace"),
        rejection.HEADER_REMEDY: b"Say it once.",
        rejection.HEADER_INDEX: b"%d" % record.index,
    }


@core(300)
@given(records, st.text(), st.text())
def test_an_opened_letter_holds_the_record_as_intake_read_it(
    record: Record, message: str, remedy: str
) -> None:
    opened = open_letter(as_read(rejected(record, Reject("ambiguous", message, remedy=remedy))))
    assert opened.original == record
    assert opened.reason == "ambiguous"
    assert opened.message.encode() == message.encode(errors="backslashreplace")
    assert opened.remedy.encode() == remedy.encode(errors="backslashreplace")
    whole = f"{record.partition}/{record.offset}"
    assert str(opened.position) == (f"{whole}/{record.index}" if record.index else whole)


@core(50)
@given(records)
def test_a_letter_of_before_there_were_packed_records_opens_as_well(record: Record) -> None:
    record = structs.replace(record, index=0)
    written = as_read(rejected(record, Reject("ambiguous", "Why.", remedy="How.")))
    older = structs.replace(written, headers=written.headers[:-1])
    assert open_letter(older) == open_letter(written)


@core(100)
@given(records)
def test_a_letter_that_was_sent_again_as_it_was_opens_to_the_letter(record: Record) -> None:
    once = as_read(rejected(record, Reject("ambiguous", "Why.", remedy="How.")))
    twice = as_read(rejected(once, Reject("malformed_json", "Why.", remedy="How.")))
    assert open_letter(twice).original == once
    assert open_letter(open_letter(twice).original).original == record


MEBIBYTE = 1024 * 1024
LARGE = b"x" * (14 * MEBIBYTE)


def bytes_at_most(letter: Outgoing) -> int:
    """What it takes as a batch of its own that is not compressed: with fields go their lengths."""
    headers = sum(len(name.encode()) + len(text or b"") + 10 for name, text in letter.headers)
    return 100 + len(letter.key or b"") + len(letter.value or b"") + headers


@pytest.mark.parametrize(
    ("record", "left_out"),
    [
        (sent(LARGE), ""),
        (sent(LARGE, key=b"k"), "value"),
        (sent(LARGE * 3, key=b"k", headers=(("trace", b"1"),)), "value"),
        (sent(LARGE[1:], headers=(("", b""),)), "value"),
        (sent(b"{", headers=(("trace", LARGE),)), "key, value, headers"),
        (sent(b"{", headers=(("é" * len(LARGE), b""),)), "key, value, headers"),
        (sent(b"{", headers=(("", b""),) * 2_000_000), "key, value, headers"),
        (sent(None, key=LARGE + b"k"), "key, value, headers"),
    ],
    ids=["just fits", "with its key", "value", "lengths", "header", "name", "headers", "key"],
)
def test_a_letter_fits_into_its_topic_and_says_what_it_had_to_leave_out(
    record: Record, left_out: str
) -> None:
    why = Reject("too_large", "Too many bytes. " + "x" * 1_000, remedy="Send fewer.")
    outgoing = rejected(record, why)
    assert bytes_at_most(outgoing) <= int(topics.REJECTED.config["max.message.bytes"])
    letter = open_letter(as_read(outgoing))
    assert (letter.position.offset, letter.reason, letter.left_out) == (0, "too_large", left_out)
    fields = {field: getattr(record, field) for field in ("key", "value", "headers")}
    absent = {"key": None, "value": None, "headers": ()}
    expected = fields | {field: absent[field] for field in left_out.split(", ") if field}
    assert {field: getattr(letter.original, field) for field in fields} == expected
    assert letter.message == (f"Kept without its {left_out}. " if left_out else "") + why.message
    # What is kept can be sent again.
    alone = Outgoing(topics.EVENTS.name, letter.original.value, record.key, headers=record.headers)
    assert left_out or bytes_at_most(alone) < int(topics.EVENTS.config["max.message.bytes"])


def test_only_the_last_header_says_that_something_was_left_out() -> None:
    hostile = sent(b"{", headers=((rejection.HEADER_LEFT_OUT, b"value"),))
    assert letter(hostile).left_out == ""
    assert letter(hostile).original == hostile
    assert letter(structs.replace(hostile, value=LARGE * 2)).left_out == "value"


@pytest.mark.parametrize(
    "strange",
    [
        (),
        (("content-type", b"text/plain"),),
        tuple((name, b"1") for name in OURS[1:]),
        tuple((name, b"x") for name in OURS),
        tuple((name, None) for name in OURS),
        (*rejected(sent(b"{"), Reject("x", "x", remedy="x")).headers, ("one more", b"")),
    ],
    ids=["no headers", "other headers", "one missing", "no numbers", "no values", "one after them"],
)
def test_what_intake_did_not_write_is_refused(strange: Headers) -> None:
    with pytest.raises(Stop, match="-5 at offset 7 is no rejection") as stopped:
        open_letter(Record(topics.REJECTED.name, 5, 7, 1, b"cus_1", b"{", strange))
    assert "Find the program that wrote it" in stopped.value.remedy


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (sent(event(subject="cus_1"), key=b"other"), ("cus_1", "subject")),
        (sent(b'{"subject": "cus_1"}'), ("cus_1", "subject")),
        (binary(b'{"subject": "data"}', ce_x="y"), ("cus_1", "subject")),
        (sent(b'{"subject": "data"}', key=b"cus_1", headers=(("ce_id", b"1"),)), ("cus_1", "key")),
        (sent(b"{}", key=b"cus_1", headers=(("ce_subject", b"\xff"),)), ("cus_1", "key")),
        (sent(b"{}", key=b"cus_1", headers=(("ce_subject", None),)), ("cus_1", "key")),  # type: ignore[arg-type]
        (sent(b'{"subject": "cus_1', key=b"cus_2"), ("cus_2", "key")),
        (sent(b'{"subject": 1}', key=b"cus_2"), ("cus_2", "key")),
        (sent(b"[" * 100_000, key=b"cus_2"), ("cus_2", "key")),
        (sent(b'{"a":' * 100_000, key=b"cus_2"), ("cus_2", "key")),
        (sent(None, key=b"\xff1"), ("\\xff1", "key")),
        (sent(b"\xff", key=b""), None),
        (sent(None), None),
    ],
)
def test_the_customer_is_the_subject_where_it_can_be_read_and_else_the_key(
    record: Record, expected: tuple[str, str] | None
) -> None:
    assert customer_of(record) == expected


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Wanted(), True),
        (Wanted(frozenset({"ambiguous", "too_large"})), True),
        (Wanted(frozenset({"too_large"})), False),
        (Wanted(customer="cus_1"), True),
        (Wanted(customer="cus_2"), False),
        (Wanted(since_ns=NOVEMBER_20_MS * 10**6), True),
        (Wanted(since_ns=NOVEMBER_20_MS * 10**6 + 1), False),
        (Wanted(until_ns=NOVEMBER_20_MS * 10**6), False),
        (Wanted(until_ns=NOVEMBER_20_MS * 10**6 + 1), True),
        (Wanted(positions=frozenset({letter(sent(b"", 3)).position})), True),
        (Wanted(positions=frozenset({letter(sent(b"", 4)).position})), False),
        (Wanted(frozenset({"ambiguous"}), "cus_1", 0, 0), False),
    ],
)
def test_a_letter_is_wanted_if_every_filter_takes_it(wanted: Wanted, takes: bool) -> None:
    assert wanted.takes(letter(sent(event(), 3))) is takes


def test_a_letter_of_nobody_is_wanted_only_where_no_customer_is_asked_for() -> None:
    assert Wanted().takes(letter(sent(None)))
    assert not Wanted(customer="").takes(letter(sent(None)))
    assert Wanted(customer="").takes(letter(sent(json.dumps({"subject": ""}).encode())))
