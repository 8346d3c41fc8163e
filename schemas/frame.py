"""The envelope of everything packed: magic, format version, kind, checksum, header, Arrow parts.

    offset  size  what
    0       2     b"ML"
    2       1     format version, 1
    3       1     kind, see `Kind`
    4       8     XXH3-64 of all that follows, seeded with the kind, little-endian
    12      4     length of the header, little-endian
    16      ...   header, a JSON object
            4+n   each part: length, then an Arrow IPC stream with one record batch

A reader that meets another version, another kind or a wrong checksum stops: guessing would falsify
a total.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import pyarrow as pa
import xxhash

MAGIC = b"ML"
VERSION = 1
_LENGTH = struct.Struct("<I")
_PREFIX = struct.Struct("<2sBBQ")
_HEADER_AT = _PREFIX.size + _LENGTH.size
#: Arrow IPC: a message of no length.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_encode_json = msgspec.json.Encoder(order="sorted").encode


class Kind(IntEnum):
    """What a frame carries."""

    DEFINITIONS = 1
    PACK = 2
    DECISIONS = 3
    TOTALS = 4
    SEGMENT = 5


class FrameError(ValueError):
    """These bytes are not a frame that this version can read."""


@dataclass(frozen=True)
class Frame:
    """An opened frame."""

    kind: Kind
    header: dict[str, Any]
    parts: tuple[pa.RecordBatch, ...]


def seal(kind: Kind, header: dict[str, Any], parts: Sequence[pa.RecordBatch] = ()) -> bytes:
    """The bytes of a frame."""
    text = _encode_json(header)
    body: list[memoryview | bytes] = [_LENGTH.pack(len(text)), text]
    for part in parts:
        stream = _stream(part)
        body += [_LENGTH.pack(sum(map(len, stream))), *stream]
    checksum = xxhash.xxh3_64(seed=kind)
    for piece in body:
        checksum.update(piece)
    return b"".join([_PREFIX.pack(MAGIC, VERSION, kind, checksum.intdigest()), *body])


def _stream(part: pa.RecordBatch) -> list[memoryview | bytes]:
    """An Arrow IPC stream with one record batch, in pieces."""
    schema = part.schema
    if not any(map(pa.types.is_dictionary, schema.types)):
        # The same bytes, at half of the time.
        return [memoryview(schema.serialize()), memoryview(part.serialize()), _END_OF_STREAM]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(part)
    return [memoryview(sink.getvalue())]


def unseal(frame: bytes) -> Frame:
    """The inverse of `seal`; parts point into `frame` without a copy.

    Raises:
        FrameError: naming what is wrong and the remedy.
    """
    if len(frame) < _HEADER_AT or frame[:2] != MAGIC:
        raise FrameError("not a Meterline frame; something else writes to this topic: find it")
    _, version, kind, checksum = _PREFIX.unpack_from(frame)
    if version != VERSION:
        raise FrameError(f"frame version {version}, this program reads {VERSION}; upgrade it")
    if xxhash.xxh3_64_intdigest(memoryview(frame)[_PREFIX.size :], seed=kind) != checksum:
        raise FrameError("checksum mismatch; the record is damaged: restore it from a replica")
    if kind not in Kind._value2member_map_:
        raise FrameError(f"frame kind {kind} is unknown to this program; upgrade it")
    (header_length,) = _LENGTH.unpack_from(frame, _PREFIX.size)
    header_end = _HEADER_AT + header_length
    view = memoryview(frame)
    parts = []
    at = header_end
    while at < len(frame):
        (length,) = _LENGTH.unpack_from(frame, at)
        at += _LENGTH.size
        with pa.ipc.open_stream(pa.py_buffer(view[at : at + length])) as reader:
            parts.append(reader.read_next_batch())
        at += length
    return Frame(Kind(kind), msgspec.json.decode(view[_HEADER_AT:header_end]), tuple(parts))
