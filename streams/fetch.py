"""Records past Python: from the client library's memory straight into columns.

A message object of the client library, and what it makes of each field, cost more than all that
intake does with an event. So the partitions of a consumer are diverted to a queue of our own, from
which machine code copies many records at once. The consumer stays the client library's: it
joins the group, hears of its errors and calls back as ever.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.errors import Stop
from pipeline.record import DATA_TYPE, PLAIN_HEADERS
from pipeline.words import SENTINEL, Texts
from schemas.usage_event import HEADER_PREFIX
from streams import librdkafka
from streams.clients import Place
from streams.fetched import (
    EVENT_HEADERS,
    IDLE_HEADERS,
    NO_HEADERS,
    ONE_HEADERS,
    OTHER_HEADERS,
    Columns,
    Fetched,
)
from streams.librdkafka import (
    ERROR,
    KEY,
    KEY_SIZE,
    MESSAGE_WORDS,
    OFFSET,
    PARTITION,
    TOPIC,
    VALUE,
    VALUE_SIZE,
    compare,
    copy,
    header_at,
    header_count,
    length_of_text,
    message_destroy,
    message_headers,
    message_timestamp,
)
from streams.read import not_there

Words: TypeAlias = NDArray[np.uint64]
Bytes: TypeAlias = NDArray[np.uint8]

((_PLAIN_NAME, _PLAIN_VALUE),) = (
    (np.frombuffer(name.encode(), np.uint8), np.frombuffer(value, np.uint8))
    for name, value in PLAIN_HEADERS
)

_PREFIX = np.frombuffer(HEADER_PREFIX.encode(), np.uint8)
_DATA_TYPE = np.frombuffer(DATA_TYPE, np.uint8)
_A, _Z, _SEMICOLON = b"AZ;"
_LOWER = ord("a") - ord("A")
_ASCII_END = 0x80

#: So long at most a place that was assigned anew waits to be read.
_DIVERTED_SECONDS = 0.05

#: A read has at most so many bytes: as many as two of the largest records of ours, and with a batch
#: that it is added to, still less than 2 GiB, which is what texts can have together. The client
#: library's own limit is none: it counts neither keys nor headers, and values once they are there,
#: which are many times as large as what was fetched.
_READ_BYTES_MAX = 512 * 1024 * 1024

_WORD_BYTES = 8
_LOW_HALF = np.uint64(2**32 - 1)


class _Seen(NamedTuple):
    """What was seen of n messages: the fields of each, its time, and what headers it has.

    `sizes` are the bytes of values, keys and headers together.
    """

    fields: Words
    sizes: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    header_kinds: Bytes
    header_sizes: NDArray[np.int64]

    def first(self, count: int) -> _Seen:
        """What was seen of the first ones."""
        fields, sizes, times, kinds, header_sizes = self
        return _Seen(
            fields[:count], sizes[:count], times[:count], kinds[:count], header_sizes[:count]
        )


class Fetcher:
    """Takes the records of some partitions from a consumer. Not to be used once that is closed."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._handle = librdkafka.handle_of(consumer)
        #: Ours, until it is given back.
        self._queue: list[int] = [librdkafka.queue_new(self._handle)]
        #: Those of the partitions, as the library gives them out.
        self._diverted: list[int] = []
        self._diverted_at = 0.0
        self._messages = np.empty(1, dtype=np.uint64)
        # Machine code is made now, and not within the first transaction.
        self._taken(self._messages[:0])
        _give_back(self._messages[:0])

    def divert(self, places: Iterable[Place]) -> None:
        """What is fetched of these places comes here. Must be called before they are assigned.

        Raises:
            KafkaException: there is no such partition.
        """
        self._let_go(self._diverted)
        for topic, partition in places:
            queue = librdkafka.queue_of_partition(self._handle, topic.encode(), partition)
            if queue is None:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION, topic))
            self._diverted.append(queue)
        self._divert_again()

    def read(self, count: int, wait_seconds: float) -> Fetched:
        """At most `count` records, of `_READ_BYTES_MAX` bytes; waits for the first.

        Raises:
            KafkaException: one of them is an error.
            Stop: one of them alone has more bytes.
        """
        if time.monotonic() - self._diverted_at > _DIVERTED_SECONDS:
            self._divert_again()
        if count > len(self._messages):
            self._messages = np.empty(count, dtype=np.uint64)
        # Asked for more, the library would wait until all of it is there.
        found = self._consume(0, 1, int(wait_seconds * 1000))
        if found:
            found += self._consume(found, count, 0)
        return self._taken(self._messages[:found])

    def close(self) -> None:
        """Give all queues back, before the consumer is closed."""
        self._let_go(self._diverted)
        self._let_go(self._queue)

    def _consume(self, begin: int, end: int, wait_ms: int) -> int:
        """Have the library fill messages from `begin` to `end`; how many there were."""
        messages = self._messages[begin:end]
        at = messages.ctypes.data
        found: int = librdkafka.consume_batch(self._queue[0], wait_ms, at, len(messages))
        if found < 0:
            _give_back(self._messages[:begin])
            raise KafkaException(KafkaError(KafkaError._FAIL, "the queue cannot be read"))
        return found

    def _divert_again(self) -> None:
        """A partition that was taken away, and that takes its time to stop, forgets its queue.

        What it is given to fetch next waits in its own one until that is diverted again.
        """
        for queue in self._diverted:
            librdkafka.queue_forward(queue, self._queue[0])
        self._diverted_at = time.monotonic()

    def _let_go(self, queues: list[int]) -> None:
        while queues:
            librdkafka.queue_destroy(queues.pop())

    def _leave(self, messages: Words, fields: Words, *, is_all: bool) -> None:
        """Have `messages` fetched anew, for the next read; they are given back.

        Kept here they would come from places that are paused, or somebody else's, by then.

        Raises:
            Stop: they are all that there is to read, so the first is too large.
        """
        begins = _begins(fields)
        _give_back(messages)
        if is_all:
            raise _too_large(*next(iter(begins.items())))
        for place, offset in begins.items():
            self._consumer.seek(TopicPartition(*place, offset))

    def _taken(self, messages: Words) -> Fetched:
        """As many of `messages` as one read may have, as columns; all are given back."""
        seen = _seen(messages)
        self._require_good(messages, seen.fields)
        count = _fitting(seen)
        if count < len(messages):
            self._leave(messages[count:], seen.fields[count:], is_all=count == 0)
            messages, seen = messages[:count], seen.first(count)
        fields = seen.fields
        values = _room(fields[:, VALUE_SIZE], SENTINEL)
        keys = _room(fields[:, KEY_SIZE])
        headers = _room(seen.header_sizes)
        names, topic_codes = _topics(fields[:, TOPIC])
        _take(messages, fields, seen.header_kinds, *values, *keys, *headers)
        # As everywhere else: machine code is made anew for texts that may be written to.
        values.octets.flags.writeable = headers.octets.flags.writeable = False
        return Fetched(
            names,
            Columns(
                topic_codes,
                (fields[:, PARTITION] & _LOW_HALF).astype(np.int32),
                fields[:, OFFSET].astype(np.int64),
                seen.timestamps_ms,
                seen.header_kinds,
                fields[:, VALUE] != 0,
                fields[:, KEY] != 0,
                values,
                keys,
                headers,
            ),
        )

    def _require_good(self, messages: Words, fields: Words) -> None:
        """Whether they are records; all are given back if one is not.

        Raises:
            KafkaException: as the first says that is an error.
        """
        codes = (fields[:, ERROR] & _LOW_HALF).astype(np.uint32).astype(np.int32)
        failed = np.flatnonzero(codes)
        if len(failed):
            code = int(codes[failed[0]])
            if code == KafkaError._AUTO_OFFSET_RESET:
                ((place, offset),) = _begins(fields[failed[:1]]).items()
                _give_back(messages)
                raise not_there(self._consumer, place, offset)
            why = ctypes.string_at(*fields[failed[0], [VALUE, VALUE_SIZE]].tolist())
            _give_back(messages)
            raise KafkaException(KafkaError(code, why.decode(errors="replace")))


