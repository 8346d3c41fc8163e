"""Usual events become columns straight from their bytes: one pass, no Python object an event.

A usual event is JSON in plain ASCII without escapes, with each attribute once, its time in UTC, and
as data one flat object of texts and numbers, with whole numbers wherever a meter reads a quantity.
That is a part of what `pipeline.decode` reads, which alone says what an event is: all that is
unusual goes there, event by event. Both read the same into what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.find_parts import PartFinder
from pipeline.gather import gather
from pipeline.hash_parts import Hashes, hash_parts
from pipeline.measure import Reading
from pipeline.scan_event import (
    ABSENT,
    ATTRIBUTES,
    BASE64,
    CONTENT_TYPE,
    DATA,
    DECIMAL,
    ID,
    INTEGER,
    OBJECT,
    SOURCE,
    SUBJECT,
    TEXT,
    TIME,
    TYPE,
    VERSION,
    Places,
    read_times,
)
from pipeline.words import Texts, words_of
from schemas.meter import path_steps
from schemas.usage_event import NAME_CHARACTERS_MAX

_NAMES = (ID, SOURCE, TYPE, SUBJECT)


@dataclass(frozen=True)
class Scanned:
    """The n usual events among those that were scanned.

    `rows` are their places there, `times_ns` in nanoseconds since 1970, `types` an array of strings
    with a dictionary. `begins` and `ends`, shape (parts, n), are where in `text` attributes, data
    and what meters read of it lie, in the order of `scan_event.ATTRIBUTES` and then of `members`;
    `integers` are the whole numbers among these. `bounds` cut `text` into all that was scanned.
    """

    text: NDArray[np.uint8]
    rows: NDArray[np.int64]
    bounds: Places
    times_ns: NDArray[np.int64]
    types: pa.Array
    begins: Places
    ends: Places
    integers: NDArray[np.int64]
    members: Mapping[str, int]

    def strings(self, number: int) -> pa.Array:
        """An attribute as strings."""
        return gather(self.text, self.begins[number], self.ends[number], pa.string())

    def hashes(self, *numbers: int) -> Hashes:
        """Hashes of some attributes, or the data, as they were sent; absent ones are empty."""
        return hash_parts(words_of(self.text), self.begins, self.ends, np.array(numbers))

    def originals(self) -> pa.Array:
        """The events as they were sent."""
        if len(self.rows) == len(self.bounds) - 1:
            buffers = [None, pa.py_buffer(self.bounds), pa.py_buffer(self.text)]
            return pa.Array.from_buffers(pa.binary(), len(self.rows), buffers)
        return gather(self.text, self.bounds[self.rows], self.bounds[self.rows + 1], pa.binary())

    def texts(self, path: str) -> pa.Array:
        """What stands at a path of a dimension; empty where nothing does."""
        member = self.members.get(path)
        return pa.nulls(len(self.rows), pa.string()) if member is None else self.strings(member)

    def quantities(self, path: str) -> NDArray[np.int64]:
        """The whole numbers at a path, zero where there is none."""
        member = self.members.get(path)
        return np.zeros_like(self.rows) if member is None else self.integers[member]


class Scanner:
    """Looks for what meters read, by event type."""

    def __init__(self, readings: Mapping[str, Reading]) -> None:
        self._readings = readings
        self._simple = {name for name, reading in readings.items() if _is_simple(reading)}
        paths = chain(*(readings[name].values + readings[name].dimensions for name in self._simple))
        names = {path: _member(path) for path in paths}
        # A member is found once, in however many ways its path is written.
        places = {name: len(ATTRIBUTES) + n for n, name in enumerate(dict.fromkeys(names.values()))}
        self._members = {path: places[name] for path, name in names.items()}
        self._parts = PartFinder([*ATTRIBUTES, *places])

    def scan(self, events: Texts, may_be_usual: NDArray[np.bool_]) -> Scanned:
        """What is usual among n `events`, of those that may be so, shape (n,)."""
        usual, kinds, begins, ends, integers = self._parts.find(events)
        text, bounds = events
        usual &= may_be_usual
        times_ns = np.empty(len(usual), dtype=np.int64)
        read_times(text, begins[TIME], ends[TIME], times_ns)
        usual &= times_ns >= 0
        usual &= _are_attributes_usual(text, kinds, begins, ends)
        types = gather(text, begins[TYPE], ends[TYPE], pa.string()).dictionary_encode()
        usual &= self._have_what_is_read(types, kinds)
        if usual.all():
            rows = np.arange(len(usual))
        else:
            rows = np.flatnonzero(usual)
            times_ns, types = times_ns[rows], types.take(pa.array(rows))
            begins, ends, integers = begins[:, rows], ends[:, rows], integers[:, rows]
        return Scanned(text, rows, bounds, times_ns, types, begins, ends, integers, self._members)

    def _have_what_is_read(self, types: pa.Array, kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which events have what the meters of their type read, in a form that is read here."""
        codes = types.indices.to_numpy()
        usual = np.ones(len(codes), dtype=np.bool_)
        for code, name in enumerate(types.dictionary.to_pylist()):
            reading = self._readings.get(name)
            if reading is None:
                continue
            of_type = codes == code
            if name not in self._simple:
                usual &= ~of_type
                continue
            for path in reading.values:
                usual &= ~of_type | (kinds[self._members[path]] == INTEGER)
            for path in reading.dimensions:
                usual &= ~of_type | (kinds[self._members[path]] != DECIMAL)
        return usual


def _are_attributes_usual(
    octets: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    begins: Places,
    ends: Places,
) -> NDArray[np.bool_]:
    """Which events have all attributes that they must have, and none that is not read here."""
    usual: NDArray[np.bool_] = (kinds[BASE64] == ABSENT) & (kinds[TIME] == TEXT)
    usual &= (kinds[DATA] == ABSENT) | (kinds[DATA] == OBJECT)
    usual &= _is(b"1.0", VERSION, octets, begins, ends)
    if kinds[CONTENT_TYPE].any():
        is_json = _is(b"application/json", CONTENT_TYPE, octets, begins, ends)
        usual &= (kinds[CONTENT_TYPE] == ABSENT) | is_json
    for name in _NAMES:
        length = ends[name] - begins[name]
        usual &= (length > 0) & (length <= NAME_CHARACTERS_MAX)
    return usual


def _is(
    text: bytes,
    number: int,
    octets: NDArray[np.uint8],
    begins: Places,
    ends: Places,
) -> NDArray[np.bool_]:
    """Which events have `text` as an attribute."""
    same: NDArray[np.bool_] = ends[number] - begins[number] == len(text)
    at = np.where(same, begins[number], 0)
    for place, octet in enumerate(text):
        same &= octets[at + place] == octet
    return same


def _is_simple(reading: Reading) -> bool:
    """Whether it reads only members of the data itself, whose names stand in JSON as they are."""
    return all(
        len(steps := path_steps(path)) == 1
        and isinstance(name := steps[0], str)
        and name.isascii()
        and name.isprintable()
        and not set('"\\') & set(name)
        for path in reading.values + reading.dimensions
    )


def _member(path: str) -> bytes:
    (name,) = path_steps(path)
    return str(name).encode()
