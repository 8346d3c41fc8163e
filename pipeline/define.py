"""The text of a `meterline.yaml` becomes definitions, or a list of all its faults with their lines.

Every scalar is taken as the text that stands there, and the schema says what it means. So a
quantity never passes through a binary float, an id of digits stays what it is, and a plan may be
called `no`. Aliases and tags are refused: a few of them can stand for gigabytes, or for code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import events as parsed

from pipeline.errors import Stop
from schemas.customer import Customer
from schemas.definitions import Definitions, Location, misfits
from schemas.meter import Meter, StripeMeter
from schemas.plan import Limit, Plan

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | None"

#: libyaml where PyYAML was built with it; ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Definitions are five levels deep; beyond this nothing is read, so no text can exhaust the stack.
_DEPTH_MAX = 20

#: What YAML reads as nothing when it stands without quotes.
_NOTHING = ("", "~", "null", "Null", "NULL")

_SHOWN_CHARACTERS_MAX = 60

#: The name of a list or member → what its entries are, and under which key they have their name.
_ENTRIES: Mapping[str, tuple[type[BaseModel], str, str]] = {
    "meters": (Meter, "meter", "slug"),
    "plans": (Plan, "plan", "slug"),
    "customers": (Customer, "customer", "id"),
    "limits": (Limit, "limit", "meter"),
    "stripe": (StripeMeter, "stripe", ""),
}

#: In the words of YAML; other faults keep the validator's words.
_WORDS = {
    "missing": "is missing",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "string_type": "should be a text",
    "string_too_short": "should not be empty",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a number",
    "string_pattern_mismatch": "should be a name of letters, digits and _ . : -",
}


class Fault(NamedTuple):
    """What is wrong, and in which line, counted from 1."""

    line: int
    message: str


#: The shortest definitions that count something.
_LEAST = "meters: [{slug: requests, event_type: llm.request, aggregation: count}]"


class _Fatal(Exception):
    """A fault after which the text cannot be read any further."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def parse_definitions(text: str, name: str = "meterline.yaml") -> Definitions:
    """The definitions that `text` spells; `name` is the file's, for messages.

    Raises:
        Stop: with one line `name:line: what is wrong` for each fault.
    """
    if not text.strip():
        raise Stop(f"{name} is empty.", remedy=f"Write at least one meter: {_LEAST}")
    document = _Document(text)
    tree, faults = document.tree, document.faults
    if tree is not None and not isinstance(tree, dict):
        faults.append(Fault(1, "the file should be a mapping with meters, plans and customers"))
    elif isinstance(tree, dict):
        try:
            definitions = Definitions.model_validate(tree)
        except ValidationError as error:
            faults += [
                Fault(document.line(fault["loc"]), _described(fault, tree))
                for fault in error.errors(include_url=False)
                if fault["loc"] not in document.unread
            ]
            # Said once more where other faults kept the model from saying it.
            faults += [Fault(document.line(at), message) for at, message in misfits(tree)]
        if not faults:
            return definitions
    elif not faults:
        faults.append(Fault(1, "the file has no content besides comments"))
    lines = [f"{name}:{fault.line}: {fault.message}" for fault in sorted(set(faults))]
    count = "a fault" if len(lines) == 1 else f"{len(lines)} faults"
    raise Stop(
        "\n".join([f"{name} has {count}:", *lines]),
        remedy=f"Correct {'this line' if len(lines) == 1 else 'these lines'} and start again.",
    )


