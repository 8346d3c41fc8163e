"""Events, byte by byte, as machine code: which have the usual form, and where their parts lie.

`words` are the eight bytes that begin at each place of the text, little-endian. The text ends with
`SENTINEL`, so that nothing runs on behind the last event; what runs into the next event ends there,
and is then found to have passed its own end.

Both loops call nothing that takes columns: handing them over would take longer than the work.
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

#: What a part is.
ABSENT, TEXT, INTEGER, DECIMAL, OBJECT = range(5)

#: All integers of so many digits fit 64 bits.
_DIGITS_MAX = 18

_QUOTE, _COMMA, _COLON, _OPEN, _CLOSE, _MINUS, _POINT, _ZERO, _NINE, _BLANK = b'",:{}-.09 '
_T, _Z = b"TZ"

_ONES = np.uint64(0x0101010101010101)
_HIGH_BITS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_BLANKS = np.uint64(0x2020202020202020)
_ONE = np.uint64(1)
_TOP_BYTE = np.uint64(56)

_SECONDS_LENGTH = len("2026-11-20T09:30:00")
_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_YEAR_LAST = 2261
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_TENS = np.array([10**exponent for exponent in range(10)])


@compiled
def scan_events(
    text: Bytes,
    words: Words,
    bounds: Places,
    names: Bytes,
    name_bounds: NDArray[np.int64],
    name_words: Words,
    usual: NDArray[np.bool_],
    kinds: Bytes,
    begins: Places,
    ends: Places,
    integers: NDArray[np.int64],
) -> None:
    """Fill the last five columns: whether each event has the usual form, and where its parts lie.

    `names` are those of `ATTRIBUTES` and of members, `name_bounds` where each begins and the last
    one ends, `name_words` their first eight bytes. Shapes: `usual` (n,); `kinds`, `begins`, `ends`
    and `integers` (names, n), all zeros.
    """
    for row in range(len(usual)):
        at, end = bounds[row], bounds[row + 1]
        if at == end or end - at > EVENT_BYTES_MAX or text[at] != _OPEN:
            continue
        number = -1
        within_data = False
        is_value = False
        at += 1
        while True:
            while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                at += 1
            if text[at] != _QUOTE:
                break
            # A text, up to its quote; eight bytes at a time, of which the lowest is found exactly
            # that is a quote, a backslash, a control character, or not ASCII.
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
                if found != 0:
                    lowest = found & (~found + _ONE)
                    at += np.int64((((lowest - _ONE) & _ONES) * _ONES) >> _TOP_BYTE) - 1
                    break
                at += WORD_BYTES
            length = at - begin
            if at >= end or text[at] != _QUOTE:
                break
            at += 1
            if is_value:
                is_value = False
                if number >= 0:
                    kinds[number, row] = TEXT
                    begins[number, row] = begin
                    ends[number, row] = begin + length
            else:
                # The name of an attribute or a member: which one is it?
                number = -1
                first = words[begin] & FIRST_BYTES[min(length, WORD_BYTES)]
                for known in range(
                    MEMBERS if within_data else 0, len(name_words) if within_data else MEMBERS
                ):
                    place = name_bounds[known]
                    if name_words[known] == first and name_bounds[known + 1] - place == length:
                        rest = WORD_BYTES
                        while rest < length and text[begin + rest] == names[place + rest]:
                            rest += 1
                        if rest >= length:
                            number = known
                            break
                if number >= 0 and kinds[number, row] != ABSENT:
                    break
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
                if text[at] != _COLON:
                    break
                at += 1
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
                if text[at] == _QUOTE:
                    is_value = True
                    continue
                if not within_data:
                    if number != DATA or text[at] != _OPEN:
                        break
                    within_data = True
                    kinds[DATA, row] = OBJECT
                    begins[DATA, row] = at
                    at += 1
                    while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                        at += 1
                    if text[at] != _CLOSE:
                        continue
                else:
                    begin = at
                    integer = 0
                    negative = text[at] == _MINUS
                    at += negative
                    first_digit = at
                    while _ZERO <= text[at] <= _NINE:
                        integer = integer * 10 + int(text[at]) - _ZERO
                        at += 1
                    digits = at - first_digit
                    # -0 is no integer to every reader, and 007 is none to any.
                    if digits < 1 or digits > _DIGITS_MAX:
                        break
                    if text[first_digit] == _ZERO and (digits > 1 or negative):
                        break
                    kind = INTEGER
                    if text[at] == _POINT:
                        kind = DECIMAL
                        at += 1
                        first_digit = at
                        while _ZERO <= text[at] <= _NINE:
                            at += 1
                        if at == first_digit or at - first_digit > _DIGITS_MAX:
                            break
                    if number >= 0:
                        kinds[number, row] = kind
                        begins[number, row] = begin
                        ends[number, row] = at
                        integers[number, row] = -integer if negative else integer
            while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                at += 1
            if within_data and text[at] == _CLOSE:
                at += 1
                within_data = False
                ends[DATA, row] = at
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
            if text[at] == _COMMA:
                at += 1
                continue
            if text[at] == _CLOSE and not within_data:
                at += 1
                while text[at] <= _BLANK and text[at] in (32, 10, 13, 9):
                    at += 1
                usual[row] = at == end
            break


@compiled
def read_times(text: Bytes, begins: Places, ends: Places, instants: NDArray[np.int64]) -> None:
    """Nanoseconds since 1970 of times in UTC; negative for what is not written in the usual way."""
    for row in range(len(instants)):
        at, end = begins[row], ends[row]
        places = end - at - _SECONDS_LENGTH - 2
        instants[row] = -1
        if places < -1 or places == 0 or places > 9 or text[end - 1] != _Z:
            continue
        usual = (
            text[at + 4] == _MINUS
            and text[at + 7] == _MINUS
            and text[at + 10] == _T
            and text[at + 13] == _COLON
            and text[at + 16] == _COLON
            and (places < 0 or text[at + _SECONDS_LENGTH] == _POINT)
        )
        for place in _DIGITS:
            usual &= _ZERO <= text[at + place] <= _NINE
        fraction = 0
        for place in range(at + _SECONDS_LENGTH + 1, end - 1):
            usual &= _ZERO <= text[place] <= _NINE
            fraction = fraction * 10 + int(text[place]) - _ZERO
        century = np.int64(text[at]) * 10 + text[at + 1] - 11 * _ZERO
        year = century * 100 + np.int64(text[at + 2]) * 10 + text[at + 3] - 11 * _ZERO
        month = np.int64(text[at + 5]) * 10 + text[at + 6] - 11 * _ZERO
        day = np.int64(text[at + 8]) * 10 + text[at + 9] - 11 * _ZERO
        hour = np.int64(text[at + 11]) * 10 + text[at + 12] - 11 * _ZERO
        minute = np.int64(text[at + 14]) * 10 + text[at + 15] - 11 * _ZERO
        second = np.int64(text[at + 17]) * 10 + text[at + 18] - 11 * _ZERO
        usual &= 1970 <= year <= _YEAR_LAST and 1 <= month <= 12
        usual &= hour < 24 and minute < 60 and second < 60
        if not usual:
            continue
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if day < 1 or day > _MONTH_DAYS[month] + (leap and month == 2):
            continue
        # Formula: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
        since_march = year - (month <= 2)
        year_of_era = since_march % 400
        day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
        day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
        days = since_march // 400 * 146_097 + day_of_era - 719_468
        seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
        instants[row] = seconds * 1_000_000_000 + fraction * _TENS[9 - max(places, 0)]
