"""Records as columns of what was fetched; each becomes a record when it is asked for, if at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.record import HEADER, PLAIN_HEADERS, Headers, Record, Records, Value
from pipeline.words import SENTINEL, Texts

#: What headers a record has: none, those of one event alone, those with others that say nothing of
#: it, those that say it is one event, or any. From the third kind on they stand in the columns.
NO_HEADERS, EVENT_HEADERS, IDLE_HEADERS, ONE_HEADERS, OTHER_HEADERS = range(5)


class Columns(NamedTuple):
    """n records: an array of shape (n,) or n texts a field.

    `header_kinds` are those above, `headers` what stands in those that need it.
    """

    topic_codes: NDArray[np.int32]
    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    header_kinds: NDArray[np.uint8]
    has_value: NDArray[np.bool_]
    has_key: NDArray[np.bool_]
    values: Texts
    keys: Texts
    headers: Texts


class Fetched(Records):
    """Records of some topics, by the codes of their columns."""

    def __init__(self, topics: Sequence[str], columns: Columns) -> None:
        super().__init__(range(len(columns.offsets)))
        self._topics = topics
        self._columns = columns

    def followed_by(self, others: Sequence[Records]) -> Records:
        """These records and then those of `others`."""
        parts = [self, *(other for other in others if isinstance(other, Fetched))]
        if len(parts) <= len(others):
            return super().followed_by(others)
        topics = list(dict.fromkeys(topic for part in parts for topic in part._topics))
        codes = [
            np.array(list(map(topics.index, part._topics)), np.int32)[part._columns.topic_codes]
            for part in parts
        ]
        columns = zip(*(part._columns for part in parts), strict=True)
        joined = Columns(*map(_joined, columns))
        return Fetched(topics, joined._replace(topic_codes=np.concatenate(codes)))

    def picked(self, places: Sequence[int]) -> Records:
        """The records at `places`."""
        return Records([self._record(place) for place in places])

    def __getitem__(self, index: int | slice) -> Any:
        found = self._records[index]
        return self._record(found) if isinstance(found, int) else list(map(self._record, found))

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self._records)

    @property
    def size_bytes(self) -> int:
        """The bytes that all values, keys and headers take here."""
        columns = self._columns
        return sum(
            int(texts.bounds[-1]) for texts in (columns.values, columns.keys, columns.headers)
        )

    @property
    def partitions(self) -> NDArray[np.int32]:
        """The partition of each, shape (n,)."""
        return self._columns.partitions

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The offset of each, shape (n,)."""
        return self._columns.offsets

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        """The timestamp of each, in milliseconds since 1970, shape (n,)."""
        return self._columns.timestamps_ms

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """Zeros: whoever reads a log reads whole records."""
        return np.zeros(len(self), np.int32)

    @cached_property
    def values(self) -> Sequence[Value]:
        """The value of each."""
        return list(map(self._value, self._records))

    @cached_property
    def headers(self) -> list[Headers]:
        """The headers of each."""
        return list(map(self._headers, self._records))

    @property
    def texts(self) -> Texts:
        """All values, one after the other; an absent one is empty."""
        return self._columns.values

    @cached_property
    def has_usual_headers(self) -> NDArray[np.bool_]:
        """Which have the headers of one event in structured mode, or none, shape (n,)."""
        usual: NDArray[np.bool_] = self._columns.header_kinds <= IDLE_HEADERS
        return usual

    @property
    def are_plain(self) -> bool:
        """Whether none holds many events, by the headers alone."""
        return bool((self._columns.header_kinds != OTHER_HEADERS).all())

    @property
    def header_texts(self) -> Texts:
        """The headers of each, but for those that are usual without more."""
        return self._columns.headers

    def _record(self, place: int) -> Record:
        columns = self._columns
        return Record(
            self._topics[columns.topic_codes[place]],
            int(columns.partitions[place]),
            int(columns.offsets[place]),
            int(columns.timestamps_ms[place]),
            _text(columns.keys, place) if columns.has_key[place] else None,
            self._value(place),
            self._headers(place),
        )

    def _value(self, place: int) -> bytes | None:
        return _text(self._columns.values, place) if self._columns.has_value[place] else None

    def _headers(self, place: int) -> Headers:
        kind = self._columns.header_kinds[place]
        if kind < IDLE_HEADERS:
            return PLAIN_HEADERS if kind == EVENT_HEADERS else ()
        return tuple(_headers_in(_text(self._columns.headers, place)))


def _text(texts: Texts, place: int) -> bytes:
    return texts.octets[texts.bounds[place] : texts.bounds[place + 1]].tobytes()


def _headers_in(text: bytes) -> Iterator[tuple[str, bytes]]:
    """As the client library has them, which is why a name must be a text: a value may be absent.

    A client in C may send any bytes as a name, and nobody should have to stop for it.
    """
    at = 0
    while at < len(text):
        name_length, value_length = HEADER.unpack_from(text, at)
        name_at = at + HEADER.size
        value_at = name_at + name_length
        at = value_at + max(value_length, 0)
        value = None if value_length < 0 else text[value_at:at]
        name = text[name_at:value_at].decode(errors="replace")
        yield name, cast(bytes, value)


def _joined(pieces: Sequence[Any]) -> Any:
    """Columns of one field, one after the other."""
    if not isinstance(pieces[0], Texts):
        return np.concatenate(pieces)
    sizes = np.concatenate([np.diff(texts.bounds) for texts in pieces])
    bounds = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=bounds[1:])
    said = [texts.octets[: texts.bounds[-1]] for texts in pieces]
    octets = np.concatenate([*said, np.frombuffer(SENTINEL, np.uint8)])
    octets.flags.writeable = False
    return Texts(octets, bounds)