class _Document:
    """The tree of a YAML text, the line of every entry, and what is wrong with it as YAML."""

    def __init__(self, text: str) -> None:
        self.tree: Tree = None
        self.faults: list[Fault] = []
        #: Where an alias stood: what is wrong there has been said.
        self.unread: set[Location] = set()
        self._lines: dict[Location, int] = {}
        events = _events(text)
        try:
            for event in events:
                if isinstance(event, parsed.DocumentStartEvent):
                    if self._lines:
                        raise _Fatal(Fault(_line(event), "a second document begins here"))
                    self._lines[()] = _line(event)
                    self.tree = self._node(next(events), events, ())
        except _Fatal as fatal:
            self.faults.append(fatal.fault)

    def line(self, location: Location) -> int:
        """The line of an entry, or of the nearest one around it."""
        while location not in self._lines and location:
            location = location[:-1]
        return self._lines.get(location, 1)

    def _node(self, event: parsed.Event, events: Iterator[parsed.Event], at: Location) -> Tree:
        if isinstance(event, parsed.AliasEvent):
            self.faults.append(Fault(_line(event), f"the alias *{event.anchor}: write it out"))
            self.unread.add(at)
            return None
        if getattr(event, "tag", None) not in (None, "!"):
            self.faults.append(Fault(_line(event), f"the tag {event.tag}: leave it out"))  # type: ignore[attr-defined]
        if len(at) > _DEPTH_MAX:
            raise _Fatal(Fault(_line(event), f"this is nested more than {_DEPTH_MAX} levels deep"))
        if isinstance(event, parsed.MappingStartEvent):
            return self._mapping(events, at)
        if isinstance(event, parsed.SequenceStartEvent):
            return self._sequence(events, at)
        assert isinstance(event, parsed.ScalarEvent)
        plain_nothing = event.implicit[0] and event.value in _NOTHING
        return None if plain_nothing else event.value

    def _mapping(self, events: Iterator[parsed.Event], at: Location) -> dict[str, Tree]:
        mapping: dict[str, Tree] = {}
        for event in events:
            if isinstance(event, parsed.MappingEndEvent):
                break
            if not isinstance(event, parsed.ScalarEvent):
                raise _Fatal(Fault(_line(event), "a key should be a text"))
            key, inner = event.value, (*at, event.value)
            if key in mapping:
                said = f"{_shown(key)} is set twice, first in line {self._lines[inner]}"
                self.faults.append(Fault(_line(event), said))
                inner = (*inner, "again")  # where nothing of the first one has its line
            self._lines[inner] = _line(event)
            mapping.setdefault(key, self._node(next(events), events, inner))
        return mapping

    def _sequence(self, events: Iterator[parsed.Event], at: Location) -> list[Tree]:
        sequence: list[Tree] = []
        for event in events:
            if isinstance(event, parsed.SequenceEndEvent):
                break
            inner = (*at, len(sequence))
            self._lines[inner] = _line(event)
            sequence.append(self._node(event, events, inner))
        return sequence


def _events(text: str) -> Iterator[parsed.Event]:
    """The parser's events; what it cannot read becomes a fault."""
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise _Fatal(Fault(mark.line + 1 if mark else 1, f"this is not YAML: {said}")) from None
    except (yaml.YAMLError, UnicodeError):
        raise _Fatal(Fault(_unprintable_line(text), "a character that YAML forbids")) from None


def _unprintable_line(text: str) -> int:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _line(event: parsed.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark else 1


def _described(fault: ErrorDetails, tree: dict[str, Tree]) -> str:
    """A validator's fault in words: whose it is, which key, what should stand there."""
    kind, given = fault["type"], fault["input"]
    if kind == "misfit":
        return fault["msg"]
    whose, path = _whose(fault["loc"], tree)
    if kind == "extra_forbidden":
        said = f"unknown key {_shown(path[-1])}{_meant(fault['loc'])}"
        return f"{whose}: {said}" if whose else said
    what = ": ".join(filter(None, (whose, ".".join(map(str, path)))))
    said = _WORDS.get(kind) or fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return f"{what}: {said}"
    if kind == "missing" or isinstance(given, dict | list):
        return f"{what} {said}"
    return f"{what} {said}, not {'nothing' if given is None else _shown(given)}"


def _whose(location: Location, tree: Tree) -> tuple[str, Location]:
    """The named entry that a location is in, as `meter tokens`, and the rest of the location."""
    whose: list[str] = []
    rest = location
    node: Any = tree
    for depth, step in enumerate(location):
        try:
            node = node[step]
        except (LookupError, TypeError):
            node = None
        if isinstance(step, int) and location[depth - 1] in _ENTRIES:
            _, what, named_by = _ENTRIES[str(location[depth - 1])]
            name = node.get(named_by) if isinstance(node, dict) else None
            whose.append(f"{what} {_shown(name) if isinstance(name, str) else step + 1}")
            rest = location[depth + 1 :]
    return ", ".join(whose), rest


def _meant(location: Location) -> str:
    """What an unknown key was meant to be."""
    around = next((step for step in reversed(location[:-1]) if step in _ENTRIES), None)
    model = _ENTRIES[str(around)][0] if around is not None else Definitions
    close = get_close_matches(str(location[-1]), model.model_fields, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f"; there are {', '.join(model.model_fields)}"


def _shown(given: object) -> str:
    text = given if isinstance(given, str) and given.isprintable() and given else repr(given)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…"
