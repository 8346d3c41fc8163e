"""What meters read from an event's data: quantities and dimensions, at their paths.

For each event type the paths of all its meters are read once, however many meters share them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import msgspec

from pipeline.decode import EVENT_BYTES_MAX
from pipeline.errors import Reject
from schemas.definitions import Definitions
from schemas.meter import path_steps
from schemas.quantity import parse

_json = msgspec.json.Encoder(order="sorted", decimal_format="number")

#: Integers up to here need no further check: fewer than 38 digits, and 64 bits hold them.
_SMALL = 10**18

#: A dimension that is a number beyond 10^±100 keeps its exponent, or a few bytes could become
#: gigabytes.
_PLAIN_EXPONENT_MAX = 100


@dataclass(frozen=True)
class Reading:
    """What the meters of one event type read: value paths, then dimension paths."""

    values: tuple[str, ...]
    dimensions: tuple[str, ...]

    @cached_property
    def has_paths(self) -> bool:
        """Whether anything is read, be it the data as a whole, which has no name."""
        return bool(self.values or self.dimensions)

    @cached_property
    def names(self) -> tuple[bytes, ...]:
        """The member names that the paths walk through, as they stand in JSON."""
        steps = [step for path in self.values + self.dimensions for step in path_steps(path)]
        return tuple({_json.encode(step): None for step in steps if isinstance(step, str)})

    @cached_property
    def _values(self) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
        return tuple((path, _getter(path)) for path in self.values)

    @cached_property
    def _dimensions(self) -> tuple[Callable[[Any], Any], ...]:
        return tuple(_getter(path) for path in self.dimensions)

    def quantities(self, data: Any) -> list[int | Decimal]:
        """The quantity at each value path.

        Raises:
            Reject: where one is missing or no quantity; an event counts in all its meters or none.
        """
        # Plain loops here and below: comprehensions and zip cost more than the few paths.
        quantities = []
        for path, get in self._values:
            number = get(data)
            if type(number) is not int or not -_SMALL < number < _SMALL:
                number = _quantity(number, path)
            quantities.append(number)
        return quantities

    def texts(self, data: Any) -> list[str]:
        """The text at each dimension path; a missing field is the empty string."""
        texts = []
        for get in self._dimensions:
            text = get(data)
            texts.append(text if type(text) is str else _text(text))
        return texts


def readings(definitions: Definitions) -> dict[str, Reading]:
    """What to read of each event type that some meter counts."""
    by_type: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for meter in definitions.meters:
        values, dimensions = by_type.setdefault(meter.event_type, ({}, {}))
        if meter.value is not None:
            values[meter.value] = None
        dimensions.update(dict.fromkeys(meter.group_by.values()))
    return {
        event_type: Reading(tuple(values), tuple(dimensions))
        for event_type, (values, dimensions) in by_type.items()
    }


def _getter(path: str) -> Callable[[Any], Any]:
    steps = path_steps(path)
    if len(steps) == 1 and isinstance(steps[0], str):
        name = steps[0]
        return lambda data: data.get(name) if type(data) is dict else None

    def walk(data: Any) -> Any:
        for step in steps:
            if isinstance(step, str):
                data = data.get(step) if type(data) is dict else None
            else:
                data = data[step] if type(data) is list and step < len(data) else None
        return data

    return walk


def _quantity(raw: Any, path: str) -> int | Decimal:
    if raw is None:
        raise Reject(
            "missing_value",
            f"The data has no value at {path}, which a meter of this event type counts.",
            remedy=f"Send {path} as an integer or a decimal string.",
        )
    try:
        if isinstance(raw, bool) or not isinstance(raw, str | int | Decimal):
            raise ValueError("it is not a number")
        quantity = parse(raw)
    except ValueError as error:
        raise Reject(
            "invalid_value",
            f"The value at {path} is no quantity: {error}.",
            remedy="Send an integer or a decimal string of at most 9 places and 38 digits.",
        ) from None
    return int(quantity) if quantity == quantity.to_integral_value() else quantity


def _text(raw: Any) -> str:
    if raw is None:
        return ""
    if isinstance(raw, Decimal) and abs(raw.adjusted()) <= _PLAIN_EXPONENT_MAX:
        return format(raw, "f")
    if isinstance(raw, Decimal):
        return str(raw)
    text = _json.encode(raw)
    if len(text) > EVENT_BYTES_MAX:
        # Four bytes, 1e99, become a hundred.
        raise Reject(
            "invalid_data",
            f"A dimension takes {len(text)} bytes, more than an event may have, to be written as a "
            "text.",
            remedy="Group by a text or a number.",
        )
    return text.decode()
