"""A file of CloudEvents, one a line (NDJSON), becomes lines to send.

Lines are sent on as they stand, broken ones too, so that intake rejects them with a reason
and the ledger counts them. Only the extension `receivedat`, which says when an event arrived, is
taken out and becomes the record's timestamp.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from pipeline.errors import Stop
from pipeline.instant import parse_instant


class Line(NamedTuple):
    """What is sent for one line: the customer as key, the bytes, the arrival in ms since 1970."""

    key: bytes | None
    value: bytes
    timestamp_ms: int | None


class _Head(msgspec.Struct):
    subject: Any = None
    receivedat: Any = None


_head = msgspec.json.Decoder(_Head)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)


def read_ndjson(lines: Iterable[bytes]) -> Iterator[Line]:
    """One `Line` for each line that is not blank.

    The key is None where no subject can be read, the timestamp None without a valid `receivedat`.
    """
    for line in lines:
        value = line.rstrip(b"\r\n")
        if not value.strip():
            continue
        try:
            head = _head.decode(value)
            timestamp_ms = arrival_ms(head.receivedat)
            if timestamp_ms is not None:
                value = _without_receivedat(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            yield Line(None, value, None)
            continue
        yield Line(customer_key(head.subject), value, timestamp_ms)


def unmarked(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file, without the byte order mark that some programs write before the first.

    Raises:
        Stop: the mark is that of UTF-16.
    """
    for number, line in enumerate(lines):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise Stop(
                "The file is UTF-16, and JSON lines are UTF-8.",
                remedy="Convert the file to UTF-8 and send it again.",
            )
        yield line if number else line.removeprefix(codecs.BOM_UTF8)


def customer_key(subject: object) -> bytes | None:
    """The key of a record of this customer; None when the subject is no name."""
    return subject.encode() if isinstance(subject, str) and subject else None


def arrival_ms(receivedat: object) -> int | None:
    """Milliseconds since 1970, further digits cut off; None when it is not an RFC 3339 time."""
    nanoseconds = parse_instant(receivedat) if isinstance(receivedat, str) else None
    return None if nanoseconds is None else nanoseconds // 1_000_000


def _without_receivedat(event: bytes) -> bytes:
    """A JSON object less its members named `receivedat`; not one other byte changes.

    Raises:
        DecodeError, UnicodeError: a member's name is no JSON text, which decoding passes over.
    """
    depth, member_start = 0, 0
    kept: list[bytes] = []
    named = leaving = False
    for token in _TOKEN.finditer(event):
        mark = token[0]
        if mark in b"]}" or (mark == b"," and depth == 1):
            if depth == 1:
                if not leaving:
                    kept.append(event[member_start : token.start()])
                if mark == b"}":
                    body = b",".join(kept)
                    return event[: event.index(b"{") + 1] + body + event[token.start() :]
                member_start, named = token.end(), False
            depth -= mark != b","
        elif mark in b"{[":
            depth += 1
            if depth == 1:
                member_start = token.end()
        elif depth == 1 and not named and mark[:1] == b'"':
            named, leaving = True, msgspec.json.decode(mark) == "receivedat"
    raise AssertionError("only called with a JSON object")