def _seen(messages: Words) -> _Seen:
    """What is seen of `messages`."""
    seen = _Seen(
        np.empty((len(messages), MESSAGE_WORDS), dtype=np.uint64),
        np.zeros(len(messages), dtype=np.int64),
        np.zeros(len(messages), dtype=np.int64),
        np.full(len(messages), NO_HEADERS, dtype=np.uint8),
        np.zeros(len(messages), dtype=np.int64),
    )
    _look(messages, _PLAIN_NAME, _PLAIN_VALUE, _PREFIX, _DATA_TYPE, *seen)
    return seen


def _fitting(seen: _Seen) -> int:
    """How many of the messages seen, from the first on, one read may have."""
    return int(np.searchsorted(np.cumsum(seen.sizes), _READ_BYTES_MAX, side="right"))


def _begins(fields: Words) -> dict[Place, int]:
    """The offset of the first message of each place."""
    names, codes = _topics(fields[:, TOPIC])
    partitions = fields[:, PARTITION] & _LOW_HALF
    begins: dict[Place, int] = {}
    for code, partition, offset in zip(codes, partitions.tolist(), fields[:, OFFSET], strict=True):
        begins.setdefault((names[code], partition), int(offset))
    return begins


def _too_large(place: Place, offset: int) -> Stop:
    return Stop(
        f"The record of {place[0]}-{place[1]} at offset {offset} has more than {_READ_BYTES_MAX} "
        "bytes, unpacked, and cannot be read.",
        remedy="Find out what wrote it, then set the group's offset behind it, with the note that "
        "it had.",
    )


