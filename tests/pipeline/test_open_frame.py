"""A reader stops at what it cannot read, and says where it is and what to do."""

from __future__ import annotations

import pytest

from pipeline.errors import Stop
from pipeline.open_frame import open_frame
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


@pytest.mark.parametrize("topic", BELONGS)
@pytest.mark.parametrize("kind", Kind)
def test_a_topic_carries_only_what_belongs_there(topic: str, kind: Kind) -> None:
    record = at_offset_7(topic, seal(kind, {"a": 1}))
    if kind in BELONGS[topic]:
        frame = open_frame(record)
        assert (frame.kind, frame.header) == (kind, {"a": 1})
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
