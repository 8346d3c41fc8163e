"""A usage event: one CloudEvent 1.0 that says how much of something a customer used.

On Kafka it travels in structured mode (one JSON document, with the header `content-type:
application/cloudevents+json`) or in binary mode (`ce_` headers, the data alone as value). Its
identity is (source, id).
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md

A record may also carry many events, packed: a JSON array of them in structured mode, with the
header `content-type: application/cloudevents-batch+json`. CloudEvents has the format, though not
for Kafka.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

STRUCTURED = "application/cloudevents+json"
PACKED = "application/cloudevents-batch+json"

#: What a packed record may hold at most; one that holds more is rejected whole.
PACKED_EVENTS_MAX = 10_000
PACKED_BYTES_MAX = 8 * 1024 * 1024
#: Its headers less the content type, as often as it has events: each that is rejected repeats them.
PACKED_HEADER_BYTES_MAX = 64 * 1024 * 1024

HEADER_PREFIX = "ce_"

#: Names go into keys, alerts and state, so they must be small beside a record.
NAME_CHARACTERS_MAX = 16_384

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]

_EXAMPLE = {
    "specversion": "1.0",
    "id": "req-8f2c",
    "source": "/gateway/eu-1",
    "type": "llm.request",
    "subject": "cus_1",
    "time": "2026-11-20T09:30:00Z",
    "data": {"tokens": 812, "model": "m"},
}


def _as_sent(schema: dict[str, Any]) -> None:
    """An event on Kafka says its version; only the class below fills it in."""
    schema["examples"] = [_EXAMPLE]
    del schema["properties"]["specversion"]["default"]
    schema["required"].insert(0, "specversion")


class UsageEvent(BaseModel):
    """One usage event. Further attributes are CloudEvents extensions and are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_as_sent)

    specversion: Literal["1.0"] = "1.0"
    id: Name = Field(description="Unique within its source; a resend carries the same id.")
    source: Name = Field(description="The service that observed the usage, a URI reference.")
    type: Name = Field(description="What happened; meters count events of one type.")
    subject: Name = Field(description="The customer who used it.")
    time: AwareDatetime = Field(description="When it was used, with an offset; decides the period.")
    # Named, a default is one to every type checker.
    datacontenttype: str | None = Field(default=None, description="JSON when present.")
    data: Any = Field(
        default=None, description="What meters read: quantities as integers or strings."
    )

    @field_validator("data")
    @classmethod
    def _data_is_finite(cls, data: Any) -> Any:
        _require_finite(data)
        return data

    def to_json(self) -> bytes:
        """The event in structured mode."""
        return self.model_dump_json(exclude_none=True).encode()


def _require_finite(value: Any) -> None:
    """JSON has no word for other numbers: they would travel as null, and be rejected far away.

    Raises:
        ValueError: there is one in `value`, however deep; or something that can be read only once.
    """
    match value:
        case str() | int() | None:
            return
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is no quantity: JSON has finite numbers only")
        case Decimal() if not value.is_finite():
            raise ValueError(f"{value} is no quantity: it is not finite")
        case dict():
            within: Iterable[Any] = value.values()
        case list() | tuple() | set() | frozenset() | deque():
            within = value
        case BaseModel():
            within = (each for _, each in value)
        case Enum():
            within = (value.value,)
        case Iterator():
            raise ValueError("an iterator cannot be sent again: give a list")
        case _ if is_dataclass(value):
            within = (getattr(value, each.name) for each in fields(value))
        case _:
            return
    for each in within:
        _require_finite(each)
