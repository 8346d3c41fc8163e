"""A reader stops at what it cannot read, and says where it is and what to do."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pytest
import xxhash

from pipeline.errors import Stop
from pipeline.open_frame import CONTENTS, open_frame
from pipeline.record import Record
from schemas import topics
from schemas.frame import Kind, seal

FRAME = seal(Kind.PACK, {"definitions": "v1"})

BELONGS = {
    topics.METERED.name: {Kind.PACK, Kind.DEFINITIONS},
    topics.DECISIONS.name: {Kind.DECISIONS},
    topics.TOTALS.name: {Kind.TOTALS},
    topics.TALLY_STATE.name: {Kind.SEGMENT},
}


def at_offset_7(topic: str, value: bytes | None) -> Record:
    return Record(topic, 5, 7, 0, None, value)


def contents(kind: Kind) -> tuple[dict[str, Any], list[pa.RecordBatch]]:
    names, parts = CONTENTS[kind]
    return dict.fromkeys(names, 1), [pa.record_batch({"n": [1]})] * parts


@pytest.mark.parametrize("topic", BELONGS)
@pytest.mark.parametrize("kind", Kind)
def test_a_topic_carries_only_what_belongs_there(topic: str, kind: Kind) -> None:
    header, parts = contents(kind)
    record = at_offset_7(topic, seal(kind, header, parts))
    if kind in BELONGS[topic]:
        frame = open_frame(record)
        assert (frame.kind, frame.header) == (kind, header)
    else:
        with pytest.raises(Stop, match=f"{topic}-5 at offset 7"):
            open_frame(record)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "not a Meterline frame"),
        (b"", "not a Meterline frame"),
        (b'{"id": "1"}', "not a Meterline frame"),
        (FRAME[:2] + b"\x09" + FRAME[3:], "frame version 9"),
        (FRAME[:-1] + b"\0", "checksum mismatch"),
        (FRAME[:-1], "checksum mismatch"),
    ],
)
def test_what_is_no_frame_stops_the_reader_with_place_fault_and_remedy(
    value: bytes | None, fault: str
) -> None:
    with pytest.raises(Stop, match=fault) as stopped:
        open_frame(at_offset_7(topics.METERED.name, value))
    assert "usage.metered-5 at offset 7" in stopped.value.message
    assert len(stopped.value.remedy) > 5


@pytest.mark.parametrize(("topic", "kind"), [(t, k) for t, kinds in BELONGS.items() for k in kinds])
def test_a_frame_that_lacks_what_its_readers_count_on_stops_them(topic: str, kind: Kind) -> None:
    header, parts = contents(kind)
    lacking = [
        *({name: 1 for name in header if name != left_out} for left_out in header),
        dict[str, Any](),
    ]
    for each in lacking:
        with pytest.raises(Stop, match=f"{topic}-5 at offset 7 has not what"):
            open_frame(at_offset_7(topic, seal(kind, each, parts)))
    more = [pa.record_batch({"n": [1]})]
    with pytest.raises(Stop, match=f"{topic}-5 at offset 7 has not what"):
        open_frame(at_offset_7(topic, seal(kind, header, [*parts, *more])))


@pytest.mark.parametrize("content", [b"", b"\x04\0\0\0", b"\x08\0\0\0no arrow", b"\xff\0\0\0"])
def test_a_frame_with_a_right_checksum_over_anything_stops_the_reader(content: bytes) -> None:
    for text in (b"{}", b"[]", b"{"):
        body = struct.pack("<I", len(text)) + text + content
        checksum = xxhash.xxh3_64_intdigest(body, seed=Kind.PACK)
        forged = struct.pack("<2sBBQ", b"ML", 1, Kind.PACK, checksum) + body
        with pytest.raises(Stop, match=r"usage\.metered-5 at offset 7"):
            open_frame(at_offset_7(topics.METERED.name, forged))
