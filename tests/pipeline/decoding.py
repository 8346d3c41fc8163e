"""What decoding makes of a record: what the event says, or why it is refused."""

from __future__ import annotations

from hypothesis import strategies as st

from pipeline.decode import decode_data, decode_event
from pipeline.errors import Reject
from pipeline.record import Record

NAMES = (b'"n"', b'"model"')


def refused(arriving: Record, names: tuple[bytes, ...] = NAMES) -> str:
    """The reason why a record is refused; empty if it is an event."""
    try:
        decode_data(decode_event(arriving)[0], names, is_read=bool(names))
    except Reject as reject:
        return reject.reason if reject.message and reject.remedy else "without a word"
    return ""


def said(arriving: Record) -> tuple[object, ...]:
    """What an event says, its data as the bytes that were sent."""
    envelope, _ = decode_event(arriving)
    attributes = (envelope.id, envelope.source, envelope.type, envelope.subject, envelope.time)
    return (*attributes, decode_data(envelope)[1])


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
