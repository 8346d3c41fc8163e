"""Kafka records become usage events, or rejections with reason and remedy.

Both content modes of CloudEvents 1.0 on Kafka are read; records that hold many events have been
taken apart before (`pipeline.unpack`). Structured mode is one JSON document;
binary mode is turned into the same document, its data byte for byte, so that from here on there is
one form. A record without `ce_` headers and without a CloudEvents content type is tried as
structured mode, because that is what a program without a CloudEvents library sends.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from pipeline.errors import Reject
from pipeline.nesting import NESTING_MAX, is_nested_deeper
from pipeline.record import PLAIN_HEADERS, Headers, Record
from pipeline.unpack import elements, media_type_of
from schemas.quantity import exact_number
from schemas.usage_event import HEADER_PREFIX, NAME_CHARACTERS_MAX, PACKED, STRUCTURED

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]

_NO_DATA = msgspec.Raw(b"")


class Envelope(msgspec.Struct, gc=False):
    """The attributes of one event; `data` is its JSON text, empty without data."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Name
    subject: Name
    time: str
    data: msgspec.Raw = _NO_DATA
    data_base64: str | None = None
    datacontenttype: str | None = None


_envelope = msgspec.json.Decoder(Envelope)
_anything = msgspec.json.Decoder(float_hook=exact_number)
_json = msgspec.json.Encoder()

#: The attributes that decide what an event counts for, as they stand in JSON.
_ATTRIBUTES = (
    b'"specversion"',
    b'"id"',
    b'"source"',
    b'"type"',
    b'"subject"',
    b'"time"',
    b'"data"',
    b'"data_base64"',
    b'"datacontenttype"',
)

#: As a number: `bytes in bytes` takes ten times as long.
_BACKSLASH = ord("\\")

#: An event without blanks and without optional attributes, less its texts and its data.
_COMPACT_LENGTH = len(
    b'{"specversion":"1.0","id":"","source":"","type":"","subject":"","time":"","data":}'
)

#: In binary mode the data is the record's value, never a header.
_NO_HEADERS = frozenset({"data", "data_base64"})

#: An event has some hundred bytes; Kafka's own default limit of a record is the same.
EVENT_BYTES_MAX = 1024 * 1024

#: Data stand one level deeper in an event than alone.
_DATA_NESTING_MAX = NESTING_MAX - 1

#: What a parser of ours may raise on bytes that are not what they should be.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeError, ValueError)


def decode_event(record: Record) -> tuple[Envelope, bytes]:
    """The event of one record and its bytes in structured mode.

    Raises:
        Reject: naming the first thing that is wrong with it.
    """
    value = record.value or b""
    if record.headers and record.headers != PLAIN_HEADERS:
        # Also says why many events could not be taken apart, which may have more bytes than one.
        value = structured(record.headers, value)
    if len(value) > EVENT_BYTES_MAX:
        raise _too_large(value)
    if is_nested_deeper(value, NESTING_MAX):
        raise _too_deep("malformed_json")
    try:
        envelope = _envelope.decode(value)
        if not value.isascii():
            value.decode()  # also where the decoder skips: attributes that it does not know
    except _DECODE_ERRORS:
        raise _diagnosis(value) from None
    if _may_repeat_attributes(envelope, value):
        _require_once(value, _ATTRIBUTES, top_level_only=True)
    if envelope.data_base64 is not None and bytes(envelope.data):
        raise _ambiguous("data stands beside data_base64")
    return envelope, value


