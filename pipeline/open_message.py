"""Records of topics that carry JSON become messages."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import Stop
from pipeline.record import Record

Message = TypeVar("Message", bound=BaseModel)


def open_message(record: Record, model: type[Message]) -> Message:
    """The message of a record.

    Raises:
        Stop: it is no `model`.
    """
    try:
        return model.model_validate_json(record.value or b"")
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise Stop(
            f"{record.topic}-{record.partition} at offset {record.offset} is no "
            f"{model.__name__.lower()}: "
            f"{'.'.join(map(str, fault['loc'])) or 'the value'}: {fault['msg']}.",
            remedy="Find the program that wrote it; only Meterline writes to this topic.",
        ) from None