def _room(sizes: NDArray[np.uint64] | NDArray[np.int64], end: bytes = b"") -> Texts:
    """Where texts of such sizes will stand, with what `end`s them."""
    bounds = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes.astype(np.int64), out=bounds[1:], dtype=np.int32)
    octets = np.empty(int(bounds[-1]) + len(end), dtype=np.uint8)
    octets[bounds[-1] :] = np.frombuffer(end, np.uint8)
    return Texts(octets, bounds)


def _topics(handles: Words) -> tuple[list[str], NDArray[np.int32]]:
    """The names of the topics, and which of them each record is of."""
    if not len(handles) or (handles == handles[0]).all():
        distinct, codes = handles[:1], np.zeros(len(handles), dtype=np.int32)
    else:
        distinct, numbers = np.unique(handles, return_inverse=True)
        codes = numbers.astype(np.int32)
    return [librdkafka.topic_name(handle).decode() for handle in distinct.tolist()], codes


@compiled
def _look(
    messages: Words,
    plain_name: Bytes,
    plain_value: Bytes,
    prefix: Bytes,
    data_type: Bytes,
    fields: Words,
    sizes: NDArray[np.int64],
    timestamps_ms: NDArray[np.int64],
    header_kinds: Bytes,
    header_sizes: NDArray[np.int64],
) -> None:
    """Fill the last five, shape (n,) but for `fields`, which has `MESSAGE_WORDS` a message."""
    given = np.empty(4, dtype=np.uint64)
    given_at = given.ctypes.data
    name_at, value_at = plain_name.ctypes.data, plain_value.ctypes.data
    data_at = data_type.ctypes.data
    begin = np.empty(len(plain_name), dtype=np.uint8)
    for row in range(len(messages)):
        message = messages[row]
        copy(
            fields.ctypes.data + row * MESSAGE_WORDS * _WORD_BYTES,
            message,
            MESSAGE_WORDS * _WORD_BYTES,
        )
        sizes[row] = fields[row, VALUE_SIZE] + fields[row, KEY_SIZE]
        timestamps_ms[row] = message_timestamp(message, given_at)
        if message_headers(message, given_at) != 0:
            continue
        headers = given[0]
        count = header_count(headers)
        size = 0
        content_types = 0
        is_usual = is_one = True
        for number in range(count):
            header_at(
                headers,
                number,
                given_at + _WORD_BYTES,
                given_at + 2 * _WORD_BYTES,
                given_at + 3 * _WORD_BYTES,
            )
            name_length = length_of_text(given[1])
            size += 2 * _WORD_BYTES + name_length + given[3]
            # As `pipeline.record.are_usual` and `are_of_one` have it.
            is_type, is_ours = name_length == len(plain_name), name_length >= len(prefix)
            copy(begin.ctypes.data, given[1], min(name_length, len(begin)))
            for place in range(min(name_length, len(begin))):
                octet = begin[place] + (_LOWER if _A <= begin[place] <= _Z else 0)
                is_type &= octet == plain_name[place]
                is_ours &= place >= len(prefix) or octet == prefix[place]
            if is_type:
                content_types += 1
                is_plain = (
                    given[3] >= len(plain_value)
                    and compare(given[2], value_at, len(plain_value)) == 0
                )
                if is_plain and given[3] > len(plain_value):
                    parameters = np.empty(given[3] - len(plain_value), dtype=np.uint8)
                    copy(parameters.ctypes.data, given[2] + len(plain_value), len(parameters))
                    is_plain = parameters[0] == _SEMICOLON and parameters.max() < _ASCII_END
                is_usual &= is_plain and content_types == 1
                is_one &= is_plain or (
                    given[3] >= len(data_type) and compare(given[2], data_at, len(data_type)) == 0
                )
            is_usual &= is_type or not is_ours
        if (
            count == 1
            and size == 2 * _WORD_BYTES + len(plain_name) + len(plain_value)
            and given[3] == len(plain_value)
            and compare(given[1], name_at, len(plain_name)) == 0
            and compare(given[2], value_at, len(plain_value)) == 0
        ):
            header_kinds[row] = EVENT_HEADERS
        elif count > 0:
            header_kinds[row] = OTHER_HEADERS
            if is_one:
                header_kinds[row] = IDLE_HEADERS if is_usual else ONE_HEADERS
            header_sizes[row] = size
            sizes[row] += header_sizes[row]


