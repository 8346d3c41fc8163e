"""What lies on each topic: the messages, their keys and headers, and what a reader may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel

from schemas import decisions, pack, rejection, segment, topics, total, usage_event
from schemas.alert import Alert
from schemas.billing import Delivery, Delta, Frozen
from schemas.discrepancy import Discrepancy
from schemas.forecast import Forecast
from schemas.frame import Kind
from schemas.usage_event import UsageEvent

Action = Literal["send", "receive"]


@dataclass(frozen=True)
class JsonMessage:
    """A message of one `model`; or of `payload`, described in words, where no model holds.

    With `items_max` it is an array of up to so many. `headers` are name to meaning.
    """

    name: str
    summary: str
    model: type[BaseModel] | None = None
    payload: str = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    optional_headers: frozenset[str] = frozenset()
    items_max: int | None = None


@dataclass(frozen=True)
class PackedMessage:
    """A frame: its header in words, and the columns of each part."""

    name: str
    summary: str
    kind: Kind
    description: str
    parts: tuple[pa.Schema, ...] = ()


@dataclass(frozen=True)
class Channel:
    """One topic: its messages, the meaning of its keys, and what a user's program does there."""

    messages: tuple[JsonMessage | PackedMessage, ...]
    key: str = ""
    actions: Mapping[Action, str] = field(default_factory=dict)


_CE = usage_event.HEADER_PREFIX

