"""Usual events become columns straight from their bytes: one pass, no Python object an event.

A usual event is a JSON object with each attribute once, as texts without escapes, and an object as
data. What meters read there are texts without escapes and quantities of a usual size; what nobody
reads may be any JSON. That is a part of what `pipeline.decode` reads, which alone says what an
event is: all that is unusual goes there, event by event. Both read the same into what is usual.
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
from pipeline.read_parts import read_quantities, read_times
from pipeline.scan_event import (
    ABSENT,
    BASE64,
    CONTENT_TYPE,
    DATA,
    DECIMAL,
    ID,
    INTEGER,
    KINDS,
    LITERAL,
    MEMBERS,
    OBJECT,
    SOURCE,
    SUBJECT,
    TEXT,
    TIME,
    TYPE,
    VERSION,
    Places,
)
from pipeline.words import Texts, words_of
from schemas.meter import path_steps
from schemas.quantity import PLACES
from schemas.usage_event import NAME_CHARACTERS_MAX

_NAMES = (ID, SOURCE, TYPE, SUBJECT)

#: What may be a quantity, by its kind, and what may be a dimension as it stands.
_NUMERIC = np.isin(np.arange(KINDS), (TEXT, INTEGER, DECIMAL))
_TEXTUAL = np.isin(np.arange(KINDS), (ABSENT, TEXT, INTEGER, LITERAL))
#: What fits 64 bits with so many more places, by their number.
_FITTING = np.iinfo(np.int64).max // 10 ** np.arange(PLACES + 1)


@dataclass(frozen=True)
class Scanned:
    """The n usual events among those that were scanned.

    `rows` are their places there, `times_ns` in nanoseconds since 1970, `types` an array of strings
    with a dictionary. `begins` and `ends`, shape (parts, n), are where in `text` attributes, data
    and what meters read of it lie, in the order of `scan_event.ATTRIBUTES` and then of `members`;
    `integers` are the numbers among these, whole ones, or over as many `places` as all of a member
    have. `bounds` cut `text` into all that was scanned.
    """

    text: NDArray[np.uint8]
    rows: NDArray[np.int64]
    bounds: Places
    times_ns: NDArray[np.int64]
    types: pa.Array
    begins: Places
    ends: Places
    integers: NDArray[np.int64]
    places: Mapping[int, int]
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

    def quantities(self, path: str) -> tuple[NDArray[np.int64], int]:
        """The quantities at a path, as integers over so many places; zero where there is none."""
        member = self.members.get(path)
        if member is None:
            return np.zeros_like(self.rows), 0
        return self.integers[member], self.places.get(member, 0)


class Scanner:
    """Looks for what meters read, by event type."""

    def __init__(self, readings: Mapping[str, Reading]) -> None:
        self._readings = readings
        self._simple = {name for name, reading in readings.items() if _is_simple(reading)}
        read = [readings[name] for name in self._simple]
        paths = {
            path: _names(path) for path in chain(*(each.values + each.dimensions for each in read))
        }
        # A member is found once, in however many ways its path is written, behind what it is in.
        members = dict.fromkeys(
            names[:count] for names in paths.values() for count in range(1, len(names) + 1)
        )
        numbers = {names: MEMBERS + n for n, names in enumerate(members)}
        self._members = {path: numbers[names] for path, names in paths.items()}
        self._parts = PartFinder(list(members))

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
        values = self._have_what_is_read(types, kinds, usual)
        places = {}
        for number, is_read in values.items():
            lie = kinds[number], begins[number], ends[number]
            if _scale(text, *lie, is_read & usual, integers[number], usual):
                places[number] = PLACES
        if usual.all():
            rows = np.arange(len(usual))
        else:
            rows = np.flatnonzero(usual)
            times_ns, types = times_ns[rows], types.take(pa.array(rows))
            begins, ends, integers = begins[:, rows], ends[:, rows], integers[:, rows]
        return Scanned(
            text, rows, bounds, times_ns, types, begins, ends, integers, places, self._members
        )

    def _have_what_is_read(
        self, types: pa.Array, kinds: NDArray[np.uint8], usual: NDArray[np.bool_]
    ) -> dict[int, NDArray[np.bool_]]:
        """Leave `usual` what has all that the meters of its type read, in a form that is read here.

        Returns in which events they read a quantity, shape (n,), by the number of its member.
        """
        codes = types.indices.to_numpy()
        values: dict[int, NDArray[np.bool_]] = {}
        for code, name in enumerate(types.dictionary.to_pylist()):
            reading = self._readings.get(name)
            if reading is None:
                continue
            of_type = codes == code
            if name not in self._simple:
                usual &= ~of_type
                continue
            for path in reading.values:
                number = self._members[path]
                usual &= ~of_type | _NUMERIC[kinds[number]]
                values[number] = values.get(number, False) | of_type
            for path in reading.dimensions:
                usual &= ~of_type | _TEXTUAL[kinds[self._members[path]]]
        return values


def _scale(
    octets: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    begins: Places,
    ends: Places,
    is_read: NDArray[np.bool_],
    integers: NDArray[np.int64],
    usual: NDArray[np.bool_],
) -> bool:
    """Add to `integers` the decimals that are read; all get `PLACES` where one has a fraction.

    Leaves `usual` what then fits 64 bits. Returns whether they have these places. Shapes: (n,).
    """
    rows = np.flatnonzero(is_read & (kinds != INTEGER))
    if not len(rows):
        return False
    needed = np.empty(len(rows), dtype=np.int64)
    decimals = np.empty(len(rows), dtype=np.int64)
    read_quantities(octets, begins[rows], ends[rows], decimals, needed)
    usual[rows[needed < 0]] = False
    integers[rows] = decimals
    if needed.max() <= 0:
        return False
    missing = np.full(len(integers), PLACES)
    missing[rows] -= np.maximum(needed, 0)
    fits = is_read & (np.abs(integers) <= _FITTING[missing])
    usual &= fits | ~is_read
    integers *= np.where(fits, 10**missing, 0)
    return True


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
        is_json = _is(b"application/json", CONTENT_TYPE, octets, begins, ends, or_with=b";")
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
    *,
    or_with: bytes = b"",
) -> NDArray[np.bool_]:
    """Which events have `text` as an attribute, or `text` before one of `or_with` and any more."""
    length = ends[number] - begins[number]
    same: NDArray[np.bool_] = length == len(text)
    for octet in or_with:
        longer = length > len(text)
        same |= longer & (octets[np.where(longer, begins[number] + len(text), 0)] == octet)
    at = np.where(same, begins[number], 0)
    for place, octet in enumerate(text):
        same &= octets[at + place] == octet
    return same


def _is_simple(reading: Reading) -> bool:
    """Whether it reads only members by their names, which stand in JSON as they are."""
    return all(
        (steps := path_steps(path)) and all(map(_is_plain, steps))
        for path in reading.values + reading.dimensions
    )


def _is_plain(step: str | int) -> bool:
    return (
        isinstance(step, str)
        and step.isascii()
        and step.isprintable()
        and not set('"\\') & set(step)
    )


def _names(path: str) -> tuple[bytes, ...]:
    return tuple(str(step).encode() for step in path_steps(path))
