"""Dead letters: an unusable record, byte for byte, with reason and remedy in headers."""

from __future__ import annotations

from pipeline.errors import Reject
from pipeline.record import Outgoing, Record
from schemas import rejection, topics


def rejected(record: Record, reason: Reject) -> Outgoing:
    """`record` on its way to usage.rejected: key, value and headers as they came, and why."""
    return Outgoing(
        topics.REJECTED.name,
        record.value,
        key=record.key,
        headers=(
            *record.headers,
            (rejection.HEADER_TOPIC, record.topic.encode()),
            (rejection.HEADER_PARTITION, b"%d" % record.partition),
            (rejection.HEADER_OFFSET, b"%d" % record.offset),
            (rejection.HEADER_STAGE, b"intake"),
            (rejection.HEADER_RECEIVED_AT, b"%d" % record.timestamp_ms),
            (rejection.HEADER_REASON, reason.reason.encode()),
            (rejection.HEADER_MESSAGE, reason.message.encode("utf-8", "backslashreplace")),
            (rejection.HEADER_REMEDY, reason.remedy.encode("utf-8", "backslashreplace")),
        ),
    )
