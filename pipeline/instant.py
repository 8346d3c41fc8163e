"""RFC 3339 times as integers of nanoseconds since 1970, a whole column at once.

Nearly all services write one of a few shapes (`2026-11-20T09:30:00[.fraction]Z`), which numpy
parses as a matrix of bytes; anything else takes the slow path, one by one. Digits beyond
nanoseconds are cut off. Times outside 1970-01-01 .. 2262-04-11 have no place in the column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

#: Marks a time that is not RFC 3339 or out of range.
INVALID = np.iinfo(np.int64).min

#: 2262-04-11T00:00:00Z, the last whole day whose nanoseconds fit 64 bits.
LAST_NS = 106_751 * 86_400 * 10**9

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_PLAIN_LENGTH = len("2026-11-20T09:30:00Z")
_PLAIN_LENGTH_MAX = len("2026-11-20T09:30:00.123456789Z")
_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_SEPARATORS = ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":"))
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)


def parse_instant(text: str) -> int | None:
    """Nanoseconds since 1970 of one RFC 3339 time, None when it is not one or out of range."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, zulu, sign, offset_hours, offset_minutes = match.groups()[6:]
    zone: timezone = UTC
    if not zulu:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            return None
        offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
        zone = timezone(-offset if sign == "-" else offset)
    try:
        since = datetime(year, month, day, hour, minute, second, tzinfo=zone) - _EPOCH
    except (ValueError, OverflowError):
        return None
    whole = (since.days * 86_400 + since.seconds) * 10**9
    instant = whole + int((fraction or "0")[:9].ljust(9, "0"))
    return instant if 0 <= instant < LAST_NS else None


def parse_instants(texts: Sequence[str]) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of each text, `INVALID` where it is not a time. Shape (n,)."""
    instants = np.full(len(texts), INVALID, dtype=np.int64)
    # Not numpy's own lengths: it drops trailing NULs, and a time with a NUL is not a time.
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    try:
        # Of a fixed width, or one long text would make every row of the matrix as long.
        matrix = np.array(texts, dtype=f"S{_PLAIN_LENGTH_MAX}")
    except UnicodeEncodeError:
        matrix = None
    done = np.zeros(len(texts), dtype=bool)
    if matrix is not None:
        rows = matrix.view(np.uint8).reshape(len(texts), _PLAIN_LENGTH_MAX)
        for length in np.unique(lengths):
            if _PLAIN_LENGTH <= length <= _PLAIN_LENGTH_MAX and length != _PLAIN_LENGTH + 1:
                at = np.flatnonzero(lengths == length)
                parsed, ok = _parse_rows(rows[at, :length])
                instants[at[ok]] = parsed[ok]
                done[at[ok]] = True
    for index in np.flatnonzero(~done).tolist():
        instant = parse_instant(texts[index])
        if instant is not None:
            instants[index] = instant
    return instants


def _parse_rows(rows: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of one length, shape (n, length): nanoseconds, and which rows had the plain shape."""
    fraction_digits = rows.shape[1] - _PLAIN_LENGTH - 1
    digit_columns = list(_DIGITS)
    ok = rows[:, -1] == ord("Z")
    for column, separator in _SEPARATORS:
        ok &= rows[:, column] == ord(separator)
    if fraction_digits > 0:
        ok &= rows[:, 19] == ord(".")
        digit_columns += range(20, 20 + fraction_digits)
    digits = (rows[:, digit_columns] - ord("0")).astype(np.int64)
    ok &= (digits <= 9).all(axis=1)
    year = digits[:, 0] * 1000 + digits[:, 1] * 100 + digits[:, 2] * 10 + digits[:, 3]
    month, day, hour, minute, second = (
        digits[:, column] * 10 + digits[:, column + 1] for column in (4, 6, 8, 10, 12)
    )
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month_days = _MONTH_DAYS[np.where(month <= 12, month, 0)] + (leap & (month == 2))
    ok &= (year >= 1970) & (year < 2262) & (month >= 1) & (day >= 1) & (day <= month_days)
    ok &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    nanos = np.zeros(len(rows), dtype=np.int64)
    for column in range(14, 14 + max(fraction_digits, 0)):
        nanos = nanos * 10 + digits[:, column]
    return seconds * 10**9 + nanos * 10 ** (9 - max(fraction_digits, 0)), ok


def days_from_civil(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Days since 1970-01-01 in the proleptic Gregorian calendar.

    Formula: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year = year - (month <= 2)
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days: NDArray[np.int64] = era * 146_097 + day_of_era - 719_468
    return days
