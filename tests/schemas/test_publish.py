"""The published schemas are current, valid by their own standards, and fit what we send."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import BaseModel

from schemas import publish, rejection
from schemas.channels import CHANNELS, JsonMessage, PackedMessage
from schemas.definitions import Definitions
from schemas.frame import Kind
from schemas.topics import CATALOGUE

ASYNCAPI_SPECIFICATION = Path(__file__).parent / "asyncapi_specification" / "3.0.0.json.gz"

each_model = pytest.mark.parametrize("model", publish.MODELS, ids=lambda model: model.__name__)


def _read(model: type[BaseModel]) -> dict[str, Any]:
    text = (publish.PUBLISHED / publish.schema_file(model)).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _asyncapi() -> dict[str, Any]:
    text = (publish.PUBLISHED / "asyncapi.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def test_the_files_are_current() -> None:
    """Whoever changes a model or a topic runs `python -m schemas.publish`."""
    files = {path.name: path.read_text(encoding="utf-8") for path in publish.PUBLISHED.iterdir()}
    assert files == publish.documents()


@each_model
def test_each_schema_is_json_schema_2020_12(model: type[BaseModel]) -> None:
    Draft202012Validator.check_schema(_read(model))


@each_model
def test_examples_fit_schema_and_model(model: type[BaseModel]) -> None:
    """And an example is what the model writes, where the schema describes what we write."""
    schema = _read(model)
    for example in schema.get("examples", []):
        Draft202012Validator(schema).validate(example)
        parsed = model.model_validate_json(json.dumps(example))
        written = json.loads(parsed.model_dump_json())
        if publish.MODELS[model] == "serialization":
            Draft202012Validator(schema).validate(written)
            assert {name: written[name] for name in example} == example


def test_every_published_message_but_our_own_has_an_example() -> None:
    without = [model.__name__ for model in publish.MODELS if "examples" not in _read(model)]
    assert without == ["Frozen"]


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ({"meters": [{"slug": "a", "event_type": "t", "aggregation": "median"}]}, "aggregation"),
        ({"meters": [{"slug": "a b", "event_type": "t", "aggregation": "count"}]}, "slug"),
        ({"plans": [{"slug": "p", "limits": [{"meter": "a", "limit": "many"}]}]}, "limit"),
        ({"customer": []}, "customer"),
    ],
)
def test_an_editor_sees_faults_in_meterline_yaml(fault: dict[str, Any], where: str) -> None:
    errors = list(Draft202012Validator(_read(Definitions)).iter_errors(fault))
    assert any(where in str(error.absolute_path) + error.message for error in errors)


def test_an_editor_accepts_numbers_where_yaml_has_numbers() -> None:
    document = yaml.safe_load(
        "plans: [{slug: p, limits: [{meter: m, limit: 0.5, thresholds: ['80 %', 1.5, '2']}]}]"
    )
    Draft202012Validator(_read(Definitions)).validate(document)


def test_the_asyncapi_document_follows_its_specification() -> None:
    specification = json.loads(gzip.decompress(ASYNCAPI_SPECIFICATION.read_bytes()))
    errors = [error.message for error in Draft7Validator(specification).iter_errors(_asyncapi())]
    assert errors == []


def test_the_specification_check_finds_a_fault() -> None:
    specification = json.loads(gzip.decompress(ASYNCAPI_SPECIFICATION.read_bytes()))
    document = _asyncapi()
    document["operations"]["send:usage.events"]["action"] = "publish"
    assert list(Draft7Validator(specification).iter_errors(document))


def test_every_topic_of_the_catalogue_is_described() -> None:
    channels = _asyncapi()["channels"]
    assert list(channels) == [topic.name for topic in CATALOGUE]
    for topic in CATALOGUE:
        assert channels[topic.name]["description"] == topic.meaning
        assert channels[topic.name]["messages"]


def test_every_reference_leads_somewhere() -> None:
    document = _asyncapi()
    references = list(_references(document))
    assert references
    for reference in references:
        file, _, pointer = reference.partition("#")
        target = json.loads((publish.PUBLISHED / file).read_text()) if file else document
        for step in filter(None, pointer.split("/")):
            target = target[step]


def test_every_kind_of_frame_is_described() -> None:
    kinds = [
        message.kind
        for channel in CHANNELS.values()
        for message in channel.messages
        if isinstance(message, PackedMessage)
    ]
    assert sorted(kinds) == sorted(Kind)


def test_every_dead_letter_header_is_described() -> None:
    (message,) = CHANNELS["usage.rejected"].messages
    assert isinstance(message, JsonMessage)
    constants = {value for name, value in vars(rejection).items() if name.startswith("HEADER_")}
    assert set(message.headers) == constants


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []
