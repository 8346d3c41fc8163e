"""What the pure core knows of a log: records in, records out, positions reached."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Retry
from pipeline.words import Texts
from schemas.usage_event import HEADER_PREFIX, STRUCTURED

Headers = tuple[tuple[str, bytes], ...]

#: What our own producer and most others send; looked at before anything slower.
PLAIN_HEADERS: Headers = (("content-type", STRUCTURED.encode()),)

((_, _TYPE),) = PLAIN_HEADERS

#: What the data of an event in binary mode are.
DATA_TYPE = b"application/json"

#: The lengths of a header's name and value, as they stand before both.
HEADER = struct.Struct("=qq")

#: Bytes as they lie in a record, or in a part of one.
Value = bytes | msgspec.Raw | None


def are_usual(headers: Headers) -> bool:
    """Whether headers say at most that a value is one event in structured mode.

    Those of tracing, of frameworks and the like say nothing of an event.
    """
    if not headers or headers == PLAIN_HEADERS:
        return True
    if any(name.lower().startswith(HEADER_PREFIX) for name, _ in headers):
        return False
    types = _content_types(headers)
    return not types or (len(types) == 1 and _is_usual_type(types[0]))


def are_of_one(headers: Headers) -> bool:
    """Whether headers alone say that a value is one event at most, and not many.

    So do all content types that most programs send; of others one would have to know more.
    """
    return all(
        _is_usual_type(value) or (value or b"").startswith(DATA_TYPE)
        for value in _content_types(headers)
    )


def _content_types(headers: Headers) -> list[bytes | None]:
    return [value for name, value in headers if name.lower() == "content-type"]


def _is_usual_type(value: bytes | None) -> bool:
    """Whether a content type is that of one event, in lower case, perhaps with parameters."""
    said = value or b""
    return said.isascii() and (said == _TYPE or said.startswith(_TYPE + b";"))


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as it was read, or one event of it. `timestamp_ms` is in milliseconds since 1970.

    `index` is the event's place in a record that held many, see `pipeline.unpack`; else it is 0.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    index: int = 0


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to be written. Without `partition` the key decides where it goes.

    A restore of its partition's state may begin at a record that `begins` a snapshot, once there is
    the one that `completes` it; what is written in between may belong to other things.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()
    begins: bool = False
    completes: bool = False


def _size(record: Record) -> int:
    """The bytes of its value, its key and its headers."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers


def _header_bytes(header: tuple[str, bytes | None]) -> bytes:
    name, value = header
    said = name.encode(errors="replace")
    return HEADER.pack(len(said), -1 if value is None else len(value)) + said + (value or b"")


