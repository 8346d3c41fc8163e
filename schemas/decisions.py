"""Decisions: what tally decided about each event of one pack.

Header of the frame: `pack_offset`, the pack's offset in usage.metered. First part: one status an
event, in the pack's order. Second part: events that count, but arrived too late for some of their
meters.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa


class Status(IntEnum):
    """What became of an event."""

    ACCEPTED = 0
    DUPLICATE = 1
    CONFLICT = 2
    LATE = 3
    UNKNOWN = 4


STATUS_COLUMNS = pa.schema([pa.field("status", pa.uint8(), nullable=False)])
LATE_COLUMNS = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),
        pa.field("meter", pa.string(), nullable=False),
    ]
)
