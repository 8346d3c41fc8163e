"""A record that holds many events becomes its events, each a record with its place in it.

Such a record has the content type `PACKED` and a JSON array as its value. It is only split here:
its elements stay bytes, and what they are is for intake to find out, one by one where that must be.
So a broken element is rejected alone. A record that is no array cannot be split; it stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain, repeat
from typing import Any

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from pipeline.errors import Reject
from pipeline.nesting import NESTING_MAX, PACKED_NESTING_MAX, is_nested_deeper
from pipeline.record import PLAIN_HEADERS, Headers, Record, Records, Value
from schemas.usage_event import (
    HEADER_PREFIX,
    PACKED,
    PACKED_BYTES_MAX,
    PACKED_EVENTS_MAX,
    PACKED_HEADER_BYTES_MAX,
    STRUCTURED,
)

_PACKED_HEADERS: Headers = (("content-type", PACKED.encode()),)

_array = msgspec.json.Decoder(list[msgspec.Raw])


def unpacked(records: Records, events_max: int) -> Iterator[Records]:
    """The events of `records` in their order; a record that holds one, or cannot be split, is one.

    They come in parts of whole records. A part has at most `events_max` events, and they repeat no
    more bytes of headers than those of one record may; or it is one record. A few bytes may hold
    many events, and nobody should have to hold all of them at once.

    An element has the key and the timestamp of its record, and its headers with the content type
    of one event. Among the columns `headers` leaves out those that say nothing of an event.
    """
    begin = count = repeated = 0
    split: dict[int, Sequence[Value]] = {}
    for place, (names, value) in enumerate(zip(records.headers, records.values, strict=True)):
        found = _split(names, value)
        size, again = (1, 0) if found is None else (len(found), _repeated(names, found))
        is_full = count + size > events_max or repeated + again > PACKED_HEADER_BYTES_MAX
        if count and is_full:
            yield _taken_apart(records.picked(range(begin, place)), split)
            begin, count, repeated, split = place, 0, 0, {}
        if found is not None:
            split[place - begin] = found
        count += size
        repeated += again
    yield _taken_apart(records.picked(range(begin, len(records))) if begin else records, split)


def _split(headers: Headers, value: Value) -> Sequence[Value] | None:
    """The elements of a record's value; None where it is one event, or cannot be split."""
    if headers != _PACKED_HEADERS and (
        not headers or headers == PLAIN_HEADERS or not _is_packed(headers)
    ):
        return None
    try:
        return elements(headers, value or b"")
    except Reject:
        return None


def _taken_apart(records: Records, split: Mapping[int, Sequence[Value]]) -> Records:
    """`records`, of which those at the places in `split` are the elements that stand there."""
    if not split:
        return records
    headers = records.headers
    counts = np.ones(len(records), dtype=np.int64)
    counts[list(split)] = list(map(len, split.values()))
    sources = np.repeat(np.arange(len(records)), counts)
    begins = np.cumsum(counts) - counts
    indices = (np.arange(len(sources)) - begins[sources]).astype(np.int32)
    values = [split.get(place, (value,)) for place, value in enumerate(records.values)]
    named = [
        repeat(_telling(names), len(split[place])) if place in split else (names,)
        for place, names in enumerate(headers)
    ]
    columns: dict[str, Any] = {
        "values": list(chain.from_iterable(values)),
        "headers": list(chain.from_iterable(named)),
        "partitions": records.partitions[sources],
        "offsets": records.offsets[sources],
        "timestamps_ms": records.timestamps_ms[sources],
        "indices": indices,
    }
    elsewhere = _Events(records, split.keys(), sources, indices, columns["values"])
    return Records.of_columns(elsewhere, **columns)


def events_in(record: Record) -> int:
    """How many events a record of usage.events is taken for; 1 where it cannot be split."""
    return len(_split(record.headers, record.value) or (record,))


def elements(headers: Headers, value: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """The elements of a packed record's array as they are written, less the blanks around them.

    Raises:
        Reject: naming why the record that has these headers and this value cannot be taken apart.
    """
    if len(value) > PACKED_BYTES_MAX:
        raise _too_large(f"has {len(value)} bytes, at most {PACKED_BYTES_MAX} are read")
    try:
        found = _array.decode(bytes(value))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise Reject(
            "malformed_json",
            f"The value is no JSON array of events: {error}.",
            remedy=f"Send {PACKED} as one JSON array in UTF-8, or one event as {STRUCTURED}.",
        ) from None
    if any(is_nested_deeper(each, PACKED_NESTING_MAX) for each in found):
        raise Reject(
            "malformed_json",
            f"An event in the array is nested more than {PACKED_NESTING_MAX} levels deep.",
            remedy=f"Send such an event alone; at most {NESTING_MAX} levels are read.",
        )
    if not found:
        raise Reject(
            "not_a_cloudevent",
            "The array has no events.",
            remedy="Send a record when there is an event to send.",
        )
    if len(found) > PACKED_EVENTS_MAX:
        raise _too_large(f"holds {len(found)} events, at most {PACKED_EVENTS_MAX} are read")
    repeated = _repeated(headers, found)
    if repeated > PACKED_HEADER_BYTES_MAX:
        # A record of kilobytes could become more bytes of rejections than memory holds.
        raise _too_large(
            f"holds {len(found)} events that would repeat {repeated} bytes of its headers, at most "
            f"{PACKED_HEADER_BYTES_MAX} are read",
            remedy="Send fewer headers or fewer events in a record; the same ids count once.",
        )
    return found


def media_type_of(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


class _Events(Sequence[Record]):
    """Records of single events, made when they are asked for."""

    def __init__(
        self,
        records: Records,
        split: Set[int],
        sources: NDArray[np.int64],
        indices: NDArray[np.int32],
        values: Sequence[Value],
    ) -> None:
        self._records = records
        self._split = split
        self._sources = sources
        self._indices = indices
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        source = int(self._sources[place])
        record = self._records[source]
        if source not in self._split:
            return record
        return structs.replace(
            record,
            value=bytes(self._values[place] or b""),
            headers=(*PLAIN_HEADERS, *_others(record.headers)),
            index=int(self._indices[place]),
        )


def _is_packed(headers: Headers) -> bool:
    """Whether the one content type says so; of several none counts."""
    types = [text for name, text in headers if name.lower() == "content-type"]
    return len(types) == 1 and media_type_of((types[0] or b"").decode(errors="replace")) == PACKED


def _others(headers: Headers) -> Headers:
    return tuple(header for header in headers if header[0].lower() != "content-type")


def _repeated(headers: Headers, found: Sequence[Value]) -> int:
    """The bytes of a record's headers that the events found in it have together."""
    return len(found) * sum(
        len(name.encode()) + len(text or b"") for name, text in _others(headers)
    )


def _telling(headers: Headers) -> Headers:
    """The headers of an element, without those that no reader of events looks at."""
    ours = (header for header in _others(headers) if header[0].lower().startswith(HEADER_PREFIX))
    return (*PLAIN_HEADERS, *ours)


def _too_large(
    what: str, *, remedy: str = "Send it as several records; the same ids count once."
) -> Reject:
    return Reject("too_large", f"The record {what}.", remedy=remedy)
