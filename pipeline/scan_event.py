"""Events, byte by byte, as machine code: which have the usual form, and where their parts lie.

`words` are the eight bytes that begin at each place of the text, little-endian. The text ends with
`SENTINEL`, so that nothing runs on behind the last event; what runs into the next event ends there,
and is then found to have passed its own end.

The loop calls nothing that takes columns: handing them over would take longer than the work. What
it calls stands here, because machine code is made anew only when its own file changes.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.decode import EVENT_BYTES_MAX
from pipeline.words import FIRST_BYTES, WORD_BYTES, Words

Bytes: TypeAlias = NDArray[np.uint8]
Places: TypeAlias = NDArray[np.int32]

#: What an event may have, by its column; members of data that meters read come after these.
ATTRIBUTES = (
    b"id",
    b"source",
    b"type",
    b"subject",
    b"time",
    b"data",
    b"specversion",
    b"datacontenttype",
    b"data_base64",
)
ID, SOURCE, TYPE, SUBJECT, TIME, DATA, VERSION, CONTENT_TYPE, BASE64 = range(9)
MEMBERS = len(ATTRIBUTES)

#: What a part is: among others a literal, true, false or null, or what has parts of its own. Where
#: null and arrays lie is not said.
KINDS = 7
ABSENT, TEXT, INTEGER, DECIMAL, LITERAL, OBJECT, ARRAY = range(KINDS)

#: Where attributes stand, and members of data stand in `DATA` or in another member.
EVENT = -1

#: All integers of so many digits fit 64 bits.
DIGITS_MAX = 18

#: A bit of a word each.
_DEPTH_MAX = 60
_WORD_BITS = 64
_EXPONENT_DIGITS_MAX = 3

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _MINUS, _POINT, _ZERO, _NINE, _BLANK = b'",:{}-.09 '
_OPEN_ARRAY, _CLOSE_ARRAY, _BACKSLASH, _PLUS, _E, _SMALL_E, _F, _U = b"[]\\+Eefu"
_ASCII_END = 0x80

_TRUE, _FALSE, _NULL = (
    np.uint64(int.from_bytes(text, "little")) for text in (b"true", b"alse", b"null")
)
_FOUR_BYTES = np.uint64(2**32 - 1)

_ONES = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_BLANKS = np.uint64(0x2020202020202020)
_ONE = np.uint64(1)
_TOP_BYTE = np.uint64(56)
_BYTE = np.uint64(0xFF)
_8, _16, _24 = np.uint64(8), np.uint64(16), np.uint64(24)


@compiled
def _character_bytes(word: np.uint64) -> int:
    """How many bytes the character has that begins a word, and is not ASCII; 0 if it is none.

    Source: The Unicode Standard, table 3-7, well-formed UTF-8 byte sequences.
    """
    first, second = int(word & _BYTE), int(word >> _8 & _BYTE)
    third, fourth = int(word >> _16 & _BYTE), int(word >> _24 & _BYTE)
    lowest, highest = 0x80, 0xBF
    if first == 0xE0:
        lowest = 0xA0
    elif first == 0xED:
        highest = 0x9F
    elif first == 0xF0:
        lowest = 0x90
    elif first == 0xF4:
        highest = 0x8F
    if first < 0xC2 or first > 0xF4 or second < lowest or second > highest:
        return 0
    if first < 0xE0:
        return 2
    if third < 0x80 or third > 0xBF:
        return 0
    if first < 0xF0:
        return 3
    return 4 if 0x80 <= fourth <= 0xBF else 0


@compiled
def _escape_bytes(word: np.uint64) -> int:
    """How many bytes the escape has that begins a word; 0 if it is none, or half a character."""
    escaped = word >> _8 & _BYTE
    if escaped != _U:
        return 2 if escaped in (34, 92, 47, 98, 102, 110, 114, 116) else 0  # "\\/bfnrt
    code = 0
    for place in range(2, 6):
        digit = int(word >> np.uint64(8 * place) & _BYTE)
        if 48 <= digit <= 57:
            digit -= 48
        elif 65 <= digit <= 70:
            digit -= 55
        elif 97 <= digit <= 102:
            digit -= 87
        else:
            return 0
        code = code * 16 + digit
    return 0 if 0xD800 <= code <= 0xDFFF else 6


@compiled
def scan_events(
    text: Bytes,
    words: Words,
    bounds: Places,
    names: Bytes,
    name_bounds: NDArray[np.int64],
    name_words: Words,
    parents: NDArray[np.int64],
    usual: NDArray[np.bool_],
    kinds: Bytes,
    begins: Places,
    ends: Places,
    integers: NDArray[np.int64],
) -> None:
    """Fill the last five columns: whether each event has the usual form, and where its parts lie.

    `names` are those of `ATTRIBUTES` and of members, `name_bounds` where each begins and the last
    one ends, `name_words` their first eight bytes, `parents` the number of what each stands in.
    Shapes: `usual` (n,); `kinds`, `begins`, `ends` and `integers` (names, n), all zeros.
    """
    namesakes = np.zeros(_DEPTH_MAX + 1, dtype=np.uint64)
    for row in range(len(usual)):
        at, end = bounds[row], bounds[row + 1]
        if at == end or end - at > EVENT_BYTES_MAX or text[at] != _OPEN:
            continue
        # Of what is being read: its number if it has one, how deep it lies in the event, and within
        # what that has a number. So many of the levels have none; a bit each says which are arrays.
        number = -1
        depth = 0
        inside = EVENT
        levels = 0
        arrays = np.uint64(0)
        is_value = False
        at += 1
        while True:
            while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                at += 1
            if text[at] == _QUOTE:
                # A text, up to its quote; eight bytes at a time, of which the lowest is found
                # exactly that is a quote, a backslash, a control character, or not ASCII.
                # Formula: H. S. Warren, "Hacker's Delight" (2013), section 6-1.
                begin = at + 1
                at = begin
                while True:
                    eight = words[at]
                    quotes = eight ^ _QUOTES
                    backslashes = eight ^ _BACKSLASHES
                    found = (
                        eight
                        | ((quotes - _ONES) & ~quotes)
                        | ((backslashes - _ONES) & ~backslashes)
                        | ((eight - _BLANKS) & ~eight)
                    ) & _HIGH_BITS
                    if found == 0:
                        at += WORD_BYTES
                        continue
                    lowest = found & (~found + _ONE)
                    at += np.int64((((lowest - _ONE) & _ONES) * _ONES) >> _TOP_BYTE) - 1
                    if text[at] == _QUOTE:
                        break
                    size = 0
                    if text[at] >= _ASCII_END:
                        size = _character_bytes(words[at])
                    elif text[at] == _BACKSLASH and is_value and number < 0:
                        # Whoever reads a text would have to resolve what is escaped.
                        size = _escape_bytes(words[at])
                    if size == 0 or at >= end:
                        break
                    at += size
                length = at - begin
                if at >= end or text[at] != _QUOTE:
                    break
                at += 1
                if not is_value:
                    # The name of an attribute or a member: which one is it?
                    number = -1
                    namesake = -1
                    first = words[begin] & FIRST_BYTES[min(length, WORD_BYTES)]
                    known, known_end = 0, MEMBERS
                    if inside != EVENT:
                        known, known_end = MEMBERS, len(name_words)
                    elif levels:
                        known_end = 0
                    while known < known_end:
                        place = name_bounds[known]
                        if name_words[known] == first and name_bounds[known + 1] - place == length:
                            rest = WORD_BYTES
                            while rest < length and text[begin + rest] == names[place + rest]:
                                rest += 1
                            if rest >= length:
                                if levels == 0 and parents[known] == inside:
                                    number = known
                                    break
                                if namesake < 0:
                                    namesake = known
                        known += 1
                    # A name that is read somewhere must not stand twice in any object.
                    if number >= 0:
                        if kinds[number, row] != ABSENT:
                            break
                    elif namesake >= 0:
                        bit = _ONE << np.uint64(namesake - MEMBERS)
                        if namesake - MEMBERS >= _WORD_BITS or namesakes[depth] & bit != 0:
                            break
                        namesakes[depth] |= bit
                    while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                        at += 1
                    if text[at] != _COLON:
                        break
                    at += 1
                    is_value = True
                    continue
                if number >= 0:
                    kinds[number, row] = TEXT
                    begins[number, row] = begin
                    ends[number, row] = begin + length
            elif not is_value or (0 <= number < MEMBERS and number != DATA):
                break
            elif text[at] == _OPEN or text[at] == _OPEN_ARRAY:
                if depth == _DEPTH_MAX:
                    break
                depth += 1
                namesakes[depth] = 0
                is_array = text[at] == _OPEN_ARRAY
                if number >= 0:
                    kinds[number, row] = ARRAY if is_array else OBJECT
                if number >= 0 and not is_array:
                    begins[number, row] = at
                    inside = number
                else:
                    levels += 1
                    arrays = arrays << _ONE | np.uint64(is_array)
                    number = -1
                at += 1
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
                is_value = is_array
                if text[at] != (_CLOSE_ARRAY if is_array else _CLOSE):
                    continue
            elif number == DATA:
                break
            elif text[at] == _MINUS or _ZERO <= text[at] <= _NINE:
                begin = at
                integer = 0
                negative = text[at] == _MINUS
                at += negative
                first_digit = at
                while _ZERO <= text[at] <= _NINE:
                    integer = integer * 10 + int(text[at]) - _ZERO
                    at += 1
                digits = at - first_digit
                # 007 is no number.
                if digits < 1 or digits > DIGITS_MAX or (text[first_digit] == _ZERO and digits > 1):
                    break
                kind = INTEGER
                if text[at] == _POINT:
                    kind = DECIMAL
                    at += 1
                    first_digit = at
                    while _ZERO <= text[at] <= _NINE:
                        at += 1
                    if at == first_digit or at - first_digit > DIGITS_MAX:
                        break
                if number < 0 and (text[at] == _SMALL_E or text[at] == _E):
                    at += 1
                    at += text[at] == _MINUS or text[at] == _PLUS
                    first_digit = at
                    while _ZERO <= text[at] <= _NINE:
                        at += 1
                    if at == first_digit or at - first_digit > _EXPONENT_DIGITS_MAX:
                        break
                if number >= 0:
                    # -0 is no integer to every reader.
                    if negative and integer == 0 and kind == INTEGER:
                        break
                    kinds[number, row] = kind
                    begins[number, row] = begin
                    ends[number, row] = at
                    integers[number, row] = -integer if negative else integer
            else:
                begin = at
                four = words[at] & _FOUR_BYTES
                at += 4
                if four != _TRUE and four != _NULL:
                    if words[begin + 1] & _FOUR_BYTES != _FALSE or text[begin] != _F:
                        break
                    at += 1
                if number >= 0:
                    kinds[number, row] = LITERAL
                    if four != _NULL:
                        begins[number, row] = begin
                        ends[number, row] = at
            # Behind a value: what ends with it, and whether a name or a value comes next.
            while True:
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
                is_value = levels > 0 and arrays & _ONE != 0
                if text[at] != (_CLOSE_ARRAY if is_value else _CLOSE) or at >= end:
                    break
                at += 1
                depth -= 1
                if levels:
                    levels -= 1
                    arrays = arrays >> _ONE
                elif inside == EVENT:
                    while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                        at += 1
                    usual[row] = at == end
                    break
                else:
                    ends[inside, row] = at
                    inside = parents[inside]
            if depth < 0 or text[at] != _COMMA:
                break
            at += 1
            number = -1
