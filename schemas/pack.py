"""A pack: hundreds of valid events of one shard as one Arrow record batch.

Header of the frame: `definitions`, the version of the definitions it was cut with. Columns: those
of `FIXED`, then `value:<path>` and `dimension:<path>` for every path that some meter reads; null
where the event's type has no meter that reads it.
"""

from __future__ import annotations

import pyarrow as pa

#: Dictionary-encoded text: few distinct values a pack.
TEXT_CODES = pa.dictionary(pa.int32(), pa.string())

FIXED = pa.schema(
    [
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
        # The event's place in its record, where that is a packed one; else 0.
        pa.field("source_index", pa.int32(), nullable=False),
        # Milliseconds since 1970: the timestamp of the event's Kafka record.
        pa.field("received_at", pa.int64(), nullable=False),
        # Nanoseconds since 1970: the event's own time.
        pa.field("time", pa.int64(), nullable=False),
        # 128-bit hash of (source, id), in two halves.
        pa.field("id_high", pa.uint64(), nullable=False),
        pa.field("id_low", pa.uint64(), nullable=False),
        # Hash of what was said under that identity; another one is a conflict.
        pa.field("fingerprint", pa.uint32(), nullable=False),
        pa.field("type", TEXT_CODES, nullable=False),
        pa.field("customer", TEXT_CODES, nullable=False),
        # The event in structured mode; its data byte for byte as the service wrote it.
        pa.field("original", pa.binary(), nullable=False),
    ]
)

#: A value column is int64 with this field metadata (decimal places of the scaled integers), or
#: plain decimal strings where 64 bits are not enough.
SCALE = b"scale"


def value_column(path: str) -> str:
    """The name of the column with the quantities at `path`."""
    return f"value:{path}"


def is_value_column(name: str) -> bool:
    """Whether a column holds quantities."""
    return name.startswith(value_column(""))


def dimension_column(path: str) -> str:
    """The name of the column with the texts at `path`."""
    return f"dimension:{path}"
