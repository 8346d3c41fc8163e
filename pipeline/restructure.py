"""Events in binary mode become structured mode, many at a time, as `pipeline.decode` has it.

Only what is usual: attributes as texts that need no escapes, and as data a JSON object or none.
Whether that object is JSON is not looked at, only that it does not end before the value does: so
no value can pass for more than data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.record import DATA_TYPE, Records
from pipeline.words import SENTINEL, WORD_BYTES, Texts, Words, words_of
from schemas.usage_event import HEADER_PREFIX

_CONTENT_TYPE, _PREFIX, _JSON, _DATA_TYPE_NAME, _DATA_NAME = (
    np.frombuffer(text, np.uint8)
    for text in (
        b"content-type",
        HEADER_PREFIX.encode(),
        DATA_TYPE,
        b',"datacontenttype":"',
        b',"data":',
    )
)
#: An event of ours has some ten attributes.
_ATTRIBUTES_MAX = 32

_QUOTE, _BACKSLASH, _OPEN, _CLOSE, _COMMA, _COLON, _SEMICOLON, _BLANK = b'"\\{},:; '
_OPEN_ARRAY, _CLOSE_ARRAY, _A, _Z = b"[]AZ"
_LOWER = ord("a") - ord("A")
_ASCII_END = 0x80


def restructured(records: Records) -> tuple[Texts, NDArray[np.bool_]]:
    """The values of n `records`, and which of them are events in structured mode, shape (n,).

    What is usual in binary mode is made so; any other value stays as it is.
    """
    texts, usual = records.texts, records.has_usual_headers
    if usual.all():
        return texts, usual
    octets, bounds = texts
    headers, header_bounds = records.header_texts
    # What describes a header takes more bytes than what stands around it in JSON.
    more = len(headers) + len(usual) * (len(_DATA_TYPE_NAME) + len(_DATA_NAME) + 2)
    made = np.empty(len(octets) + more, dtype=np.uint8)
    made_bounds = np.zeros_like(bounds)
    usual = usual.copy()
    words = words_of(headers)
    _restructure(octets, bounds, headers, words, header_bounds, usual, made, made_bounds)
    end = int(made_bounds[-1]) + len(SENTINEL)
    made[made_bounds[-1] : end] = np.frombuffer(SENTINEL, np.uint8)
    made = made[:end]
    # As everywhere else: machine code is made anew for texts that may be written to.
    made.flags.writeable = False
    return Texts(made, made_bounds), usual


@compiled
def _restructure(
    text: NDArray[np.uint8],
    bounds: NDArray[np.int32],
    headers: NDArray[np.uint8],
    words: Words,
    header_bounds: NDArray[np.int32],
    usual: NDArray[np.bool_],
    made: NDArray[np.uint8],
    made_bounds: NDArray[np.int32],
) -> None:
    """Fill the last two, and say of what was not `usual` whether it is so now."""
    name_begins = np.zeros(_ATTRIBUTES_MAX, dtype=np.int64)
    name_ends = np.zeros(_ATTRIBUTES_MAX, dtype=np.int64)
    for row in range(len(usual)):
        begin, end = bounds[row], bounds[row + 1]
        at, headers_end = header_bounds[row], header_bounds[row + 1]
        put = np.int64(made_bounds[row])
        type_begin = type_end = count = 0
        good = bool(not usual[row])
        while good and at < headers_end:
            name = at + 2 * WORD_BYTES
            value = name + np.int64(words[at])
            length = np.int64(words[at + WORD_BYTES])
            at = value + max(length, 0)
            is_type, is_attribute = value - name == len(_CONTENT_TYPE), value - name >= len(_PREFIX)
            for place in range(min(value - name, len(_CONTENT_TYPE))):
                octet = headers[name + place]
                octet += _LOWER if _A <= octet <= _Z else 0
                is_type &= octet == _CONTENT_TYPE[place]
                is_attribute &= place >= len(_PREFIX) or octet == _PREFIX[place]
            if not is_type and not is_attribute:
                continue
            good = bool(length > 0)
            for place in range(value, at):
                octet = headers[place]
                if octet < _BLANK or octet in (_QUOTE, _BACKSLASH):
                    good = False
            if is_type:
                if type_end != 0 or length < len(_JSON):
                    good = False
                    break
                for place in range(len(_JSON)):
                    if headers[value + place] != _JSON[place]:
                        good = False
                if length > len(_JSON) and headers[value + len(_JSON)] != _SEMICOLON:
                    good = False
                type_begin, type_end = value, at
                continue
            if count == _ATTRIBUTES_MAX:
                good = False
                break
            made[put] = _COMMA if count else _OPEN
            made[put + 1] = _QUOTE
            put += 2
            name_begins[count] = put
            for place in range(name + len(_PREFIX), value):
                octet = headers[place]
                good &= _BLANK <= octet < _ASCII_END and octet != _QUOTE and octet != _BACKSLASH
                made[put] = octet + (_LOWER if _A <= octet <= _Z else 0)
                put += 1
            name_ends[count] = put
            # The data, or what says what they are, are no attributes here.
            good &= name_begins[count] < put
            is_data = put - name_begins[count] >= 4
            for place in range(4 if is_data else 0):
                is_data &= made[name_begins[count] + place] == _DATA_NAME[place + 2]
            good &= not is_data
            for other in range(count):
                is_same = name_ends[other] - name_begins[other] == put - name_begins[count]
                for place in range(put - name_begins[count] if is_same else 0):
                    is_same &= made[name_begins[other] + place] == made[name_begins[count] + place]
                good &= not is_same
            count += 1
            made[put] = _QUOTE
            made[put + 1] = _COLON
            made[put + 2] = _QUOTE
            put += 3
            made[put : put + length] = headers[value:at]
            put += length
            made[put] = _QUOTE
            put += 1
        good &= count > 0
        if good and type_end:
            made[put : put + len(_DATA_TYPE_NAME)] = _DATA_TYPE_NAME
            put += len(_DATA_TYPE_NAME)
            made[put : put + type_end - type_begin] = headers[type_begin:type_end]
            put += type_end - type_begin
            made[put] = _QUOTE
            put += 1
        if good and begin < end:
            depth = 0
            within_text = False
            place = begin
            while place < end:
                octet = text[place]
                if within_text:
                    place += octet == _BACKSLASH
                    within_text = octet != _QUOTE
                elif octet == _QUOTE:
                    within_text = True
                elif octet in (_OPEN, _OPEN_ARRAY):
                    depth += 1
                elif octet in (_CLOSE, _CLOSE_ARRAY):
                    depth -= 1
                place += 1
                if depth <= 0:
                    break
            good = text[begin] == _OPEN and depth == 0 and place == end
            if good:
                made[put : put + len(_DATA_NAME)] = _DATA_NAME
                put += len(_DATA_NAME)
                made[put : put + end - begin] = text[begin:end]
                put += end - begin
        if good:
            usual[row] = True
            made[put] = _CLOSE
            put += 1
        else:
            put = np.int64(made_bounds[row])
            made[put : put + end - begin] = text[begin:end]
            put += end - begin
        made_bounds[row + 1] = put
