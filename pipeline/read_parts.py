"""Times and quantities of events, straight from where they lie: columns, as machine code.

What is not written in the usual way is only said to be so, and left to whoever reads it alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled
from pipeline.scan_event import DIGITS_MAX, Bytes, Places
from schemas.quantity import PLACES

_MINUS, _PLUS, _POINT, _COLON, _ZERO, _NINE, _T, _Z = b"-+.:09TZ"

_SECONDS_LENGTH = len("2026-11-20T09:30:00")
_OFFSET_LENGTH = len("+01:00")
_OFFSET_DIGITS = np.array([1, 2, 4, 5])
_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_YEAR_LAST = 2261
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_TENS = np.array([10**exponent for exponent in range(10)])


@compiled
def read_times(text: Bytes, begins: Places, ends: Places, instants: NDArray[np.int64]) -> None:
    """Nanoseconds since 1970 of times; negative for what is not written in the usual way."""
    for row in range(len(instants)):
        at, end = begins[row], ends[row]
        instants[row] = -1
        if end - at <= _SECONDS_LENGTH:
            continue
        offset = 0
        if text[end - 1] == _Z:
            end -= 1
        elif end - at < _SECONDS_LENGTH + _OFFSET_LENGTH:
            continue
        else:
            end -= _OFFSET_LENGTH
            hours = np.int64(text[end + 1]) * 10 + text[end + 2] - 11 * _ZERO
            minutes = np.int64(text[end + 4]) * 10 + text[end + 5] - 11 * _ZERO
            is_offset = text[end + 3] == _COLON and (text[end] == _PLUS or text[end] == _MINUS)
            for place in _OFFSET_DIGITS:
                is_offset &= _ZERO <= text[end + place] <= _NINE
            if not is_offset or hours > 23 or minutes > 59:
                continue
            offset = (hours * 60 + minutes) * (60 if text[end] == _PLUS else -60)
        places = end - at - _SECONDS_LENGTH - 1
        if places == 0 or places > 9:
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
        for place in range(at + _SECONDS_LENGTH + 1, end):
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
        seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset
        instants[row] = seconds * 1_000_000_000 + fraction * _TENS[9 - max(places, 0)]


@compiled
def read_quantities(
    text: Bytes,
    begins: Places,
    ends: Places,
    mantissas: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Decimals, as numbers or texts: a mantissa over as many places as it needs.

    Places are negative for what is not written in the usual way, or has more digits than are read.
    """
    for row in range(len(mantissas)):
        at, end = begins[row], ends[row]
        places[row] = -1
        negative = at < end and text[at] == _MINUS
        at += negative
        mantissa = 0
        digits = point = last_digit = 0
        for place in range(at, end):
            octet = text[place]
            if octet == _POINT and not point and place > at and place < end - 1:
                point = place
            elif _ZERO <= octet <= _NINE and digits < DIGITS_MAX:
                digits += 1
                mantissa = mantissa * 10 + int(octet) - _ZERO
                if octet != _ZERO:
                    last_digit = place
            else:
                digits = 0
                break
        if digits == 0:
            continue
        needed = 0
        if point:
            needed = max(last_digit - point, 0)
            for _ in range(end - 1 - point - needed):
                mantissa //= 10
        if needed > PLACES:
            continue
        mantissas[row] = -mantissa if negative else mantissa
        places[row] = needed
