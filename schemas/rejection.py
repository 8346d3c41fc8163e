"""A rejection: an input that can never count, kept byte for byte so that it can be replayed.

On `usage.rejected` the original key and value are the record's key and value, the original headers
are kept (of an event that came packed with others: its own bytes alone, and as content type that of
one event), and the headers below are added after them; of several with one name the last one is
ours. They follow Kafka Connect's dead-letter names where it has one, so existing tools can read
them.

An original that is too large to be kept is not: of what a few bytes on their way become many, no
topic could take all. Its rejection is without its value, and if need be without its key and headers
too, and says so in a last header and in its message; usage.events has it as long as it keeps it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

HEADER_TOPIC = "__connect.errors.topic"
HEADER_PARTITION = "__connect.errors.partition"
HEADER_OFFSET = "__connect.errors.offset"
HEADER_STAGE = "__connect.errors.stage"
HEADER_RECEIVED_AT = "meterline.received_at_ms"
HEADER_REASON = "meterline.reason"
HEADER_MESSAGE = "__connect.errors.exception.message"
HEADER_REMEDY = "meterline.remedy"
HEADER_INDEX = "meterline.index"
HEADER_LEFT_OUT = "meterline.left_out"

#: Of an original with more bytes, key and headers included, something is left out. That is less
#: than usage.events takes, so that whatever is kept can be sent there again, and so much less than
#: usage.rejected takes that there is room for what is added, however badly all of it is compressed.
ORIGINAL_BYTES_MAX = 14 * 1024 * 1024

Reason = Literal[
    "too_large",
    "malformed_json",
    "not_a_cloudevent",
    "unsupported_mode",
    "missing_attribute",
    "invalid_attribute",
    "invalid_time",
    "invalid_arrival",
    "ambiguous",
    "invalid_data",
    "missing_value",
    "invalid_value",
]


class Rejection(BaseModel):
    """One rejection as analysts read it."""

    # Base64, because what was rejected is often no text at all.
    model_config = ConfigDict(
        frozen=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        json_schema_extra={
            "examples": [
                {
                    "source_partition": 3,
                    "source_offset": 1207,
                    "source_index": 0,
                    "received_at": "2026-11-20T09:30:00.125000Z",
                    "reason": "malformed_json",
                    "message": "The value is not JSON: it ends early.",
                    "remedy": "Send one JSON document a message.",
                    "original": "eyJpZCI6",
                }
            ]
        },
    )

    source_partition: int = Field(ge=0, description="Partition of usage.events.")
    source_offset: int = Field(ge=0, description="Offset of usage.events.")
    source_index: int = Field(0, ge=0, description="Place in a record that held many events.")
    received_at: AwareDatetime
    reason: Reason
    message: str
    remedy: str
    original: bytes = Field(description="Empty also where it is too large: the message says so.")