@compiled
def _give_back(messages: Words) -> None:
    for message in messages:
        message_destroy(message)


@compiled
def _take(
    messages: Words,
    fields: Words,
    header_kinds: Bytes,
    values: Bytes,
    value_bounds: NDArray[np.int32],
    keys: Bytes,
    key_bounds: NDArray[np.int32],
    headers: Bytes,
    header_bounds: NDArray[np.int32],
) -> None:
    """Copy the texts of `messages` to where they shall stand, and give the messages back.

    A header is the lengths of its name and of its value as words, and both; the length of a value
    that is absent is -1.
    """
    given = np.empty(4, dtype=np.uint64)
    lengths = np.empty(2, dtype=np.int64)
    given_at = given.ctypes.data
    for row in range(len(messages)):
        message = messages[row]
        copy(values.ctypes.data + value_bounds[row], fields[row, VALUE], fields[row, VALUE_SIZE])
        copy(keys.ctypes.data + key_bounds[row], fields[row, KEY], fields[row, KEY_SIZE])
        if header_kinds[row] >= IDLE_HEADERS:
            to = headers.ctypes.data + header_bounds[row]
            message_headers(message, given_at)
            for number in range(header_count(given[0])):
                header_at(
                    given[0],
                    number,
                    given_at + _WORD_BYTES,
                    given_at + 2 * _WORD_BYTES,
                    given_at + 3 * _WORD_BYTES,
                )
                lengths[0] = length_of_text(given[1])
                lengths[1] = given[3]
                size = lengths[1]
                if given[2] == 0:
                    lengths[1] = -1
                copy(to, lengths.ctypes.data, 2 * _WORD_BYTES)
                to += 2 * _WORD_BYTES
                copy(to, given[1], lengths[0])
                to += lengths[0]
                copy(to, given[2], size)
                to += size
        message_destroy(message)
