"""A reader of JSON topics stops at what is no message, and says where it is and what to do."""

from __future__ import annotations

import pytest

from pipeline.errors import Stop
from pipeline.open_message import open_message
from pipeline.record import Record
from schemas import topics
from schemas.billing import Frozen

FROZEN = Frozen.model_validate(
    {
        "customer": "cus_1",
        "meter": "tokens",
        "period_start": "2026-11-01T00:00:00Z",
        "value": "812",
        "sequence": 7,
    }
)


def at_offset_7(value: bytes | None) -> Record:
    return Record(topics.BILL_STATE.name, 5, 7, 0, None, value)


def test_what_was_written_is_read() -> None:
    assert open_message(at_offset_7(FROZEN.model_dump_json().encode()), Frozen) == FROZEN


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "the value: Invalid JSON"),
        (b"\xff", "the value: Invalid JSON"),
        (b"[]", "the value: "),
        (b"{}", "customer: Field required"),
        (FROZEN.model_dump_json().replace("812", "x").encode(), "value: "),
    ],
)
def test_what_is_none_stops_and_is_named(value: bytes | None, fault: str) -> None:
    with pytest.raises(Stop, match=r"usage\.bill\.state-5 at offset 7 is no frozen: ") as stop:
        open_message(at_offset_7(value), Frozen)
    assert fault in stop.value.message
    assert "Find the program that wrote it" in stop.value.remedy