def decode_data(
    envelope: Envelope, names: Sequence[bytes] = (), *, is_read: bool = False
) -> tuple[Any, bytes]:
    """The data of an event, and its bytes.

    Data are plain values: objects, arrays, texts, integers, exact decimals; None without data.
    `names` are the JSON strings of members that are read; none of them may occur twice. Data of
    another type than JSON is None, unless something of it `is_read`, by a name or by none.

    Raises:
        Reject: when the data is not JSON, or says something twice.
    """
    try:
        if envelope.data_base64 is not None:
            text = base64.b64decode(envelope.data_base64, validate=True)
            if is_nested_deeper(text, _DATA_NESTING_MAX):
                raise _too_deep("invalid_data")
        else:
            text = bytes(envelope.data)
        kind = envelope.datacontenttype
        if kind is not None and not _is_json(kind):
            if not is_read:
                return None, text
            raise Reject(
                "invalid_data",
                f"The data is of type {kind!r:.100}, meters read JSON.",
                remedy="Send data as JSON with datacontenttype application/json.",
            )
        if not text:
            return None, text
        data = _anything.decode(text)
        if _BACKSLASH in text:
            _require_once(text, names)
        for name in names:
            if text.count(name) > 1:
                _require_once(text, names)
        return data, text
    except _DECODE_ERRORS as error:
        raise Reject(
            "invalid_data", f"The data is not JSON: {error}.", remedy="Send data as valid JSON."
        ) from None


def structured(headers: Headers, value: bytes) -> bytes:
    """The structured form of a record with headers, whatever its mode.

    Raises:
        Reject: for many events that could not be taken apart, other formats than JSON, too large a
            value, and headers that are not UTF-8, occur twice, or would stand for the data.
    """
    attributes: dict[str, str] = {}
    content_type = ""
    seen: set[str] = set()
    for name, raw in headers:
        lowered = name.lower()
        if lowered == "content-type" or lowered.startswith(HEADER_PREFIX):
            if lowered in seen:
                raise _ambiguous(f"The header {lowered:.100} occurs twice")
            seen.add(lowered)
            try:
                text = raw.decode() if raw is not None else ""
            except UnicodeDecodeError:
                raise Reject(
                    "invalid_attribute",
                    f"The header {name:.100} is not UTF-8.",
                    remedy="Encode CloudEvents headers as UTF-8.",
                ) from None
            if lowered == "content-type":
                content_type = text
            else:
                attributes[lowered[len(HEADER_PREFIX) :]] = text
    media_type = media_type_of(content_type)
    if media_type.startswith("application/cloudevents"):
        if media_type not in ("application/cloudevents", STRUCTURED):
            if media_type == PACKED:
                elements(headers, value)  # says why this record could not be taken apart
            raise Reject(
                "unsupported_mode",
                f"Content type {media_type:.100} is not one event in JSON.",
                remedy=f"Send each event as a record of its own, as {STRUCTURED}, or many as a "
                f"JSON array, as {PACKED}.",
            )
        return value
    if len(value) > EVENT_BYTES_MAX:
        raise _too_large(value)
    if not attributes:
        return value
    clash = _NO_HEADERS & attributes.keys()
    if clash:
        raise Reject(
            "invalid_attribute",
            f"The header {HEADER_PREFIX}{min(clash)} would stand for the data.",
            remedy="In binary mode send the data as the record's value.",
        )
    if content_type:
        attributes["datacontenttype"] = content_type
    envelope = _json.encode(attributes)
    if not value:
        return envelope
    if content_type and not _is_json(content_type):
        return envelope[:-1] + b',"data_base64":"' + base64.b64encode(value) + b'"}'
    if is_nested_deeper(value, _DATA_NESTING_MAX):
        raise _too_deep("invalid_data")
    try:
        _anything.decode(value)  # or text that ends the envelope early could smuggle attributes in
    except _DECODE_ERRORS as error:
        raise Reject(
            "invalid_data", f"The data is not JSON: {error}.", remedy="Send data as valid JSON."
        ) from None
    return envelope[:-1] + b',"data":' + value + b"}"


def _may_repeat_attributes(envelope: Envelope, value: bytes) -> bool:
    """Whether some attribute of an event may occur twice; never False where one does."""
    if _BACKSLASH in value:
        return True
    data = bytes(envelope.data)
    # Nothing else fits in between: what nearly every event is, and the quickest to see.
    texts = len(envelope.id) + len(envelope.source) + len(envelope.type) + len(envelope.subject)
    if data and len(value) == _COMPACT_LENGTH + texts + len(envelope.time) + len(data):
        return False
    # Without escapes quotes only begin and end texts: the names and values of the six attributes
    # that every event has, and of those that it may have. One more attribute has more of them.
    quotes = 26 if data else 24
    if envelope.datacontenttype is not None:
        quotes += 4
    if envelope.data_base64 is not None:
        quotes += 4
    if value.count(b'"') - data.count(b'"') == quotes:
        return False
    return any(value.count(name) > 1 + data.count(name) for name in _ATTRIBUTES)