#: By name of the topic, in the order of the catalogue.
CHANNELS: dict[str, Channel] = {
    topics.EVENTS.name: Channel(
        (
            JsonMessage(
                "structured",
                "A CloudEvent in structured mode: one JSON document.",
                UsageEvent,
                content_type=usage_event.STRUCTURED,
                headers={"content-type": f"Begins with `{usage_event.STRUCTURED}`."},
            ),
            JsonMessage(
                "packed",
                "Many CloudEvents in structured mode: one JSON array, of at most "
                f"{usage_event.PACKED_BYTES_MAX // 2**20} MiB.",
                UsageEvent,
                content_type=usage_event.PACKED,
                headers={"content-type": f"Begins with `{usage_event.PACKED}`."},
                items_max=usage_event.PACKED_EVENTS_MAX,
            ),
            JsonMessage(
                "binary",
                "A CloudEvent in binary mode: attributes as headers, the data alone as value.",
                payload="The event's data: any JSON value, or nothing.",
                headers={
                    f"{_CE}specversion": "1.0",
                    f"{_CE}id": "Unique within its source; a resend carries the same id.",
                    f"{_CE}source": "The service that observed the usage, a URI reference.",
                    f"{_CE}type": "What happened; meters count events of one type.",
                    f"{_CE}subject": "The customer who used it.",
                    f"{_CE}time": "When it was used, RFC 3339 with an offset; decides the period.",
                    "content-type": "Of the data: application/json.",
                },
                optional_headers=frozenset({"content-type"}),
            ),
        ),
        "The customer, so that a customer's events keep their order; of a packed record none.",
        {"send": "Publish usage.", "receive": "Read usage as its services published it."},
    ),
    topics.METERED.name: Channel(
        (
            PackedMessage(
                "definitions",
                "Meters, plans and customers that hold from here on.",
                Kind.DEFINITIONS,
                "Header: `version`, and `document`, as in definitions.schema.json.",
            ),
            PackedMessage(
                "pack",
                "Valid events of one shard.",
                Kind.PACK,
                "Header: `definitions`, the version it was cut with. After the columns below come "
                "`value:<path>` (int64 with the field metadata `scale`, the decimal places; or "
                "plain decimal strings) and `dimension:<path>` (dictionary of strings) for every "
                "path that some meter reads.",
                (pack.FIXED,),
            ),
        ),
        actions={"receive": "Read valid events, side by side with what was decided about them."},
    ),
    topics.DECISIONS.name: Channel(
        (
            PackedMessage(
                "decisions",
                "One status for each event of one pack.",
                Kind.DECISIONS,
                "Header: `pack_offset`, the pack's offset in usage.metered. Part 1 has the pack's "
                "order; status "
                + ", ".join(f"{status.value} {status.name.lower()}" for status in decisions.Status)
                + ". Part 2 lists events that count, but came too late for some of their meters.",
                (decisions.STATUS_COLUMNS, decisions.LATE_COLUMNS),
            ),
        ),
        actions={"receive": "Read which events counted."},
    ),
    topics.TOTALS.name: Channel(
        (
            PackedMessage(
                "totals",
                "Totals that changed in one transaction, absolute.",
                Kind.TOTALS,
                "Header: `version`, the shard offset of the last pack counted; of two totals for "
                "one customer, meter, period and group the one with the higher version holds.",
                (total.TOTAL_COLUMNS,),
            ),
        ),
        actions={"receive": "Read totals as they change."},
    ),
    topics.ALERTS.name: Channel(
        (JsonMessage("alert", "A customer crossed a threshold.", Alert),),
        "The customer.",
        {"receive": "Be told of every crossing, once."},
    ),
    topics.REJECTED.name: Channel(
        (
            JsonMessage(
                "rejection",
                "An input that can never count, byte for byte.",
                payload="The original value, whatever it is; none where it is left out.",
                content_type="application/octet-stream",
                headers={
                    rejection.HEADER_TOPIC: "Where it came from: the topic.",
                    rejection.HEADER_PARTITION: "Its partition, decimal.",
                    rejection.HEADER_OFFSET: "Its offset, decimal.",
                    rejection.HEADER_STAGE: "The stage that refused it.",
                    rejection.HEADER_RECEIVED_AT: "Its arrival, milliseconds since 1970, decimal.",
                    rejection.HEADER_REASON: "A stable, lower-case code, as in "
                    "rejection.schema.json.",
                    rejection.HEADER_MESSAGE: "What is wrong, for a person.",
                    rejection.HEADER_REMEDY: "What to do about it, for a person.",
                    rejection.HEADER_INDEX: "Its place in a record that held many, decimal.",
                    rejection.HEADER_LEFT_OUT: "What of the original is not here, because key, "
                    f"value and headers have more than {rejection.ORIGINAL_BYTES_MAX // 2**20} MiB "
                    "together: `value`, or `key, value, headers`.",
                },
                optional_headers=frozenset({rejection.HEADER_LEFT_OUT}),
            ),
        ),
        "The original key. The original headers are kept as well, if nothing says otherwise.",
        {"receive": "See what was refused, and replay it to usage.events when it is mended."},
    ),
    topics.TALLY_STATE.name: Channel(
        (
            PackedMessage(
                "segment",
                "What one transaction changed in one shard of tally.",
                Kind.SEGMENT,
                "Meterline's own.",
                (segment.ID_COLUMNS, segment.TOTAL_COLUMNS),
            ),
        ),
    ),
    topics.OUTBOX.name: Channel(
        (JsonMessage("delta", "A change of a billed total, frozen before its first send.", Delta),),
        "The delta's identifier.",
        {"receive": "Follow what will be billed."},
    ),
    topics.BILL_STATE.name: Channel(
        (JsonMessage("frozen", "What has been frozen so far.", Frozen),),
        "JSON: customer, meter and period start; or `next_offset`, whose value is the position.",
    ),
    topics.DELIVERIES.name: Channel(
        (JsonMessage("delivery", "What became of one delta.", Delivery),),
        "The delta's identifier.",
        {"receive": "Follow what has been billed."},
    ),
    topics.FORECASTS.name: Channel(
        (JsonMessage("forecast", "A threshold is projected to be crossed.", Forecast),),
        "The customer.",
        {"receive": "Be told before a threshold is crossed. Advisory."},
    ),
    topics.DISCREPANCIES.name: Channel(
        (
            JsonMessage(
                "discrepancy",
                "Two links of the chain from input to invoice do not agree, or agree again.",
                Discrepancy,
            ),
        ),
        "What differs, as in the message's key.",
        {"receive": "Be told when something was lost, doubled or changed, and when it is mended."},
    ),
}
