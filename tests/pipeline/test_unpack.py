"""Events sent packed mean what they mean sent one by one; none is lost for its neighbour's sake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.decode import EVENT_BYTES_MAX
from pipeline.intake import Intake
from pipeline.nesting import NESTING_MAX, PACKED_NESTING_MAX
from pipeline.record import PLAIN_HEADERS, Headers, Outgoing, Record, Records, are_of_one
from pipeline.reject import DeadLetter, open_letter
from pipeline.unpack import events_in, unpacked
from schemas import topics
from schemas.definitions import Definitions
from schemas.frame import unseal
from schemas.usage_event import (
    PACKED,
    PACKED_BYTES_MAX,
    PACKED_EVENTS_MAX,
    PACKED_HEADER_BYTES_MAX,
)
from tests.pipeline.shard_log import Play, meter
from tests.pipeline.test_scan import DEFINITIONS, USUAL, values
from tests.pipeline.usage_log import core, event, pieces, positions, record, take_in, why

HEADERS: Headers = (("content-type", PACKED.encode()),)


def packed(texts: Sequence[bytes], offset: int = 0, headers: Headers = HEADERS) -> Record:
    return record(b"[" + b",".join(texts) + b"]", offset, headers, key=b"k")


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError:
        return False
    return True


def alone(texts: Sequence[bytes]) -> list[Record]:
    return [
        record(text.strip(b" \t\r\n"), offset, PLAIN_HEADERS, key=b"k")
        for offset, text in enumerate(texts)
    ]


def in_packs(texts: Sequence[bytes], cuts: Sequence[int]) -> tuple[list[Record], list[int]]:
    """Packed records, and where the first event of each stands among all."""
    parts = pieces(len(texts), cuts)
    begins = [part.start for part in parts]
    return [packed(texts[part], number) for number, part in enumerate(parts)], begins


def taken_in(outgoing: Sequence[Outgoing], begins: Sequence[int] | None = None) -> list[Any]:
    """What became of each event: rejections and rows of packs, by their number among all events.

    Without `begins` each record has one event.
    """
    found: list[Any] = []
    for each in outgoing:
        if each.topic == topics.REJECTED.name:
            letter = open_letter(record(each.value, headers=each.headers, key=each.key))
            position, original = letter.position, letter.original
            number = position.offset if begins is None else begins[position.offset]
            said = (original.value, original.key, original.headers, letter.reason, letter.message)
            found.append((number + position.element, *said))
            continue
        for row in unseal(each.value or b"").parts[0].to_pylist():
            offset, index = row.pop("source_offset"), row.pop("source_index")
            number = offset if begins is None else begins[offset]
            found.append((number + index, each.partition, row))
    return sorted(found, key=lambda each: each[0])


@core(300)
@given(st.lists(values(), min_size=1, max_size=8), st.lists(st.integers(1, 8), max_size=3))
def test_events_packed_are_taken_in_as_they_are_one_by_one(
    texts: list[bytes], cuts: list[int]
) -> None:
    texts = [USUAL, *filter(is_json, texts), USUAL]
    together, begins = in_packs(texts, cuts)
    intake = Intake(DEFINITIONS, shards=3)
    assert taken_in(intake.step(together), begins) == taken_in(intake.step(alone(texts)))


LIMITED = Definitions.model_validate(
    {
        "meters": [meter("sum", "sum", group_by={"model": "$.model"}), meter("last", "latest")],
        "plans": [
            {
                "slug": "free",
                "limits": [{"meter": "sum", "limit": 10, "thresholds": ["50%", "100%", "200%"]}],
            }
        ],
        "default_plan": "free",
    }
)


def counted(arriving: Sequence[Record]) -> list[object]:
    """The status of each event in its order; totals, usage and alerts; what was rejected."""
    play = Play()
    cutter = Intake(LIMITED, shards=1)
    play.append(cutter.announce())
    outgoing = cutter.step(arriving)
    play.append([each for each in outgoing if each.topic != topics.REJECTED.name])
    play.step(len(play.log))
    statuses = [
        status
        for frame in play.frames(topics.DECISIONS.name)
        for status in frame.parts[0].column("status").to_pylist()
    ]
    outcome = play.outcome()
    refused = [each.value for each in outgoing if each.topic == topics.REJECTED.name]
    return [statuses, outcome.totals, outcome.usage, outcome.alerts, refused]


usages = st.builds(
    lambda number, customer, n, model: event(
        str(number), source="/brute", subject=customer, data={"n": n, "model": model}
    ),
    st.integers(0, 6),
    st.sampled_from(["a", "b"]),
    st.sampled_from([1, 2, 7, "0.5", "many", None]),
    st.sampled_from(["m", "l"]),
)


@core(100)
@given(st.lists(usages, min_size=1, max_size=12), st.lists(st.integers(1, 12), max_size=3))
def test_events_packed_give_the_same_totals_rejections_and_alerts(
    texts: list[bytes], cuts: list[int]
) -> None:
    together, _ = in_packs(texts, cuts)
    assert counted(together) == counted(alone(texts))


def test_a_broken_element_is_rejected_alone_and_names_its_place() -> None:
    broken = b'{"specversion":"1.0","id":"2"}'
    arriving = packed([event("1"), broken, b"7", b"[[]]", event("3")], offset=1_207)
    packs, rejections = take_in([arriving])
    assert [(why(each), each.value, each.key) for each in rejections] == [
        ("missing_attribute", broken, b"k"),
        ("not_a_cloudevent", b"7", b"k"),
        ("not_a_cloudevent", b"[[]]", b"k"),
    ]
    assert [str(letter(each).position) for each in rejections] == [
        "0/1207/1",
        "0/1207/2",
        "0/1207/3",
    ]
    found = [row for _, pack in packs for row in pack.batch.to_pylist()]
    assert [(row["source_offset"], row["source_index"]) for row in found] == [
        (1_207, 0),
        (1_207, 4),
    ]


def letter(rejected: Outgoing) -> DeadLetter:
    return open_letter(record(rejected.value, headers=rejected.headers, key=rejected.key))


def test_a_rejected_element_is_taken_in_alone_once_it_is_mended() -> None:
    """It comes back as a record of its own, with the headers that it was rejected with."""
    headers = (*HEADERS, ("traceparent", b"00-1"))
    (rejected,) = take_in([packed([event("1", subject=None), event("2")], headers=headers)])[1]
    original = letter(rejected).original
    assert original.headers == (*PLAIN_HEADERS, ("traceparent", b"00-1"))
    packs, again = take_in([structs.replace(original, index=0)])
    assert (packs, why(again[0]), again[0].value) == ([], "missing_attribute", rejected.value)
    packs, again = take_in([structs.replace(original, index=0, value=event("1"))])
    assert (len(packs), again) == (1, [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed_json"),
        (b"{}", "malformed_json"),
        (event("1"), "malformed_json"),
        (b"[" + event("1"), "malformed_json"),
        (b"[" + event("1") + b"]x", "malformed_json"),
        (b"[" + event("1") + b",]", "malformed_json"),
        (b"[" + event("1") + b",{]", "malformed_json"),
        # More bytes than one event may have.
        (b"[" + event("1", data={"pad": "x" * EVENT_BYTES_MAX}) + b",]", "malformed_json"),
        (b"[" * 100_000, "malformed_json"),
        (b"\xef\xbb\xbf[" + event("1") + b"]", "malformed_json"),
        (("[" + event("1").decode() + "]").encode("utf-16"), "malformed_json"),
        (b"[]", "not_a_cloudevent"),
        (b" [ ] ", "not_a_cloudevent"),
        (b"[" + b",".join([b"1"] * (PACKED_EVENTS_MAX + 1)) + b"]", "too_large"),
        (b"[" + event("1") + b" " * PACKED_BYTES_MAX + b"]", "too_large"),
    ],
    ids=lambda value: value[:12].decode(errors="replace") if isinstance(value, bytes) else value,
)
def test_a_record_that_cannot_be_split_is_rejected_whole(value: bytes, reason: str) -> None:
    arriving = [record(event("0"), 0), record(value, 1, HEADERS), record(event("2"), 2)]
    packs, rejections = take_in(arriving)
    assert sorted(positions(packs)) == [0, 2]
    assert [(why(each), each.value) for each in rejections] == [(reason, value)]
    assert letter(rejections[0]).original.headers == HEADERS
    assert str(letter(rejections[0]).position) == "0/1"


def three_with_a_nested_one(depth: int) -> bytes:
    """Packed events, of which the second has data so many levels deep."""
    nested = event("2", data="HERE").replace(b'"HERE"', b"[" * depth + b"]" * depth)
    return b",".join([b"[" + event("1"), nested, event("3") + b"]"])


@pytest.mark.parametrize("depth", [NESTING_MAX, PACKED_NESTING_MAX - 1])
def test_an_event_that_is_nested_too_deeply_is_rejected_alone(depth: int) -> None:
    packs, rejections = take_in([record(three_with_a_nested_one(depth), 0, HEADERS)])
    assert sum(len(pack) for _, pack in packs) == 2
    assert [str(letter(each).position) for each in rejections] == ["0/0/1"]
    assert letter(rejections[0]).message == "The event is nested more than 250 levels deep."


@pytest.mark.parametrize("depth", [PACKED_NESTING_MAX, 900, 5_000, 100_000])
def test_one_that_not_every_reader_could_take_out_has_its_record_rejected_whole(depth: int) -> None:
    value = three_with_a_nested_one(depth)
    packs, rejections = take_in([record(value, 0, HEADERS)])
    assert (packs, [(why(each), each.value) for each in rejections]) == (
        [],
        [("malformed_json", value)],
    )


def test_a_record_whose_events_would_repeat_too_many_bytes_of_headers_is_rejected_whole() -> None:
    """Every event of it that is rejected would have all of them; the content type is not theirs."""
    texts = [b"1"] * 8_192
    most = PACKED_HEADER_BYTES_MAX // len(texts) - len("é".encode())
    long_type = ("content-type", PACKED.encode() + b"; x=" + b"x" * 100_000)
    splittable = packed(texts, headers=(long_type, ("é", b"x" * most), ("", cast(bytes, None))))
    assert events_in(splittable) == len(texts)
    whole = packed(texts, headers=(long_type, ("é", b"x" * most), ("a", cast(bytes, None))))
    assert events_in(whole) == 1
    packs, (rejected,) = take_in([whole])
    assert (packs, why(rejected), rejected.value) == ([], "too_large", whole.value)
    assert letter(rejected).original.headers == whole.headers
    assert "fewer headers or fewer events" in letter(rejected).remedy


def test_a_tombstone_that_says_it_is_packed_is_rejected_whole() -> None:
    (rejected,) = take_in([record(None, 0, HEADERS)])[1]
    assert rejected.value is None


@pytest.mark.parametrize(
    ("headers", "events"),
    [
        ((("content-type", b"application/cloudevents-batch+json; charset=utf-8"),), 2),
        ((("Content-Type", b"Application/CloudEvents-Batch+JSON"),), 2),
        ((*HEADERS, ("traceparent", b"00-1")), 2),
        ((("content-type", b"application/cloudevents-batch+protobuf"),), 0),
        ((*HEADERS, *HEADERS), 0),
        ((("content-type", b"\xff"),), 0),
        ((), 0),
    ],
)
def test_the_content_type_says_that_a_record_is_packed(headers: Headers, events: int) -> None:
    arriving = packed([event("1"), event("2")], headers=headers)
    packs, rejections = take_in([arriving])
    assert (len(positions(packs)), len(rejections)) == (events, 0 if events else 1)
    assert events_in(arriving) == max(events, 1)


def test_events_of_a_traced_record_are_scanned_all_the_same(monkeypatch: Any) -> None:
    """Headers that say nothing of an event do not send each of them the slow way."""
    intake = Intake(DEFINITIONS)
    monkeypatch.setattr("pipeline.intake.decode_event", None)
    headers = (("traceparent", b"00-1"), *HEADERS)
    (outgoing,) = intake.step([packed([USUAL, USUAL], headers=headers)])
    assert outgoing.topic == topics.METERED.name


def test_as_many_events_as_a_record_may_hold_are_taken_in() -> None:
    texts = [event(str(number)) for number in range(PACKED_EVENTS_MAX)]
    packs, rejections = take_in([packed(texts)])
    assert (len(positions(packs)), rejections) == (PACKED_EVENTS_MAX, [])


def test_columns_and_records_say_the_same() -> None:
    arriving = Records(
        [record(b"a", 1), packed([b"1", b"2 "], 2), packed([], 3), record(None, 4, PLAIN_HEADERS)]
    )
    (events,) = unpacked(arriving, 100)
    assert [(each.offset, each.index, each.value, each.headers) for each in events] == [
        (1, 0, b"a", ()),
        (2, 0, b"1", PLAIN_HEADERS),
        (2, 1, b"2", PLAIN_HEADERS),
        (3, 0, b"[]", HEADERS),
        (4, 0, None, PLAIN_HEADERS),
    ]
    assert events.offsets.tolist() == [each.offset for each in events]
    assert events.indices.tolist() == [each.index for each in events]
    assert events.timestamps_ms.tolist() == [each.timestamp_ms for each in events]
    assert [v and bytes(v) for v in events.values] == [each.value for each in events]
    assert events.headers == [each.headers for each in events]
    assert [each.index for each in events[1:3]] == [0, 1]
    (again,) = unpacked(events, 100)
    assert again.indices.tolist() == events.indices.tolist()


def test_parts_repeat_no_more_bytes_of_headers_than_one_record_may() -> None:
    third = ("a", b"x" * (PACKED_HEADER_BYTES_MAX // 3_000 - 1))
    arriving = [packed([b"1"] * 1_000, offset, (*HEADERS, third)) for offset in range(7)]
    parts = list(unpacked(Records(arriving), 100_000))
    assert [sorted(set(part.offsets.tolist())) for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


@core(100)
@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_parts_are_whole_records_of_no_more_events_than_wished(
    held: list[int | None], events_max: int
) -> None:
    """None stands for a record of one event; the events of the others are packed."""
    arriving = Records(
        [
            record(b"1", offset) if count is None else packed([b"1"] * count, offset)
            for offset, count in enumerate(held)
        ]
    )
    (whole,) = unpacked(arriving, 1_000)
    parts = list(unpacked(arriving, events_max))
    assert [each for part in parts for each in part] == list(whole)
    assert [each.offset for part in parts for each in part] == whole.offsets.tolist()
    ends = [part.ends[0] for part in parts]
    begins = [0, *ends[:-1]]
    sizes = [max(count or 1, 1) for count in held]
    for part, begin, end in zip(parts, begins, ends, strict=True):
        assert set(part.offsets.tolist()) == set(range(begin, end))
        assert len(part) == sum(sizes[begin:end])
        assert len(part) <= events_max or end - begin == 1
        # Nor fewer than that: the next record would have been one too many.
        assert end == len(held) or len(part) + sizes[end] > events_max


@pytest.mark.parametrize(
    "content_type", [PACKED, PACKED.upper(), f" {PACKED} ;a=b", "text/json", ""]
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type", "ce_datacontenttype"])
def test_headers_that_are_of_one_event_are_never_those_of_many(
    name: str, content_type: str
) -> None:
    headers = ((name, content_type.encode()), ("ce_id", b"7"))
    many = Record(topics.EVENTS.name, 0, 0, 0, None, b"[1,2]", headers)
    assert Records([many]).are_plain is are_of_one(headers)
    assert events_in(many) == 1 or not are_of_one(headers)