class Records(Sequence[Record]):
    """Records in the order in which they were read, also as columns of their fields.

    A loop's own kind of these makes a record only when it is asked for one: whoever can do with
    columns needs none.
    """

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    @staticmethod
    def joined(parts: Sequence[Records]) -> Records:
        """The records of `parts`, of which there is at least one, one after the other."""
        first, *others = parts
        return first.followed_by(others) if others else first

    def followed_by(self, others: Sequence[Records]) -> Records:
        """These records and then those of `others`."""
        return Records([record for part in (self, *others) for record in part])

    @classmethod
    def of_columns(cls, records: Sequence[Any], **columns: Sequence[Any] | NDArray[Any]) -> Records:
        """`records`, of which some columns are at hand already, by their names."""
        made = cls(records)
        made.__dict__.update(columns)
        return made

    def picked(self, places: Sequence[int]) -> Records:
        """The records at `places`."""
        return type(self)([self._records[place] for place in places])

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        found: Record | Sequence[Record] = self._records[index]
        return found

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def size_bytes(self) -> int:
        """The bytes of all values and keys, and about those of headers."""
        return sum(map(_size, self))

    @cached_property
    def partitions(self) -> NDArray[np.int32]:
        """The partition of each, shape (n,)."""
        return np.array([record.partition for record in self], dtype=np.int32)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The offset of each, shape (n,)."""
        return np.array([record.offset for record in self], dtype=np.int64)

    @cached_property
    def ends(self) -> dict[int, int]:
        """Partition → the offset behind its last record; there is at least one record."""
        ends = np.zeros(int(self.partitions.max()) + 1, dtype=np.int64)
        np.maximum.at(ends, self.partitions, self.offsets + 1)
        return {partition: end for partition, end in enumerate(ends.tolist()) if end}

    @cached_property
    def timestamps_ms(self) -> NDArray[np.int64]:
        """The timestamp of each, in milliseconds since 1970, shape (n,)."""
        return np.array([record.timestamp_ms for record in self], dtype=np.int64)

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """The place of each in a record that held many, shape (n,)."""
        return np.array([record.index for record in self], dtype=np.int32)

    @cached_property
    def values(self) -> Sequence[Value]:
        """The value of each."""
        return [record.value for record in self]

    @cached_property
    def headers(self) -> list[Headers]:
        """The headers of each."""
        return [record.headers for record in self]

    @cached_property
    def texts(self) -> Texts:
        """All values, one after the other; an absent one is empty."""
        return Texts.of(self.values)

    @cached_property
    def has_usual_headers(self) -> NDArray[np.bool_]:
        """Which have the headers of one event in structured mode, or none, shape (n,)."""
        headers = self.headers
        if headers.count(PLAIN_HEADERS) + headers.count(()) == len(headers):
            return np.ones(len(headers), dtype=np.bool_)
        return np.array(list(map(are_usual, headers)), dtype=np.bool_)

    @cached_property
    def header_texts(self) -> Texts:
        """The headers of each, one after the other; those that are usual may be left out.

        A header is the lengths of its name and of its value as `HEADER`, and both; the length of a
        value that is absent is -1.
        """
        left_out = self.has_usual_headers.tolist()
        return Texts.of(
            b"" if is_usual else b"".join(map(_header_bytes, headers))
            for headers, is_usual in zip(self.headers, left_out, strict=True)
        )

    @property
    def are_plain(self) -> bool:
        """Whether none holds many events, by the headers alone."""
        return bool(self.has_usual_headers.all()) or all(map(are_of_one, self.headers))


#: (topic, partition) → the next offset to read.
Positions = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Records up to `through_offset` may have been sent since `since_ms` by an earlier process.

    Those under the keys that are `answered` are done, though no position is behind them.
    """

    through_offset: int
    since_ms: int
    answered: Set[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Written:
    """What a sink made durable: where to go on from, and what to tell other readers.

    Records that are `waiting` are not done: positions stay before them, and they are given again
    together with what comes next. A `refusal` says why, and how long nothing at all is to be sent;
    if it does not, the loop decides.
    """

    positions: Positions
    outgoing: Sequence[Outgoing] = ()
    waiting: Sequence[Record] = ()
    refusal: Retry | None = None


class Sink(Protocol):
    """A place outside that takes records at least once and makes them count once.

    The delivery loop calls `resume` for each partition it is given, then `write` with batches in
    the order of each partition, each with what the one before left waiting, and commits only the
    positions that `write` returned. `forget` drops whatever is buffered for a partition that went
    to another process.
    """

    topics: Sequence[str]

    def resume(self, topic: str, partition: int, attempt: Attempt | None) -> None:
        """Begin with a partition; `attempt` is what an earlier process had started, if anything."""

    def write(self, records: Sequence[Record], now_ms: int) -> Written:
        """Make `records` durable outside.

        Raises:
            Retry: nothing is known to be wrong; the same records are given again after a wait.
            Stop: going on would lose or falsify something.
        """

    def ahead(self) -> Set[tuple[str, int]]:
        """The (topic, partition) that should not be read on until others have caught up."""

    def forget(self, topic: str, partition: int) -> None:
        """Drop what is buffered for a partition that is no longer ours."""