def _too_large(value: bytes) -> Reject:
    return Reject(
        "too_large",
        f"The event has {len(value)} bytes, at most {EVENT_BYTES_MAX} are read.",
        remedy="Send what is metered, and keep large payloads elsewhere.",
    )


def _too_deep(reason: str) -> Reject:
    return Reject(
        reason,
        f"The event is nested more than {NESTING_MAX} levels deep.",
        remedy="Send what is metered, and keep deep structures elsewhere.",
    )


def _require_once(text: bytes, names: Sequence[bytes], *, top_level_only: bool = False) -> None:
    """Refuse a JSON object that says one of `names` twice: parsers differ in which one they take.

    Looked at only where the bytes raise the suspicion, since Python's own parser is slow.
    """
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        # Called for inner objects first, for the outermost one last.
        if top_level_only:
            repeated.clear()
        members = [name for name, _ in pairs]
        if len(set(members)) < len(members):
            watched = (json.loads(name) for name in names)
            repeated.extend(name for name in watched if members.count(name) > 1)

    try:
        json.loads(text, object_pairs_hook=note, parse_int=str, parse_float=str)
    except _DECODE_ERRORS as error:
        raise Reject(
            "malformed_json",
            f"The JSON cannot be read to its end: {error}.",
            remedy="Send a CloudEvent as a JSON object.",
        ) from None
    if repeated:
        raise _ambiguous(f"The member {repeated[0]:.100} occurs twice in one object")


def _ambiguous(what: str) -> Reject:
    return Reject(
        "ambiguous",
        f"{what}, and readers differ in which one they take.",
        remedy="Say everything once.",
    )


def _is_json(content_type: str) -> bool:
    media_type = media_type_of(content_type)
    return media_type in ("application/json", "text/json") or media_type.endswith("+json")


def _diagnosis(value: bytes) -> Reject:
    """Why `value` is not an event, as exactly as can be said."""
    try:
        document = _anything.decode(value)
    except _DECODE_ERRORS as error:
        return Reject(
            "malformed_json",
            f"The value is not JSON: {error}.",
            remedy="Send one CloudEvent as a JSON object in UTF-8.",
        )
    if not isinstance(document, dict):
        return Reject(
            "not_a_cloudevent",
            "The value is JSON, but not an object.",
            remedy=f"Send one CloudEvent a record, or an array of them as {PACKED}.",
        )
    version = document.get("specversion")
    if version != "1.0":
        # Only a text is shown: anything else may be nested more deeply than `repr` can go.
        shown = repr(version) if isinstance(version, str) else "no text"
        is_said = "missing" if version is None else f"{shown:.100}, not '1.0'"
        return Reject(
            "not_a_cloudevent",
            f"specversion is {is_said}.",
            remedy="Send CloudEvents 1.0: the attribute specversion must be '1.0'.",
        )
    for name in ("id", "source", "type", "subject", "time"):
        if name not in document or document[name] is None:
            return Reject(
                "missing_attribute",
                f"The attribute {name} is missing.",
                remedy=f"Set {name}; Meterline needs id, source, type, subject and time.",
            )
        if not isinstance(document[name], str) or not document[name]:
            return Reject(
                "invalid_attribute",
                f"The attribute {name} is not a text of at least one character.",
                remedy=f"Set {name} to a non-empty string.",
            )
        if len(document[name]) > NAME_CHARACTERS_MAX:
            return Reject(
                "invalid_attribute",
                f"The attribute {name} has {len(document[name])} characters, at most "
                f"{NAME_CHARACTERS_MAX} are read.",
                remedy=f"Send a short {name}, and what is metered in data.",
            )
    return Reject(
        "invalid_attribute",
        "An optional attribute (datacontenttype or data_base64) is not a text.",
        remedy="Send datacontenttype and data_base64 as strings, or leave them out.",
    )
