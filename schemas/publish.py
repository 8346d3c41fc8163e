"""The published contract: JSON Schema of each message, and AsyncAPI 3.0 of all topics.

`python -m schemas.publish` writes the files in `published/` anew from the models, the Arrow
columns and the catalogue of topics; nothing in them is written by hand.

JSON Schema: https://json-schema.org/draft/2020-12
AsyncAPI: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from schemas import frame
from schemas.alert import Alert
from schemas.billing import Delivery, Delta, Frozen
from schemas.channels import CHANNELS, Channel, JsonMessage, PackedMessage
from schemas.correction import Correction
from schemas.customer import Customer
from schemas.definitions import Definitions
from schemas.discrepancy import Discrepancy
from schemas.forecast import Forecast
from schemas.meter import Meter
from schemas.plan import Plan
from schemas.reconciliation import Reconciliation
from schemas.rejection import Rejection
from schemas.topics import CATALOGUE, Topic
from schemas.total import Total
from schemas.usage_event import UsageEvent

PUBLISHED = Path(__file__).with_name("published")
PACKED_CONTENT_TYPE = "application/vnd.meterline.frame"

#: What people and other programs write is described as it may be typed, what we write as we do.
MODELS: dict[type[BaseModel], JsonSchemaMode] = {
    UsageEvent: "validation",
    Meter: "validation",
    Plan: "validation",
    Customer: "validation",
    Definitions: "validation",
    Correction: "validation",
    Total: "serialization",
    Alert: "serialization",
    Rejection: "serialization",
    Delta: "serialization",
    Frozen: "serialization",
    Delivery: "serialization",
    Forecast: "serialization",
    Discrepancy: "serialization",
    Reconciliation: "serialization",
}


def documents() -> dict[str, str]:
    """Every published file: name to content."""
    schemas = {
        schema_file(model): json.dumps(json_schema(model), indent=2, ensure_ascii=False) + "\n"
        for model in MODELS
    }
    text = yaml.dump(asyncapi(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return {**schemas, "asyncapi.yaml": text}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def schema_file(model: type[BaseModel]) -> str:
    """The name of a model's file: `usage_event.schema.json`."""
    name = model.__name__
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return f"{words[1:]}.schema.json"


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model as a document of draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode=MODELS[model]),
    }


def asyncapi() -> dict[str, Any]:
    """The catalogue of topics as an AsyncAPI 3.0 document."""
    topics = {topic.name: topic for topic in CATALOGUE}
    operations: dict[str, Any] = {}
    for name, channel in CHANNELS.items():
        for action in channel.actions:
            operations[f"{action}:{name}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": channel.actions[action],
            }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Meterline",
            "version": str(frame.VERSION),
            "license": {"name": "Apache-2.0"},
            "description": "Every topic of Meterline. Operations are those of a program that uses "
            "Meterline: it sends usage events and receives what became of them. A channel without "
            "operations is Meterline's own; its format may change between versions.\n\n"
            "Topics of equal partition count that carry packed records are co-partitioned: a "
            "customer's records lie in the same partition of each. Read them with "
            "`isolation.level=read_committed`.\n\n"
            f"Packed records have the content type `{PACKED_CONTENT_TYPE}`:\n\n"
            f"{frame.__doc__}",
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(topics[name], channel) for name, channel in CHANNELS.items()},
        "operations": operations,
    }


def _channel(topic: Topic, channel: Channel) -> dict[str, Any]:
    messages = {}
    for message in channel.messages:
        described = _packed(message) if isinstance(message, PackedMessage) else _json(message)
        key = {"type": "string", "description": channel.key} if channel.key else {"type": "null"}
        messages[message.name] = {
            **described,
            "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
        }
    return {
        "address": topic.name,
        "description": topic.meaning,
        "messages": messages,
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": _topic_configuration(topic),
                "bindingVersion": "0.5.0",
            }
        },
    }


def _topic_configuration(topic: Topic) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "cleanup.policy": ["compact" if topic.compacted else "delete"],
        "retention.ms": topic.retention_ms,
    }
    if "max.message.bytes" in topic.config:
        configuration["max.message.bytes"] = int(topic.config["max.message.bytes"])
    return configuration


def _json(message: JsonMessage) -> dict[str, Any]:
    payload: dict[str, Any] = (
        {"$ref": f"./{schema_file(message.model)}"}
        if message.model
        else {"description": message.payload}
    )
    if message.items_max:
        payload = {"type": "array", "minItems": 1, "maxItems": message.items_max, "items": payload}
    described: dict[str, Any] = {
        "summary": message.summary,
        "contentType": message.content_type,
        "payload": payload,
    }
    if message.headers:
        described["headers"] = {
            "type": "object",
            "required": [name for name in message.headers if name not in message.optional_headers],
            "properties": {
                name: {"type": "string", "description": meaning}
                for name, meaning in message.headers.items()
            },
        }
    return described


def _packed(message: PackedMessage) -> dict[str, Any]:
    lines = [f"A frame of kind {message.kind.value} ({message.kind.name}). {message.description}"]
    for number, columns in enumerate(message.parts, start=1):
        lines += ["", f"Part {number}:", "", "| column | Arrow type | null |", "|---|---|---|"]
        lines += [_column(column) for column in columns]
    return {
        "summary": message.summary,
        "description": "\n".join(lines) + "\n",
        "contentType": PACKED_CONTENT_TYPE,
        "payload": {"type": "string", "format": "binary"},
    }


def _column(column: pa.Field) -> str:
    return f"| `{column.name}` | `{column.type}` | {'yes' if column.nullable else 'no'} |"


def main() -> None:
    """Writes every file, and removes what is published no more."""
    PUBLISHED.mkdir(exist_ok=True)
    current = documents()
    for stale in PUBLISHED.iterdir():
        if stale.name not in current:
            stale.unlink()
    for name, text in current.items():
        (PUBLISHED / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
